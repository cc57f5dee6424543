"""Every snippet of the guide runs as it is printed, against a server on another port."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from quernel.server.app import create_app
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel

PRINTED = "http://127.0.0.1:1234"
GUIDE = (Path(__file__).parents[2] / "docs/guides/serve.md").read_text(encoding="utf-8")


def snippets(language):
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture(scope="module")
def url():
    with running(create_app([FakeEmbeddingModel(), FakeRerankModel()])) as url:
        yield url


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("snippet", snippets("sh"))
def test_curl_commands_of_the_guide_are_answered(url, snippet):
    for command in re.split(r"\n(?=curl )", snippet.strip()):
        ran = subprocess.run(
            command.replace("curl ", "curl --silent --show-error --fail ", 1).replace(PRINTED, url),
            shell=True,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
        )
        assert "error" not in json.loads(ran.stdout)


@pytest.mark.parametrize("snippet", snippets("python"))
def test_python_of_the_guide_runs(url, snippet, capsys):
    names = {}
    exec(compile(snippet.replace(PRINTED, url), "serve.md", "exec"), names)
    names["client"].close()
    assert capsys.readouterr().out
