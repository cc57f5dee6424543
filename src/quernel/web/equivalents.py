"""What the playground has asked, as programs that ask exactly the same."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import orjson

from quernel.web.snippets import KEY, Snippet, curl

EMBED_PATH, RERANK_PATH = "/v1/embeddings", "/v1/rerank"


@dataclass(frozen=True, slots=True)
class Asked:
    """A request to the API.

    Attributes:
        name: What is asked for: a name that is one in Python and JavaScript too.
        path: Its route.
        body: Its body.
    """

    name: str
    path: str
    body: Mapping[str, Any]


def programs_of(requests: Sequence[Asked], origin: str) -> tuple[Snippet, ...]:
    """Programs that send these requests.

    Args:
        requests: The requests; all of one route.
        origin: Where the gateway is.
    """
    is_rerank = requests[0].path == RERANK_PATH
    commands = "\n\n".join(curl(origin, request.path, request.body) for request in requests)
    found = [Snippet("curl", "sh", "", commands)]
    if not is_rerank:
        found.append(Snippet("Python, openai", "python", "pip install openai", _openai(requests, origin)))
    quernel = _rank(requests[0], origin) if is_rerank else _embed(requests, origin)
    found.append(Snippet("Python, quernel", "python", "pip install quernel", quernel))
    found.append(Snippet("JavaScript", "javascript", "", _fetch(requests, origin)))
    return tuple(found)


def _openai(requests: Sequence[Asked], origin: str) -> str:
    lines = [
        "import os\n\nfrom openai import OpenAI\n",
        f'client = OpenAI(base_url={origin + "/v1"!r}, api_key=os.environ["{KEY}"])',
    ]
    for request in requests:
        extra = {name: value for name, value in request.body.items() if name not in ("model", "input")}
        lines.append(
            f"{request.name} = client.embeddings.create(\n    model={request.body['model']!r},\n"
            f"    input={_list(request.body['input'])},\n    extra_body={extra!r},\n)"
        )
    names = [request.name for request in requests]
    lines.append(f"for reply in ({', '.join(names)},):")
    lines.append('    print(len(reply.data), "vectors of", len(reply.data[0].embedding), "numbers")\n')
    return "\n".join(lines)


def _embed(requests: Sequence[Asked], origin: str) -> str:
    lines = [_client(origin)]
    for request in requests:
        method = "embed_queries" if request.body["input_type"] == "query" else "embed_documents"
        lines.append(
            f"    {request.name} = client.{method}(\n        {_list(request.body['input'], 8)},\n"
            f"        model={request.body['model']!r},\n{_instruction(request)}    )"
        )
    names = [request.name for request in requests]
    lines.append(f"print(({names[-1]} @ {names[0]}.T).round(3))\n")
    return "\n".join(lines)


def _rank(request: Asked, origin: str) -> str:
    body = request.body
    return "\n".join(
        (
            _client(origin),
            f"    ranking = client.rank(\n        {body['query']!r},\n        {_list(body['documents'], 8)},\n"
            f"        model={body['model']!r},\n{_instruction(request)}    )",
            'for document in ranking:\n    print(f"{document.relevance_score:.3f}  {document.index}")\n',
        )
    )


def _client(origin: str) -> str:
    return (
        "import os\n\nfrom quernel.client import Client\n\n"
        f'with Client({origin!r}, api_key=os.environ["{KEY}"]) as client:'
    )


def _instruction(request: Asked) -> str:
    instruction = request.body.get("instruction")
    return "" if instruction is None else f"        instruction={instruction!r},\n"


def _list(texts: Sequence[str], indent: int = 4) -> str:
    inner, outer = " " * (indent + 4), " " * indent
    return "[\n" + "".join(f"{inner}{text!r},\n" for text in texts) + outer + "]"


def _fetch(requests: Sequence[Asked], origin: str) -> str:
    path = requests[0].path
    lines = [
        "async function ask(body) {",
        f"  const reply = await fetch({_json(origin + path)}, {{",
        "    method: 'POST',",
        "    headers: {",
        f"      authorization: `Bearer ${{process.env.{KEY}}}`,",
        "      'content-type': 'application/json',",
        "    },",
        "    body: JSON.stringify(body),",
        "  });",
        "  if (!reply.ok) throw new Error(await reply.text());",
        "  return reply.json();",
        "}",
        "",
    ]
    lines += [f"const {request.name} = await ask({_json(request.body)});" for request in requests]
    if path == RERANK_PATH:
        lines.append("for (const { index, relevance_score } of ranking.results) {")
        lines.append("  console.log(relevance_score.toFixed(3), index);\n}\n")
    else:
        names = ", ".join(request.name for request in requests)
        lines.append(f"for (const {{ data }} of [{names}]) {{")
        lines.append("  console.log(data.length, 'vectors of', data[0].embedding.length, 'numbers');\n}\n")
    return "\n".join(lines)


def _json(content: object) -> str:
    return orjson.dumps(content, option=orjson.OPT_INDENT_2).decode()
