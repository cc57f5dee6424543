"""What each route does: decode, ask a model, encode.

A handler gets the request with its body, and raises errors of `quernel.errors`; `quernel.server.middleware` turns them
into replies.
"""

import asyncio
import time
from functools import partial
from typing import Literal

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response

from quernel._version import __version__
from quernel.errors import InvalidRequestError, ModelNotFoundError, UnavailableError
from quernel.protocols import admin, cohere, openai, tei, vllm
from quernel.protocols import rerank as superset
from quernel.protocols.body import encode_body, field_names
from quernel.server.exchange import exchange_of
from quernel.server.metrics import METRICS_TYPE
from quernel.server.middleware import json_response
from quernel.server.served import application_of, served_by
from quernel.server.specs import parse_spec
from quernel.types import TokenizingModel

TRUNCATED_HEADER = "x-quernel-truncated"
"""How many texts of the request were cut; absent if none was."""

DOCS_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
"""The documentation page fetches nothing, and the browser holds it to that."""


def answer(request: Request, body: bytes) -> Response:
    """A reply of a model, whose headers say what no body has room for."""
    exchange = exchange_of(request)
    headers = dict(exchange.reply_headers)
    if exchange.num_truncated:
        headers[TRUNCATED_HEADER] = str(exchange.num_truncated)
    return json_response(body, headers=headers)


async def embeddings(request: Request, body: bytes) -> Response:
    """Vectors for texts, as OpenAI, Jina and Voyage have it."""
    call = openai.decode_embedding_request(body)
    exchange = exchange_of(request)
    exchange.routing = call.routing
    result = await application_of(request).asker.embed(request, call)
    return answer(request, openai.encode_embedding_response(result, call, metadata=exchange.reply_metadata))


async def rerank_documents(request: Request, body: bytes) -> Response:
    """Documents in the order of their relevance to a query, as Jina, Voyage and Cohere v1 have it."""
    call = superset.decode_rerank_request(body)
    exchange = exchange_of(request)
    exchange.routing = call.routing
    (result,) = await application_of(request).asker.rerank(request, call.model, call.request)
    reply = superset.encode_rerank_response(
        result, call, request_id=exchange.request_id, metadata=exchange.reply_metadata
    )
    return answer(request, reply)


async def cohere_embed(request: Request, body: bytes, *, version: Literal["1", "2"] = "2") -> Response:
    """Vectors for texts, as Cohere has it in either version."""
    call = cohere.decode_embed_request(body)
    result = await application_of(request).asker.embed(request, call)
    request_id = exchange_of(request).request_id
    return answer(request, cohere.encode_embed_response(result, call, request_id=request_id, version=version))


async def cohere_rerank(request: Request, body: bytes) -> Response:
    """Documents in the order of their relevance to a query, as Cohere v2 has it."""
    call = cohere.decode_rerank_request(body)
    (result,) = await application_of(request).asker.rerank(request, call.model, call.request)
    return answer(request, cohere.encode_rerank_response(result, call, request_id=exchange_of(request).request_id))


async def rerank_any(request: Request, body: bytes) -> Response:
    """Documents in the order of their relevance: TEI's request, which has `texts`, or that of everybody else."""
    return await (tei_rerank if "texts" in field_names(body) else rerank_documents)(request, body)


async def tei_root(request: Request, body: bytes) -> Response:
    """What TEI's root does: rerank with a query, else embed."""
    return await (tei_rerank if "query" in field_names(body) else tei_embed)(request, body)


async def tei_embed(request: Request, body: bytes) -> Response:
    """Vectors for texts, as TEI has it."""
    exchange_of(request).errors = tei.TEI_ERRORS
    call = tei.decode_embed_request(body)
    result = await application_of(request).asker.embed(request, call)
    reply = tei.encode_embed_response(result)
    return tei_answer(request, reply, sum(len(text) for text in call.request.inputs if isinstance(text, str)))


async def tei_similarity(request: Request, body: bytes) -> Response:
    """Cosines of sentences to one, as TEI has it."""
    call = tei.decode_similarity_request(body)
    result = await application_of(request).asker.embed(request, call)
    return tei_answer(request, tei.encode_similarity_response(result), sum(map(len, call.request.inputs)))


async def tei_rerank(request: Request, body: bytes) -> Response:
    """Texts in the order of their relevance to a query, as TEI has it."""
    exchange_of(request).errors = tei.TEI_ERRORS
    call = tei.decode_rerank_request(body)
    (result,) = await application_of(request).asker.rerank(request, call.model, call.request)
    characters = sum(len(call.request.query) + len(document) for document in call.request.documents)
    return tei_answer(request, tei.encode_rerank_response(result, call), characters)


def tei_answer(request: Request, body: bytes, num_characters: int) -> Response:
    """A reply of a model, with TEI's times."""
    exchange = exchange_of(request)
    device = "cpu" if exchange.model is None else application_of(request).asker.device(exchange.model)
    reply = answer(request, body)
    reply.headers.update(
        tei.timing_headers(
            exchange.timing,
            seconds=exchange.seconds,
            num_characters=num_characters,
            num_tokens=exchange.num_tokens,
            device=device,
        )
    )
    return reply


