"""`quernel serve`: what it opens, what it says, and in which order."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import urllib.request
from contextlib import nullcontext

import pytest

from quernel.cli.composition import LoadSettings, ModelChoice
from quernel.errors import ModelLoadError
from quernel.protocols.openai import ModelStatus
from quernel.server.config import ServerConfig
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from tests.cli.conftest import Run
from tests.support.checkpoints import make_checkpoint


@pytest.fixture
def opened(monkeypatch):
    """What was opened and closed, in order. The application lives until its models are through; nothing is served."""
    events = []

    def open_model(choice, engine, process=None):
        events.append(choice)
        is_reranker = "rerank" in choice.model
        if choice.model.startswith("broken"):
            raise ModelLoadError(f"{choice.model} is broken.")
        model = FakeRerankModel(choice.model) if is_reranker else FakeEmbeddingModel(choice.model)
        model.budget = "batches of up to 7 tokens"
        model.close = lambda: events.append("closed")
        return model

    def run(app, config, *, listener, stop):
        async def live():
            async with app.router.lifespan_context(app):
                while any(place.status is ModelStatus.LOADING for place in app.state.served.models):
                    await asyncio.sleep(0.001)
                await asyncio.sleep(0.01)
                port = listener.getsockname()[1]
                events.append((config, [place.name for place in app.state.served.models], port))

        asyncio.run(live())

    monkeypatch.setattr("quernel.cli.serve.open_model", open_model)
    monkeypatch.setattr("quernel.engine.process.EngineProcess", nullcontext)
    monkeypatch.setattr("quernel.server.serve.run", run)
    return events


LOAD = LoadSettings()


def test_without_models_the_built_in_pair_is_served_and_closed(run: Run, opened):
    result = run("serve", "--port", 0, "--dtype", "float32")
    assert result.exit_code == 0, result.stderr
    load = LoadSettings(dtype="float32")
    assert opened[:2] == [
        ModelChoice("quernel/tiny-embedding", "embedding", load),
        ModelChoice("quernel/tiny-reranker", "reranker", load),
    ]
    assert opened[2][:2] == (ServerConfig(port=0), ["quernel/tiny-embedding", "quernel/tiny-reranker"])
    assert opened[3:] == ["closed", "closed"]


def test_flags_win_over_the_variable_and_the_variable_over_the_file(run: Run, opened, tmp_path):
    path = tmp_path / "quernel.toml"
    path.write_text('model = "a"\n[[models]]\nmodel = "b"\nkind = "reranker"\n[server]\nport = 0\n')
    assert run("serve", "--config", path).exit_code == 0
    assert opened[:2] == [ModelChoice("a", None, LOAD), ModelChoice("b", "reranker", LOAD)]
    opened.clear()
    run("serve", "--config", path, env={"QUERNEL_MODELS": "c reranker=d"})
    assert opened[:2] == [ModelChoice("c", None, LOAD), ModelChoice("d", "reranker", LOAD)]
    opened.clear()
    run("serve", "--config", path, "-m", "e", env={"QUERNEL_MODELS": "c d"})
    assert opened[0] == ModelChoice("e", None, LOAD)
    assert opened[2] == "closed"


def test_the_banner_is_on_stderr_and_says_how_to_try_it(run: Run, opened):
    result = run("serve", "-p", 0)
    port = opened[2][2]
    assert result.stdout == ""
    assert f"Ready at http://127.0.0.1:{port}" in result.stderr
    assert f"curl http://127.0.0.1:{port}/v1/embeddings" in result.stderr
    assert [line.split()[:2] for line in result.stderr.splitlines()[1:3]] == [
        ["quernel/tiny-embedding", "embedding"],
        ["quernel/tiny-reranker", "reranker"],
    ]


def test_json_says_on_stdout_when_it_is_ready(run: Run, opened):
    result = run("serve", "-p", 0, "--json", "--quiet")
    assert result.stderr == ""
    line = json.loads(result.stdout)
    assert line["url"] == f"http://127.0.0.1:{opened[2][2]}"
    assert [model["kind"] for model in line["models"]] == ["embedding", "reranker"]


def test_a_busy_port_is_told_before_a_model_is_opened(run: Run, opened):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        result = run("serve", "--port", port)
    assert result.exit_code == 2
    assert f"error: 127.0.0.1:{port} is in use." in result.stderr
    assert opened == []


def test_a_wrong_option_of_a_model_is_told_before_a_model_is_opened(run: Run, opened, tmp_path):
    path = tmp_path / "quernel.toml"
    path.write_text('model = "a"\n[[models]]\nmodel = "b"\ndtyp = "float32"\n')
    result = run("serve", "-p", 0, "--config", path)
    assert result.exit_code == 2
    assert "Did you mean 'dtype'?" in result.stderr
    assert opened == []


def test_when_one_of_two_models_fails_the_other_is_served_and_the_banner_says_why(run: Run, opened):
    result = run("serve", "-p", 0, "-m", "broken/one", "-m", "a/rerank")
    assert result.exit_code == 0
    assert "broken/one could not be loaded: broken/one is broken." in result.stderr
    assert "/v1/rerank" in result.stderr
    assert opened[-1] == "closed"


def test_when_no_model_can_be_loaded_the_first_error_is_that_of_the_command(run: Run, opened):
    result = run("serve", "-p", 0, "-m", "broken/one", "-m", "broken/two")
    assert result.exit_code == 1
    assert "error: broken/one is broken." in result.stderr
    assert "Ready" not in result.stderr


def test_aliases_and_an_instruction_for_all_models(run: Run, opened, monkeypatch):
    seen = {}
    from quernel.server import app as server_app

    create_app = server_app.create_app

    def spy(**options):
        seen.update(options)
        return create_app(**options)

    monkeypatch.setattr(server_app, "create_app", spy)
    arguments = ["-m", "a/b", "-m", "c/rerank", "--alias", "ada=a/b", "--alias", "best=a/b", "--instruction", "Find it"]
    assert run("serve", "-p", 0, *arguments).exit_code == 0
    first, second = seen["specs"]
    assert (first.aliases, second.aliases) == (("ada", "best"), ())
    assert first.defaults.instruction == second.defaults.instruction == "Find it"


@pytest.mark.parametrize("alias", ["ada", "ada=", "=a/b", "ada=other"])
def test_an_alias_of_no_model_is_refused(run: Run, opened, alias):
    result = run("serve", "-p", 0, "-m", "a/b", "--alias", alias)
    assert result.exit_code == 2
    assert "names no model that is served" in result.stderr
    assert opened == []


SELECTOR = {"embed-qwen3": {"Embedding": {"model_id": "Qwen/Qwen3-Embedding-0.6B", "arch": "qwen3embedding"}}}


def test_the_json_selector_of_mistralrs_is_taken_as_it_is(run: Run, opened, tmp_path):
    path = tmp_path / "models.json"
    path.write_text(json.dumps(SELECTOR))
    result = run("serve", "-p", 0, "--config", path)
    assert result.exit_code == 0, result.stderr
    assert opened[0] == ModelChoice("Qwen/Qwen3-Embedding-0.6B", None, LoadSettings(dtype="auto"))
    assert opened[1][1] == ["Qwen/Qwen3-Embedding-0.6B"]


MISTRALRS_TOML = """
command = "serve"
default_model_id = "b/second"
[server]
port = 0
no_ui = true
[runtime]
max_seqs = 32
[[models]]
kind = "embedding"
model_id = "a/first"
dtype = "bf16"
[models.device]
cpu = true
max_seq_len = 4096
[[models]]
kind = "auto"
model_id = "b/second"
"""


def test_the_toml_of_mistralrs_is_taken_and_what_means_nothing_here_is_named(run: Run, opened, tmp_path):
    path = tmp_path / "mistralrs.toml"
    path.write_text(MISTRALRS_TOML)
    result = run("serve", "--config", path)
    assert result.exit_code == 0, result.stderr
    second = LoadSettings(dtype="auto")
    first = LoadSettings(dtype="bfloat16", device="cpu", max_tokens=4096)
    assert opened[:2] == [ModelChoice("b/second", None, second), ModelChoice("a/first", "embedding", first)]
    assert opened[2][0].port == 0
    for key in ("server.no_ui", "runtime.max_seqs"):
        assert f"{key} is ignored" in result.stderr


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"x": {"Plain": {"model_id": "m"}}}, "is of kind Plain"),
        ({"x": {"Embedding": {"model_id": "m", "arch": "embeddinggemma"}}}, "arch is 'embeddinggemma'"),
        ({"x": {"Embedding": {"arch": "qwen3embedding"}}}, "model_id is None"),
        ({"x": {"Embedding": {"model_id": "m", "dtype": "q4"}}}, "dtype is 'q4'"),
        ({"x": {"Embedding": {"model_id": "m", "tokenizer_json": "t"}}}, "tokenizer_json is set"),
    ],
)
def test_what_mistralrs_has_and_we_do_not_is_refused(run: Run, opened, tmp_path, content, says):
    path = tmp_path / "models.json"
    path.write_text(json.dumps(content))
    result = run("serve", "-p", 0, "--config", path)
    assert result.exit_code == 2
    assert says in result.stderr
    assert opened == []


def test_a_real_server_answers_and_stops_when_told(tmp_path):
    make_checkpoint(tmp_path / "model")
    arguments = ["serve", "-m", f"embedding={tmp_path / 'model'}", "-p", "0", "--json", "--quiet", "--no-access-log"]
    code = f"from quernel.cli.main import cli; cli({arguments})"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        try:
            url = json.loads(process.stdout.readline())["url"]
            request = urllib.request.Request(f"{url}/v1/embeddings", b'{"input": "hello"}')
            request.add_header("content-type", "application/json")
            with urllib.request.urlopen(request, timeout=30) as response:
                assert len(json.load(response)["data"]) == 1
        finally:
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert (process.returncode, out, err) == (0, b"", b"")
