from types import SimpleNamespace

import httpx
import pytest

from quernel.server.app import create_app
from quernel.server.config import ServerConfig
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel

MAX_BODY_BYTES = 200_000


@pytest.fixture(scope="session")
def _running():
    embedding, reranker = FakeEmbeddingModel(), FakeRerankModel()
    config = ServerConfig(port=0, max_body_bytes=MAX_BODY_BYTES, shutdown_grace_seconds=1)
    app = create_app([embedding, reranker], config=config)
    with running(app, config) as url, httpx.Client(base_url=url, timeout=10) as client:
        yield SimpleNamespace(url=url, client=client, embedding=embedding, reranker=reranker)


@pytest.fixture
def served(_running):
    """A real server on a free port, with fake models that are as new: `url`, `client`, `embedding`, `reranker`."""
    for model in (_running.embedding, _running.reranker):
        model.delay_seconds, model.failure, model.cancellations = 0.0, None, 0
        model.requests.clear()
    return _running
