"""The code of the guide to clients, and the examples, run as they stand against a server with the built-in pair."""

import re
import subprocess
import sys
from importlib import resources
from pathlib import Path

import pytest

from quernel import Embedder, Reranker
from quernel.server.app import create_app
from quernel.server.serve import running

ROOT = Path(__file__).parents[2]
BLOCKS = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/guides/clients.md").read_text(), re.MULTILINE | re.DOTALL)

pytestmark = pytest.mark.skipif(
    not resources.files("quernel").joinpath("builtin/tiny-reranker").is_dir(), reason="the built-in models are not here"
)


@pytest.fixture(scope="module")
def url():
    with Embedder() as embedder, Reranker() as reranker, running(create_app([embedder, reranker])) as url:
        yield url


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_the_code_of_the_guide_runs(url, number):
    code = BLOCKS[number].replace("http://127.0.0.1:1234", url)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout


@pytest.mark.parametrize(
    ("name", "says"),
    [("embedding_openai.py", "64 dimensions"), ("rerank.py", "Beijing"), ("qwen3_embedding.py", "2 256")],
)
def test_the_examples_run(url, name, says):
    base_url = {"embedding_openai.py": f"{url}/v1", "rerank.py": url}
    arguments = [base_url[name]] if name in base_url else []
    command = [sys.executable, str(ROOT / "examples" / name), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert says in done.stdout
