"""What each route does: decode, ask a model, encode.

A handler raises errors of `quernel.errors`; `quernel.server.middleware` turns them into replies.
"""

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from quernel.errors import UnavailableError
from quernel.protocols import cohere, openai
from quernel.protocols import rerank as superset
from quernel.protocols.body import encode_body
from quernel.server.inference import embed, rerank
from quernel.server.metrics import METRICS_TYPE, render_metrics
from quernel.server.middleware import exchange_of, json_response
from quernel.server.served import served_by

TRUNCATED_HEADER = "x-quernel-truncated"
"""How many texts of the request were cut; absent if none was."""

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The documentation page fetches nothing, and the browser holds it to that."""


def answer(request: Request, body: bytes) -> Response:
    """A reply of a model, whose headers say what no body has room for."""
    num_truncated = exchange_of(request).num_truncated
    return json_response(body, headers={TRUNCATED_HEADER: str(num_truncated)} if num_truncated else None)


async def embeddings(request: Request) -> Response:
    """Vectors for texts, as OpenAI, Jina and Voyage have it."""
    call = openai.decode_embedding_request(await request.body())
    result = await embed(request, call)
    return answer(request, openai.encode_embedding_response(result, call))


async def rerank_documents(request: Request) -> Response:
    """Documents in the order of their relevance to a query, as Jina, Voyage and Cohere v1 have it."""
    call = superset.decode_rerank_request(await request.body())
    (result,) = await rerank(request, call.model, call.request)
    return answer(request, superset.encode_rerank_response(result, call, request_id=exchange_of(request).request_id))


async def cohere_embed(request: Request) -> Response:
    """Vectors for texts, as Cohere v2 has it."""
    call = cohere.decode_embed_request(await request.body())
    result = await embed(request, call)
    return answer(request, cohere.encode_embed_response(result, call, request_id=exchange_of(request).request_id))


async def cohere_rerank(request: Request) -> Response:
    """Documents in the order of their relevance to a query, as Cohere v2 has it."""
    call = cohere.decode_rerank_request(await request.body())
    (result,) = await rerank(request, call.model, call.request)
    return answer(request, cohere.encode_rerank_response(result, call, request_id=exchange_of(request).request_id))


async def metrics(request: Request) -> Response:
    """What Prometheus reads."""
    return Response(render_metrics(served_by(request).models), media_type=METRICS_TYPE)


async def list_models(request: Request) -> Response:
    """The models that are served."""
    served = served_by(request)
    return json_response(openai.encode_models(served.models.infos, created=served.created))


async def describe_model(request: Request) -> Response:
    """One model."""
    served = served_by(request)
    return json_response(openai.encode_model(served.models.info(request.path_params["name"]), created=served.created))


async def health(request: Request) -> Response:
    """Whether the process answers."""
    return json_response(encode_body({"status": "ok"}))


async def ready(request: Request) -> Response:
    """Whether the models take requests."""
    served = served_by(request)
    if not (served.models.infos and served.ready()):
        raise UnavailableError("The models are not ready.", hint="Ask again shortly.")
    return json_response(encode_body({"status": "ready"}))


async def openapi(request: Request) -> Response:
    """The OpenAPI document of this server."""
    return json_response(encode_body(served_by(request).document))


async def docs(request: Request) -> Response:
    """The OpenAPI document as a page for people."""
    headers = {"content-security-policy": DOCS_POLICY}
    return Response(served_by(request).docs_page, media_type="text/html", headers=headers)


async def root(request: Request) -> Response:
    """To the page for people."""
    return RedirectResponse("/docs")
