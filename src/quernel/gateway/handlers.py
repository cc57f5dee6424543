"""What the gateway's own routes do, for whoever asks models: the AI SDK's protocol, the catalogue, money and usage."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import cast

from starlette.requests import Request
from starlette.responses import Response

from quernel.errors import InvalidRequestError, ModelNotFoundError
from quernel.gateway import ledger, usage
from quernel.gateway.asker import ask_of, note, principal_of, until_billed
from quernel.gateway.catalogue import describe_endpoints, describe_model, list_models
from quernel.gateway.keys import Scope
from quernel.gateway.marks import read_mark
from quernel.gateway.models import GatewayKind
from quernel.gateway.money import format_dollars
from quernel.gateway.pages import describe_card
from quernel.gateway.service import Gateway
from quernel.gateway.site import Site
from quernel.gateway.usage import HOUR_MS, Grouping, Report
from quernel.protocols import ai_gateway, ai_gateway_catalogue
from quernel.protocols.ai_gateway import MODEL_HEADER
from quernel.protocols.ai_gateway_catalogue import (
    CatalogueModel,
    CredentialType,
    DatePart,
    GenerationInfo,
    GroupBy,
    ReportQuery,
    ReportRow,
)
from quernel.protocols.ai_gateway_warnings import Version
from quernel.protocols.body import encode_body
from quernel.protocols.gateway import EndpointsReply, ModelEntryList, decode_model_query
from quernel.server.exchange import exchange_of
from quernel.server.handlers import answer
from quernel.server.inference import complete_embedding, complete_rerank
from quernel.server.middleware import header, json_response
from quernel.types import ModelKind


def site_of(request: Request) -> Site:
    """What the handlers of a gateway share."""
    return cast("Site", request.app.state.served)


def gateway_of(request: Request) -> Gateway:
    """The gateway of a request."""
    return site_of(request).gateway


async def ready(request: Request, body: bytes) -> Response:
    """Whether the books can be read: without them nobody is let in."""
    await gateway_of(request).database.read(read_mark)
    return json_response(encode_body({"status": "ready"}))


async def sdk_embed(request: Request, body: bytes, *, version: Version) -> Response:
    """Vectors for texts, as the AI SDK's gateway provider asks for them."""
    call = ai_gateway.decode_embedding_request(body, model=_model_of(request), version=version)
    ask = ask_of(request, call.options)
    asked = complete_embedding(request, call.request)
    gateway = gateway_of(request)
    try:
        billed = await until_billed(request, ask, gateway.embed(ask, call.model, asked))
    except ModelNotFoundError as error:
        raise _naming(error, gateway, GatewayKind.EMBEDDING, (call.model, *call.options.models)) from error
    exchange = exchange_of(request)
    note(exchange, billed.receipt, billed.result)
    reply = ai_gateway.encode_embedding_reply(
        billed.result, version=version, warnings=call.warnings, metadata=exchange.reply_metadata
    )
    return answer(request, reply)


async def sdk_rerank(request: Request, body: bytes, *, version: Version) -> Response:
    """Documents in the order of their relevance, as the AI SDK's gateway provider asks for it."""
    call = ai_gateway.decode_reranking_request(body, model=_model_of(request), version=version)
    ask = ask_of(request, call.options)
    (asked,) = complete_rerank(request, [call.request])
    gateway = gateway_of(request)
    try:
        billed = await until_billed(request, ask, gateway.rerank(ask, call.model, asked))
    except ModelNotFoundError as error:
        raise _naming(error, gateway, GatewayKind.RERANKER, (call.model, *call.options.models)) from error
    exchange = exchange_of(request)
    (ranking,) = billed.result
    note(exchange, billed.receipt, ranking)
    reply = ai_gateway.encode_reranking_reply(
        ranking, version=version, warnings=call.warnings, metadata=exchange.reply_metadata
    )
    return answer(request, reply)


async def sdk_config(request: Request, body: bytes, *, version: Version) -> Response:
    """The models, as the AI SDK's gateway provider lists them."""
    site = site_of(request)
    found = [
        CatalogueModel(
            id=model.id,
            name=model.name,
            kind=ModelKind(model.kind),
            description=model.description or model.summary or None,
            input_price=None if model.pricing is None else model.pricing.input,
            output_price=None if model.pricing is None else model.pricing.output,
        )
        for model in list_models(site.gateway)
        if model.kind != GatewayKind.CHAT
    ]
    return json_response(ai_gateway_catalogue.encode_config(found, version))


def _naming(error: ModelNotFoundError, gateway: Gateway, kind: GatewayKind, names: Sequence[str]) -> ModelNotFoundError:
    """The error with the first of these models that there is not: the clients tell their users which it was."""
    found = ((name, gateway.registry.models.find(name)) for name in names)
    missing = next((name for name, model in found if model is None or model.kind is not kind), None)
    return ModelNotFoundError(error.message, param=missing, hint=error.hint)


