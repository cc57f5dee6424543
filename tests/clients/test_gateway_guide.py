"""What the guide to the gateway prints runs as it is printed, and its example configuration opens."""

import json
import os
import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from quernel.cli.settings import ConfigFile
from quernel.gateway.config import GatewayConfig
from quernel.gateway.opening import Tables, open_gateway
from quernel.testing import FakeEmbeddingModel, FakeRerankModel
from tests.support.gateway import gateway

ROOT = Path(__file__).parents[2]
GUIDE = (ROOT / "docs/guides/gateway.md").read_text(encoding="utf-8")
EXAMPLE = ROOT / "examples/gateway.toml"
PRINTED = "http://127.0.0.1:1234"
NODE = ROOT / "tests/clients/ai_sdk/ai7"

LOCAL = {
    "quernel/tiny-embedding": FakeEmbeddingModel("quernel/tiny-embedding", dimensions=256),
    "quernel/tiny-reranker": FakeRerankModel("quernel/tiny-reranker"),
}


def snippets(language):
    found = re.findall(rf"^```{language}\n(.*?)^```$", GUIDE, re.MULTILINE | re.DOTALL)
    assert found
    return found


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    with gateway(tmp_path_factory.mktemp("guide"), local=LOCAL) as served:
        yield served


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
@pytest.mark.parametrize("snippet", snippets("sh"))
def test_curl_commands_of_the_guide_are_answered(served, snippet):
    for command in re.split(r"\n(?=curl )", snippet.strip()):
        ran = subprocess.run(
            command.replace("curl ", "curl --silent --show-error --fail ", 1).replace(PRINTED, served.url),
            shell=True,
            capture_output=True,
            text=True,
            timeout=20,
            check=True,
            env={**os.environ, "KEY": served.key},
        )
        assert "error" not in json.loads(ran.stdout)


@pytest.mark.skipif(
    shutil.which("node") is None or not (NODE / "node_modules").is_dir(),
    reason="Node or its packages are missing (npm ci --prefix tests/clients/ai_sdk/ai7)",
)
@pytest.mark.parametrize("snippet", snippets("js"))
def test_javascript_of_the_guide_runs(served, snippet):
    code = snippet.replace(PRINTED, served.url) + "\nconsole.log(embedding.length);\n"
    ran = subprocess.run(
        ["node", "--input-type=module", "-e", code],
        cwd=NODE,
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, "KEY": served.key},
    )
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.strip() == "256"


def test_the_example_configuration_opens(tmp_path):
    file = ConfigFile.read(EXAMPLE)
    assert {name: list(table) for name, table in file.sections.items()} == {
        name: list(table) for name, table in tomllib.loads(EXAMPLE.read_text()).items() if isinstance(table, dict)
    }
    parts = open_gateway(
        GatewayConfig(**file.sections["gateway"]),
        database=f"sqlite:///{tmp_path}/gateway.db",
        tables=Tables(**file.tables),
        local=LOCAL,
        environment={"DEEPINFRA_API_KEY": "secret"},
    )
    offered = {(provider.slug, offer.model) for provider, offer, _ in parts.gateway.registry.offered()}
    parts.database.close()
    assert offered == {
        ("local", "quernel/tiny-embedding"),
        ("local", "quernel/tiny-reranker"),
        ("rack", "Qwen/Qwen3-Embedding-0.6B"),
        ("deepinfra", "Qwen/Qwen3-Embedding-0.6B"),
        ("deepinfra", "Qwen/Qwen3-Embedding-4B"),
    }
