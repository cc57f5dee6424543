"""How to call a model from a program, with this gateway's address: what a page shows can be run as it is."""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import orjson

KEY = "QUERNEL_API_KEY"
"""The environment variable that snippets read a key from."""

EMBEDDING_TEXTS = ("Paris is the capital of France.", "Bananas are yellow.")
QUERY = "capital of France"


@dataclass(frozen=True, slots=True)
class Snippet:
    """A program.

    Attributes:
        name: What its tab says.
        language: Its language: `sh`, `python` or `javascript`.
        install: What it needs, as a command.
        code: Its text.
    """

    name: str
    language: str
    install: str
    code: str


def snippets_of(kind: str, model: str, origin: str) -> tuple[Snippet, ...]:
    """Programs that ask a model of a kind.

    Args:
        kind: `embedding`, `reranker` or `chat`.
        model: Its name.
        origin: Where the gateway is: an address in which all that is not plain is written with `%`.
    """
    found = []
    for name, language, install, template in TEMPLATES[kind]:
        address = shlex.quote(origin) if language == "sh" else origin
        code = template.replace("{origin}", address).replace("{model}", within_quotes(model, language))
        found.append(Snippet(name, language, install, code))
    return tuple(found)


def within_quotes(text: str, language: str) -> str:
    """A text as it is written between the quotes of a program: those of Python are double, of JavaScript single.

    In a command of a shell it is a text of JSON, between the single quotes of an argument.
    """
    written = orjson.dumps(text).decode()[1:-1]
    if language == "sh":
        return written.replace("'", "'\\''")
    return written.replace('\\"', '"').replace("'", "\\'") if language == "javascript" else written


def curl(origin: str, path: str, body: Mapping[str, Any] | None = None, *, takes_key: bool = True) -> str:
    """A request as a command of a shell, with any body or none."""
    parts = [f"curl {shlex.quote(origin + path)}"]
    if takes_key:
        parts.append(f'-H "authorization: Bearer ${KEY}"')
    if body is not None:
        shown = orjson.dumps(body, option=orjson.OPT_INDENT_2).decode().replace("\n", "\n  ").replace("'", "'\\''")
        parts += ["-H 'content-type: application/json'", f"-d '{shown}'"]
    return " \\\n  ".join(parts)


CURL_EMBED = """curl {origin}/v1/embeddings \\
  -H "authorization: Bearer $QUERNEL_API_KEY" \\
  -H 'content-type: application/json' \\
  -d '{
    "model": "{model}",
    "input": ["Paris is the capital of France.", "Bananas are yellow."]
  }'
"""

PYTHON_OPENAI_EMBED = """import os

from openai import OpenAI

client = OpenAI(base_url="{origin}/v1", api_key=os.environ["QUERNEL_API_KEY"])
reply = client.embeddings.create(
    model="{model}",
    input=["Paris is the capital of France.", "Bananas are yellow."],
)
print(len(reply.data), "vectors of", len(reply.data[0].embedding), "numbers")
"""

PYTHON_QUERNEL_EMBED = """import os

from quernel.client import Client

with Client("{origin}", api_key=os.environ["QUERNEL_API_KEY"]) as client:
    documents = client.embed_documents(["Paris is the capital of France.", "Bananas are yellow."], model="{model}")
    queries = client.embed_queries(["capital of France"], model="{model}")
    print((queries @ documents.T).round(2))
"""

AI_SDK_EMBED = """import { createGateway, embedMany } from 'ai';

const gateway = createGateway({ baseURL: '{origin}/v4/ai', apiKey: process.env.QUERNEL_API_KEY });
const { embeddings, usage } = await embedMany({
  model: gateway.embeddingModel('{model}'),
  values: ['Paris is the capital of France.', 'Bananas are yellow.'],
});
console.log(embeddings.length, 'vectors of', embeddings[0].length, 'numbers,', usage.tokens, 'tokens');
"""

JAVASCRIPT_OPENAI_EMBED = """import OpenAI from 'openai';

const client = new OpenAI({ baseURL: '{origin}/v1', apiKey: process.env.QUERNEL_API_KEY });
const reply = await client.embeddings.create({
  model: '{model}',
  input: ['Paris is the capital of France.', 'Bananas are yellow.'],
});
console.log(reply.data.length, 'vectors of', reply.data[0].embedding.length, 'numbers');
"""

