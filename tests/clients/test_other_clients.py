"""litellm, LlamaIndex, Haystack, Node's openai and Vercel's AI SDK, curl: each as it is installed."""

import json
import os
import shutil
import subprocess
import sys
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


def run_litellm(code):
    """Run it in a process of its own, since litellm leaves connections open; what it prints, as JSON."""
    pytest.importorskip("litellm", reason="litellm is not installed (dependency group `clients`)")
    environment = os.environ | {"LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    done = subprocess.run(
        [sys.executable, "-c", f"import json, litellm\n{code}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("provider", ["openai", "hosted_vllm"])
def test_litellm_embeddings(serve_url, provider):
    vectors, num_tokens = run_litellm(f"""
reply = litellm.embedding(
    model="{provider}/quernel/tiny-embedding",
    input={[*DOCUMENTS, QUERY]!r},
    api_base="{serve_url}/v1",
    api_key="none",
    encoding_format="float",
)
print(json.dumps([[row["embedding"] for row in reply.data], reply.usage.prompt_tokens]))
""")
    assert nearest(vectors[:3], vectors[3]) == 1
    assert num_tokens > 0


@pytest.mark.parametrize(
    ("provider", "path"), [("cohere", "/v2/rerank"), ("hosted_vllm", ""), ("jina_ai", "/v1/rerank"), ("infinity", "")]
)
def test_litellm_rerank(serve_url, provider, path):
    # Infinity's clients want texts where everybody else has objects that hold them.
    indices = run_litellm(f"""
reply = litellm.rerank(
    model="{provider}/quernel/tiny-reranker",
    query={QUERY!r},
    documents={DOCUMENTS!r},
    top_n=2,
    return_documents={provider != "infinity"},
    api_base="{serve_url}{path}",
    api_key="none",
)
print(json.dumps([row["index"] for row in reply.results]))
""")
    assert (indices[0], len(indices)) == (1, 2)


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
