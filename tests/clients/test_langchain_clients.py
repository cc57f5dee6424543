"""`langchain-openai`, which sends token ids unless it is told not to, and `langchain-cohere`."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from quernel import Embedder
from quernel.server.token_ids import LAST_CL100K_ID
from tests.clients.conftest import DOCUMENTS, QUERY
from tests.support.processes import serving

langchain_openai = pytest.importorskip(
    "langchain_openai", reason="langchain-openai is not installed (dependency group `clients`)"
)
litellm = pytest.importorskip("litellm", reason="litellm, which has cl100k's vocabulary, is not installed")
tiktoken = pytest.importorskip("tiktoken")


@pytest.fixture(scope="module", autouse=True)
def cl100k():
    """The vocabulary of cl100k, which tiktoken would download, from where litellm keeps it."""
    folders = [path.parent for path in Path(litellm.__file__).parent.rglob("9b5ad71b2ce5302211f9c61530b329a4922fc6a4")]
    if not folders:
        pytest.skip("litellm has no vocabulary of cl100k")
    os.environ["TIKTOKEN_CACHE_DIR"] = str(folders[0])
    return tiktoken.get_encoding("cl100k_base")


def embeddings(url, **options):
    return langchain_openai.OpenAIEmbeddings(
        base_url=f"{url}/v1", api_key="none", model="text-embedding-3-small", max_retries=0, **options
    )


def test_what_langchain_sends_by_default_is_refused_and_the_way_out_is_named(serve_url):
    import openai

    for ask in (lambda e: e.embed_documents(DOCUMENTS), lambda e: e.embed_query(QUERY)):
        with pytest.raises(openai.BadRequestError, match="check_embedding_ctx_length=False") as caught:
            ask(embeddings(serve_url))
        assert caught.value.code == "foreign_token_ids"


def test_with_its_switch_it_works(serve_url):
    client = embeddings(serve_url, check_embedding_ctx_length=False)
    documents, query = np.array(client.embed_documents(DOCUMENTS)), np.array(client.embed_query(QUERY))
    assert int((documents @ query).argmax()) == 1
    with Embedder() as model:
        expected = model.embed_documents(DOCUMENTS)
    assert float((documents * expected).sum(axis=1).min()) > 0.9999


def test_where_the_operator_says_so_its_ids_are_read_as_cl100k(tmp_path, cl100k):
    environment = {"TIKTOKEN_CACHE_DIR": os.environ["TIKTOKEN_CACHE_DIR"]}
    arguments = ["-m", "quernel/tiny-embedding", "--alias", "text-embedding-3-small=quernel/tiny-embedding"]
    arguments += ["--token-ids", "cl100k"]
    with serving(tmp_path / "log", *arguments, environment=environment) as server:
        documents = np.array(embeddings(server.url).embed_documents(DOCUMENTS))
        with Embedder() as model:
            expected = model.embed_documents(DOCUMENTS)
        assert float((documents * expected).sum(axis=1).min()) > 0.9999
        assert server.stop() == 0


def test_no_id_of_cl100k_is_above_the_last_that_we_know(cl100k):
    assert cl100k.max_token_value == LAST_CL100K_ID


COHERE_5 = Path(sys.prefix) / "langchain-cohere/bin/python"
"""An environment of its own: langchain-cohere holds the cohere package back at version 5."""


@pytest.mark.skipif(not COHERE_5.exists(), reason="langchain-cohere is not installed (`make check` does it)")
def test_langchain_cohere(serve_url):
    code = f"""
import json
from langchain_cohere import CohereEmbeddings, CohereRerank
from langchain_core.documents import Document
documents, query = {DOCUMENTS!r}, {QUERY!r}
embeddings = CohereEmbeddings(model="default", cohere_api_key="none", base_url={serve_url!r})
reranker = CohereRerank(model="default", cohere_api_key="none", base_url={serve_url!r}, top_n=2)
ranked = reranker.compress_documents([Document(text) for text in documents], query)
print(json.dumps([
    embeddings.embed_documents(documents), embeddings.embed_query(query), [document.page_content for document in ranked]
]))
"""
    done = subprocess.run([str(COHERE_5), "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    documents, query, ranked = json.loads(done.stdout)
    assert int((np.array(documents) @ np.array(query)).argmax()) == 1
    assert (ranked[0], len(ranked)) == (DOCUMENTS[1], 2)
