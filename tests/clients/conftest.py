"""A running `quernel serve` with the built-in pair, for the clients."""

from importlib import resources

import pytest

from tests.support.processes import serving

DOCUMENTS = ["Bananas are yellow.", "Paris is the capital of France.", "Water boils at a hundred degrees."]
QUERY = "What is the capital of France?"


@pytest.fixture(scope="session")
def serve_url(tmp_path_factory):
    """Its URL. One server for all clients; it has an alias that clients of OpenAI expect."""
    if not resources.files("quernel").joinpath("builtin/tiny-reranker").is_dir():
        pytest.skip("the built-in models are not here")
    log = tmp_path_factory.mktemp("serve") / "log"
    with serving(log, "--alias", "text-embedding-3-small=quernel/tiny-embedding") as server:
        yield server.url
        assert server.stop() == 0
    assert "Traceback" not in log.read_text(encoding="utf-8")
