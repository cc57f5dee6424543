"""A small embedding model and a small reranker, once as folders and once behind a server."""

import os

import pytest

from quernel import Embedder, Reranker
from quernel.server.app import create_app
from quernel.server.serve import running
from tests.support.checkpoints import make_checkpoint

os.environ["HAYSTACK_TELEMETRY_ENABLED"] = "False"  # read when haystack is imported


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("integrations")
    return str(make_checkpoint(root / "embedder")), str(make_checkpoint(root / "reranker", kind="reranker"))


@pytest.fixture(scope="session")
def embedder(folders):
    with Embedder(folders[0], dtype="float32") as model:
        yield model


@pytest.fixture(scope="session")
def reranker(folders):
    with Reranker(folders[1], dtype="float32") as model:
        yield model


@pytest.fixture(scope="session")
def url(embedder, reranker):
    with running(create_app([embedder, reranker])) as url:
        yield url


@pytest.fixture(params=["in this process", "by a server"])
def embedding_arguments(request, folders, url):
    """What an adapter is told: a model here, or a server that has the same."""
    return {"model": folders[0]} if request.param == "in this process" else {"base_url": url}


@pytest.fixture(params=["in this process", "by a server"])
def rerank_arguments(request, folders, url):
    return {"model": folders[1]} if request.param == "in this process" else {"base_url": url}
