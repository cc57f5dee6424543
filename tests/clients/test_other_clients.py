"""litellm, LlamaIndex, Haystack, Node's openai and Vercel's AI SDK, curl: each as it is installed."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from tests.clients.conftest import DOCUMENTS, QUERY

ROOT = Path(__file__).parents[2]
NODE_PACKAGES = ROOT / "examples/node_modules"

needs_node = pytest.mark.skipif(
    shutil.which("node") is None or not NODE_PACKAGES.is_dir(),
    reason="Node or its packages are missing (npm ci --prefix examples)",
)


def nearest(documents, query):
    return int((np.array(documents) @ np.array(query)).argmax())


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_embeddings(serve_url, provider):
    litellm = pytest.importorskip("litellm", reason="litellm is not installed (dependency group `clients`)")
    reply = litellm.embedding(
        model=f"{provider}/quernel/tiny-embedding",
        input=[*DOCUMENTS, QUERY],
        api_base=f"{serve_url}/v1",
        api_key="none",
        encoding_format="float",
    )
    vectors = [row["embedding"] for row in reply.data]
    assert nearest(vectors[:3], vectors[3]) == 1
    assert reply.usage.prompt_tokens > 0


@pytest.mark.parametrize("provider", ["cohere", "hosted_vllm", "jina_ai", "infinity"])
def test_litellm_rerank(serve_url, provider):
    litellm = pytest.importorskip("litellm", reason="litellm is not installed (dependency group `clients`)")
    bases = {"cohere": f"{serve_url}/v2/rerank", "jina_ai": f"{serve_url}/v1/rerank"}
    reply = litellm.rerank(
        model=f"{provider}/quernel/tiny-reranker",
        query=QUERY,
        documents=DOCUMENTS,
        top_n=2,
        api_base=bases.get(provider, serve_url),
        api_key="none",
    )
    assert reply.results[0]["index"] == 1
    assert len(reply.results) == 2


def test_llama_index(serve_url):
    openai_like = pytest.importorskip(
        "llama_index.embeddings.openai_like", reason="llama-index-embeddings-openai-like is not installed"
    )
    client = openai_like.OpenAILikeEmbedding(
        model_name="quernel/tiny-embedding", api_base=f"{serve_url}/v1", api_key="none"
    )
    documents = client.get_text_embedding_batch(DOCUMENTS)
    assert nearest(documents, client.get_query_embedding(QUERY)) == 1


def test_haystack(serve_url):
    embedders = pytest.importorskip("haystack.components.embedders", reason="haystack-ai is not installed")
    from haystack import Document
    from haystack.utils import Secret

    options = {
        "api_base_url": f"{serve_url}/v1",
        "api_key": Secret.from_token("none"),
        "model": "quernel/tiny-embedding",
    }
    documents = embedders.OpenAIDocumentEmbedder(progress_bar=False, **options).run(
        documents=[Document(content=text) for text in DOCUMENTS]
    )["documents"]
    query = embedders.OpenAITextEmbedder(**options).run(text=QUERY)["embedding"]
    assert nearest([document.embedding for document in documents], query) == 1


def test_sentence_transformers_code_through_http(serve_url):
    from quernel.integrations.sentence_transformers import SentenceTransformer

    model = SentenceTransformer(serve_url)
    assert nearest(model.encode_document(DOCUMENTS), model.encode_query(QUERY)) == 1


@needs_node
def test_openai_for_node(serve_url, tmp_path):
    code = f"""
import OpenAI from '{(NODE_PACKAGES / "openai/index.mjs").as_uri()}';
const client = new OpenAI({{ baseURL: '{serve_url}/v1', apiKey: 'none' }});
const reply = await client.embeddings.create({{ model: 'default', input: {json.dumps(DOCUMENTS)} }});
let refused;
try {{
  await client.embeddings.create({{ model: 'default', input: 'a', dimensions: 3 }});
}} catch (error) {{
  refused = error;
}}
console.log(JSON.stringify({{
  vectors: reply.data.map(row => row.embedding), code: refused.code, param: refused.param, status: refused.status,
}}));
"""
    (tmp_path / "run.mjs").write_text(code)
    done = subprocess.run(["node", str(tmp_path / "run.mjs")], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert np.linalg.norm(answer["vectors"], axis=1) == pytest.approx([1, 1, 1], abs=1e-3)
    assert (answer["code"], answer["param"], answer["status"]) == ("invalid_dimensions", "dimensions", 400)


@needs_node
def test_the_example_of_the_ai_sdk_runs(serve_url):
    done = subprocess.run(
        ["node", str(ROOT / "examples/ai_sdk.mjs"), serve_url], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "Paris" in done.stdout.splitlines()[0]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_curl(serve_url):
    def curl(path, body):
        done = subprocess.run(
            ["curl", "-sS", "--fail-with-body", f"{serve_url}{path}", "-d", json.dumps(body)],
            capture_output=True,
            text=True,
            check=False,
        )
        return done.returncode, json.loads(done.stdout)

    code, reply = curl("/v1/embeddings", {"input": DOCUMENTS})
    assert (code, len(reply["data"])) == (0, 3)
    code, reply = curl("/v1/rerank", {"query": QUERY, "documents": DOCUMENTS})
    assert (code, reply["results"][0]["index"]) == (0, 1)
    code, reply = curl("/v1/embeddings", {"input": []})
    assert (code, reply["error"]["code"]) == (22, "empty_input")
