# Each target does its own set-up in .venv, with the versions in constraints.txt, and nothing else is needed.
PYTHON ?= python3
VENV ?= .venv
PORT ?= 1234
BIN := $(VENV)/bin
INSTALL := $(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt

.PHONY: serve test check bench bench-gpu example docs constraints clean

serve: $(VENV)/.runs  ## serve the built-in models on http://127.0.0.1:1234 (MODEL="..." PORT=...)
	$(BIN)/quernel serve --port $(PORT) $(if $(MODEL),--model $(MODEL))

test: $(VENV)/.tests  ## run the tests, in two processes (ARGS="-k embed")
	OMP_WAIT_POLICY=PASSIVE $(BIN)/pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(VENV)/.checks  ## lint, types, import layers, generated documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/generate_reference.py --check
	$(BIN)/python docs/generate_dashboard.py --check

example: $(VENV)/.tests  ## search a small collection with and without reranking (DATA=folder for your own)
	$(BIN)/python examples/search.py $(if $(DATA),--data $(DATA))

bench: $(VENV)/.tests  ## compare with other systems on this machine (ARGS="--layers 7 --workloads W1"); takes hours
	$(INSTALL) --group peers
	$(BIN)/python benchmarks/peers.py --json peers.json $(ARGS)
	$(BIN)/python benchmarks/peers_plot.py peers.json peers.svg

bench-gpu: $(VENV)/.tests  ## measure random models of the official sizes on a CUDA device (ARGS="--models 0.6B")
	$(BIN)/python benchmarks/gpu.py $(ARGS)

docs: $(VENV)/.tests  ## write the generated parts of the documentation
	$(BIN)/python docs/generate_reference.py
	$(BIN)/python docs/generate_dashboard.py

constraints: $(VENV)/.checks  ## rewrite constraints.txt from what is installed
	$(BIN)/pip freeze --exclude-editable | sed 's/+cpu$$//' | LC_ALL=C sort -f > constraints.txt

clean:  ## remove the virtual environment and caches
	rm -rf $(VENV) build .pytest_cache .mypy_cache .ruff_cache .hypothesis

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) --upgrade 'pip>=25.1'

$(VENV)/.runs: $(BIN)/python pyproject.toml constraints.txt
	$(INSTALL) --editable .
	@touch $@

$(VENV)/.tests: $(VENV)/.runs
	$(INSTALL) --editable . --group test
	@touch $@

$(VENV)/.checks: $(VENV)/.tests
	$(INSTALL) --group check --group clients
	$(PYTHON) -m venv $(VENV)/langchain-cohere
	$(VENV)/langchain-cohere/bin/pip install --quiet --disable-pip-version-check langchain-cohere
	@touch $@