def _model_of(request: Request) -> str:
    """The model that a header names.

    Raises:
        InvalidRequestError: None does.
    """
    content = header(request.scope, MODEL_HEADER.encode())
    if not content:
        raise InvalidRequestError(f"The header {MODEL_HEADER} is missing.", param=MODEL_HEADER)
    return content.decode("latin-1")


async def models(request: Request, body: bytes) -> Response:
    """The models that anybody offers, with prices and who offers them."""
    query = decode_model_query(request.query_params)
    return json_response(encode_body(ModelEntryList(data=list_models(gateway_of(request), query))))


async def model(request: Request, body: bytes) -> Response:
    """One model."""
    return json_response(encode_body(describe_model(gateway_of(request), request.path_params["name"])))


async def card(request: Request, body: bytes) -> Response:
    """The page of one model."""
    return json_response(encode_body(describe_card(gateway_of(request), request.path_params["name"])))


async def endpoints(request: Request, body: bytes) -> Response:
    """Who offers a model, at what price, and how they are doing."""
    found = describe_endpoints(gateway_of(request), request.path_params["name"])
    return json_response(encode_body(EndpointsReply(data=found)))


async def credits(request: Request, body: bytes) -> Response:
    """What the account has left and has spent."""
    principal = principal_of(request)
    database = gateway_of(request).database
    money = await database.read(lambda connection: ledger.balance_of(connection, principal.account.id))
    return json_response(
        ai_gateway_catalogue.encode_credits(format_dollars(money.available), format_dollars(money.spent))
    )


async def generation(request: Request, body: bytes) -> Response:
    """One request: who served it, how long it took, what it cost."""
    principal = principal_of(request)
    wanted = request.query_params.get("id", "")
    gateway = gateway_of(request)
    await gateway.drain()
    everyone = Scope.OPERATE in principal.permissions
    row = await gateway.database.read(
        lambda connection: usage.find_usage(connection, wanted, None if everyone else principal.account.id)
    )
    info = GenerationInfo(
        id=row.id,
        model=row.model,
        provider=row.provider,
        created_at=datetime.fromtimestamp(row.time / 1000, UTC),
        total_cost=format_dollars(row.cost),
        latency_seconds=row.upstream_milliseconds / 1000,
        generation_seconds=row.milliseconds / 1000,
        num_tokens=row.tokens,
        num_output_tokens=row.output_tokens,
        is_byok=row.byok,
        upstream_inference_cost=format_dollars(row.upstream_cost if row.byok else 0),
        market_cost=format_dollars(row.upstream_cost),
        gateway_cost=format_dollars(row.cost),
        has_failed=row.status != 200,
    )
    return json_response(ai_gateway_catalogue.encode_generation(info))


GROUPINGS = {
    GroupBy.USER: Grouping.USER,
    GroupBy.MODEL: Grouping.MODEL,
    GroupBy.TAG: Grouping.TAG,
    GroupBy.PROVIDER: Grouping.PROVIDER,
    GroupBy.CREDENTIAL_TYPE: Grouping.CREDENTIAL,
}


async def spend_report(request: Request, body: bytes) -> Response:
    """What was spent, by day, user, model, tag, provider or credential."""
    principal = principal_of(request)
    principal.require(Scope.READ)
    query = ai_gateway_catalogue.decode_report_query(dict(request.query_params))
    by = GROUPINGS.get(query.group_by, Grouping.HOUR if query.date_part is DatePart.HOUR else Grouping.DAY)
    wanted = report_of(query, by, principal.account.id)
    gateway = gateway_of(request)
    await gateway.drain()
    lines = await gateway.database.read(lambda connection: usage.report(connection, wanted))
    rows = [
        ReportRow(
            group_by=query.group_by,
            group=line.group[by],
            date_part=query.date_part,
            total_cost=format_dollars(line.cost),
            market_cost=format_dollars(line.upstream_cost),
            num_tokens=line.tokens,
            num_output_tokens=line.output_tokens,
            num_requests=line.requests,
        )
        for line in lines
    ]
    return json_response(ai_gateway_catalogue.encode_report(rows))


def report_of(query: ReportQuery, by: Grouping, account: str | None) -> Report:
    """The report that a query asks for."""
    columns = {"user": query.user, "model": query.model, "provider": query.provider}
    where = {name: value for name, value in columns.items() if value is not None}
    if query.credential_type is not None:
        where["credential"] = CredentialType(query.credential_type).value
    start = datetime.combine(query.start, datetime.min.time(), UTC)
    end = datetime.combine(query.end, datetime.min.time(), UTC)
    return Report(
        start=int(start.timestamp()) * 1000,
        end=int(end.timestamp()) * 1000 + 24 * HOUR_MS,
        by=(by,),
        account=account,
        where=where,
        tags=query.tags,
    )
