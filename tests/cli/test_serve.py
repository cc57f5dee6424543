"""`quernel serve`: what it opens, what it says, and in which order."""

import json
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from quernel.cli.composition import LoadSettings, ModelChoice
from quernel.errors import ModelLoadError
from quernel.server.config import ServerConfig
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from tests.cli.conftest import Run
from tests.support.checkpoints import make_checkpoint


@pytest.fixture
def opened(monkeypatch):
    """What was opened and closed, in order; nothing is served."""
    events = []

    def open_model(choice, engine):
        events.append(choice)
        is_reranker = choice.kind == "reranker"
        model = FakeRerankModel(choice.model or "rr") if is_reranker else FakeEmbeddingModel(choice.model or "em")
        model.budget = "batches of up to 7 tokens"
        model.close = lambda: events.append("closed")
        return model

    def run(app, config, *, listener):
        events.append((config, app.state.served.models.infos, listener.getsockname()[1]))

    monkeypatch.setattr("quernel.cli.serve.open_model", open_model)
    monkeypatch.setattr("quernel.server.serve.run", run)
    return events


LOAD = LoadSettings()


def test_without_models_the_built_in_pair_is_served_and_closed(run: Run, opened):
    result = run("serve", "--port", 0, "--dtype", "float32")
    assert result.exit_code == 0, result.stderr
    load = LoadSettings(dtype="float32")
    assert opened[:2] == [ModelChoice(None, "embedding", load), ModelChoice(None, "reranker", load)]
    assert opened[2][0] == ServerConfig(port=0)
    assert [info.name for info in opened[2][1]] == ["em", "rr"]
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
    assert [line.split()[:2] for line in result.stderr.splitlines()[1:3]] == [["em", "embedding"], ["rr", "reranker"]]


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


def test_when_the_second_model_fails_the_first_is_closed(run: Run, opened, monkeypatch):
    from quernel.cli import serve

    works = serve.open_model

    def open_model(choice, engine):
        if choice.kind == "reranker":
            raise ModelLoadError("Broken.")
        return works(choice, engine)

    monkeypatch.setattr(serve, "open_model", open_model)
    result = run("serve", "-p", 0)
    assert result.exit_code == 1
    assert result.stderr == "error: Broken.\n"
    assert opened[1:] == ["closed"]


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