async def tei_tokenize(request: Request, body: bytes) -> Response:
    """The tokens of texts, as TEI has it."""
    call = tei.decode_tokenize_request(body)
    model = tokenizing_model(request)
    tokens = await asyncio.to_thread(
        partial(
            model.tokenize,
            call.texts,
            add_special_tokens=call.add_special_tokens,
            prompt_name=call.prompt_name,
        )
    )
    return json_response(await asyncio.to_thread(tei.encode_tokenize_response, tokens))


async def tei_decode(request: Request, body: bytes) -> Response:
    """The texts of token ids, as TEI has it."""
    call = tei.decode_decode_request(body)
    model = tokenizing_model(request)
    decode = partial(model.detokenize, call.ids, skip_special_tokens=call.skip_special_tokens)
    return json_response(tei.encode_decode_response(await asyncio.to_thread(decode)))


def tokenizing_model(request: Request) -> TokenizingModel:
    """The first model, if its tokenizer can be asked.

    Raises:
        QuernelError: There is none, or it cannot.
    """
    model: object = served_by(request).models.first.model
    if not isinstance(model, TokenizingModel):
        raise InvalidRequestError("This model's tokenizer is not here.", hint="Ask the server that runs the model.")
    return model


async def tei_info(request: Request, body: bytes) -> Response:
    """The first model and the server's limits, as TEI has it."""
    served = served_by(request)
    place = served.models.first
    assert place.model is not None, "it is loaded"
    statistics = getattr(place.model, "statistics", None)
    return json_response(
        tei.encode_info(
            place.model.info,
            name=place.name,
            version=__version__,
            max_texts=served.config.max_texts,
            max_batch_tokens=0 if statistics is None else statistics.max_batch_tokens,
        )
    )


async def vllm_score(request: Request, body: bytes) -> Response:
    """Scores of pairs of a query and a document, as vLLM has it."""
    call = vllm.decode_score_request(body)
    results = await application_of(request).asker.rerank(request, call.model, *call.requests)
    request_id = exchange_of(request).request_id
    return answer(request, vllm.encode_score_response(results, call, request_id=request_id, created=int(time.time())))


async def vllm_pooling(request: Request, body: bytes) -> Response:
    """Vectors for texts, as vLLM has it."""
    call = vllm.decode_pooling_request(body)
    result = await application_of(request).asker.embed(request, call)
    request_id = exchange_of(request).request_id
    return answer(request, vllm.encode_pooling_response(result, call, request_id=request_id, created=int(time.time())))


async def metrics(request: Request, body: bytes) -> Response:
    """What Prometheus reads."""
    return Response(application_of(request).metrics.render(), media_type=METRICS_TYPE)


async def list_models(request: Request, body: bytes) -> Response:
    """The models that are served."""
    return json_response(openai.encode_models(served_by(request).models.listed))


async def describe_model(request: Request, body: bytes) -> Response:
    """One model."""
    return json_response(openai.encode_model(served_by(request).models.place(request.path_params["name"]).listed))


async def list_instructions(request: Request, body: bytes) -> Response:
    """The instructions that `prompt_name` may name."""
    return json_response(openai.encode_instructions())


async def load_model(request: Request, body: bytes) -> Response:
    """Load one more model, or one again that was unloaded."""
    served = served_by(request)
    served.keys.check_admin(request.headers)
    table = admin.decode_load_request(body)
    spec = parse_spec(table, place="The body")
    try:
        place = served.models.place(spec.name or spec.source or "")
    except ModelNotFoundError:
        place = await served.loader.add(spec)
    else:
        await served.loader.reload(place)
    return json_response(openai.encode_model(place.listed))


async def unload_model(request: Request, body: bytes) -> Response:
    """Give a model's memory back; it stays listed, and can be loaded again."""
    served = served_by(request)
    served.keys.check_admin(request.headers)
    place = served.models.place(admin.decode_model_request(body))
    await served.loader.unload(place)
    return json_response(admin.encode_status(place.listed))


async def reload_model(request: Request, body: bytes) -> Response:
    """Load a model again that was unloaded or failed."""
    served = served_by(request)
    served.keys.check_admin(request.headers)
    place = served.models.place(admin.decode_model_request(body))
    await served.loader.reload(place)
    return json_response(admin.encode_status(place.listed))


async def model_status(request: Request, body: bytes) -> Response:
    """Whether a model takes requests."""
    place = served_by(request).models.place(admin.decode_model_request(body))
    return json_response(admin.encode_status(place.listed))


async def health(request: Request, body: bytes) -> Response:
    """Whether the process answers."""
    return json_response(encode_body({"status": "ok"}))


async def ready(request: Request, body: bytes) -> Response:
    """Whether the models take requests."""
    if not served_by(request).models.ready:
        raise UnavailableError("The models are not ready.", hint="Ask again shortly.")
    return json_response(encode_body({"status": "ready"}))


async def openapi(request: Request, body: bytes) -> Response:
    """The OpenAPI document of this server."""
    return json_response(encode_body(application_of(request).document))


async def docs(request: Request, body: bytes) -> Response:
    """The OpenAPI document as a page for people."""
    headers = {"content-security-policy": DOCS_POLICY}
    return Response(application_of(request).docs_page, media_type="text/html", headers=headers)


async def root(request: Request, body: bytes) -> Response:
    """To the page for people."""
    return RedirectResponse(application_of(request).config.root_path + "/docs")