CURL_RERANK = """curl {origin}/v1/rerank \\
  -H "authorization: Bearer $QUERNEL_API_KEY" \\
  -H 'content-type: application/json' \\
  -d '{
    "model": "{model}",
    "query": "capital of France",
    "documents": ["Bananas are yellow.", "Paris is the capital of France."]
  }'
"""

PYTHON_QUERNEL_RERANK = """import os

from quernel.client import Client

documents = ["Bananas are yellow.", "Paris is the capital of France."]
with Client("{origin}", api_key=os.environ["QUERNEL_API_KEY"]) as client:
    for ranked in client.rank("capital of France", documents, model="{model}"):
        print(f"{ranked.relevance_score:.3f}  {documents[ranked.index]}")
"""

PYTHON_COHERE_RERANK = """import os

import cohere

client = cohere.ClientV2(base_url="{origin}", api_key=os.environ["QUERNEL_API_KEY"])
documents = ["Bananas are yellow.", "Paris is the capital of France."]
reply = client.rerank(model="{model}", query="capital of France", documents=documents)
for ranked in reply.results:
    print(f"{ranked.relevance_score:.3f}  {documents[ranked.index]}")
"""

AI_SDK_RERANK = """import { createGateway, rerank } from 'ai';

const gateway = createGateway({ baseURL: '{origin}/v4/ai', apiKey: process.env.QUERNEL_API_KEY });
const { ranking } = await rerank({
  model: gateway.rerankingModel('{model}'),
  query: 'capital of France',
  documents: ['Bananas are yellow.', 'Paris is the capital of France.'],
});
for (const { score, document } of ranking) console.log(score.toFixed(3), document);
"""

CURL_CHAT = """curl {origin}/v1/chat/completions \\
  -H "authorization: Bearer $QUERNEL_API_KEY" \\
  -H 'content-type: application/json' \\
  -d '{
    "model": "{model}",
    "messages": [{"role": "user", "content": "What is the capital of France?"}]
  }'
"""

PYTHON_OPENAI_CHAT = """import os

from openai import OpenAI

client = OpenAI(base_url="{origin}/v1", api_key=os.environ["QUERNEL_API_KEY"])
reply = client.chat.completions.create(
    model="{model}",
    messages=[{"role": "user", "content": "What is the capital of France?"}],
)
print(reply.choices[0].message.content)
"""

JAVASCRIPT_OPENAI_CHAT = """import OpenAI from 'openai';

const client = new OpenAI({ baseURL: '{origin}/v1', apiKey: process.env.QUERNEL_API_KEY });
const reply = await client.chat.completions.create({
  model: '{model}',
  messages: [{ role: 'user', content: 'What is the capital of France?' }],
});
console.log(reply.choices[0].message.content);
"""

TEMPLATES: Mapping[str, tuple[tuple[str, str, str, str], ...]] = {
    "embedding": (
        ("curl", "sh", "", CURL_EMBED),
        ("Python, openai", "python", "pip install openai", PYTHON_OPENAI_EMBED),
        ("Python, quernel", "python", "pip install quernel", PYTHON_QUERNEL_EMBED),
        ("JavaScript, ai", "javascript", "npm install ai", AI_SDK_EMBED),
        ("JavaScript, openai", "javascript", "npm install openai", JAVASCRIPT_OPENAI_EMBED),
    ),
    "reranker": (
        ("curl", "sh", "", CURL_RERANK),
        ("Python, quernel", "python", "pip install quernel", PYTHON_QUERNEL_RERANK),
        ("Python, cohere", "python", "pip install cohere", PYTHON_COHERE_RERANK),
        ("JavaScript, ai", "javascript", "npm install ai", AI_SDK_RERANK),
    ),
    "chat": (
        ("curl", "sh", "", CURL_CHAT),
        ("Python, openai", "python", "pip install openai", PYTHON_OPENAI_CHAT),
        ("JavaScript, openai", "javascript", "npm install openai", JAVASCRIPT_OPENAI_CHAT),
    ),
}
"""Kind of model to name, language, what it needs, and program, with places for model and address."""
