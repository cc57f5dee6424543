"""What a client of the AI SDK's gateway looks up: models, credits, one generation, a report of what was spent.

Models are at `/config` below the client's `baseURL`, and each must name the client's version of the protocol, or the
client refuses the whole list. The others are at `/v1/credits`, `/v1/generation` and `/v1/report` of the host itself,
whatever path the `baseURL` has. Money is decimal text in US dollars here; on the wire it is text for credits and prices
and numbers elsewhere.

Source: `gateway-fetch-metadata.ts`, `gateway-generation-info.ts`, `gateway-spend-report.ts` and
`gateway-model-entry.ts` in `packages/gateway/src` of https://github.com/vercel/ai, version 4.0.146.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from enum import StrEnum
from typing import Annotated, Literal

from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError
from quernel.protocols.ai_gateway_warnings import Version
from quernel.protocols.body import decode_request_body, encode_body
from quernel.types import ModelKind

MODEL_TYPES: Mapping[ModelKind, str] = {ModelKind.EMBEDDING: "embedding", ModelKind.RERANKER: "reranking"}
"""The clients' words for what a model does. `ai` 5 knows no rerankers and leaves them out of its list."""

NO_PRICE = "0"
MILLISECONDS = 1000

DollarsPerToken = Annotated[str, Meta(description="USD per token, as decimal text.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogueModel:
    """A model of the catalogue.

    Attributes:
        id: The name to ask for it by, with its maker before a slash.
        name: Its name for people.
        kind: What it does.
        description: What it is.
        input_price: USD for a token that it reads, as decimal text; `None` where there is no price.
        output_price: USD for a token that it writes.
    """

    id: str
    name: str
    kind: ModelKind
    description: str | None = None
    input_price: str | None = None
    output_price: str | None = None


class GatewayPricing(Struct, kw_only=True):
    """What a model costs."""

    input: DollarsPerToken
    output: DollarsPerToken


class GatewaySpecification(Struct, kw_only=True, rename="camel"):
    """How a model is spoken to."""

    specification_version: Annotated[str, Meta(description="`v2`, `v3` or `v4`: the version of the path.")]
    provider: Annotated[str, Meta(description="Its maker.")]
    model_id: str


class GatewayModelReply(Struct, kw_only=True, omit_defaults=True, rename={"model_type": "modelType"}):
    """A model."""

    id: Annotated[str, Meta(description="The name to ask for it by.")]
    name: str
    description: str | None = None
    pricing: GatewayPricing | None = None
    specification: GatewaySpecification
    model_type: Annotated[str, Meta(description="`embedding` or `reranking`.")]


class GatewayConfigReply(Struct, kw_only=True):
    """The models of the gateway."""

    models: list[GatewayModelReply]


def encode_config(models: Iterable[CatalogueModel], version: Version) -> bytes:
    """The reply that lists models, for clients of a version."""
    return encode_body(GatewayConfigReply(models=[_model(model, version) for model in models]))


def _model(model: CatalogueModel, version: Version) -> GatewayModelReply:
    maker, slash, _ = model.id.partition("/")
    return GatewayModelReply(
        id=model.id,
        name=model.name,
        description=model.description,
        pricing=None
        if model.input_price is None
        else GatewayPricing(input=model.input_price, output=model.output_price or NO_PRICE),
        specification=GatewaySpecification(
            specification_version=f"v{version}", provider=maker if slash else "quernel", model_id=model.id
        ),
        model_type=MODEL_TYPES[model.kind],
    )


class GatewayCreditsReply(Struct, kw_only=True):
    """The money of an account."""

    balance: Annotated[str, Meta(description="USD left, as decimal text.")]
    total_used: Annotated[str, Meta(description="USD spent, as decimal text.")]


def encode_credits(balance: str, total_used: str) -> bytes:
    """The reply that says what an account has left and has spent."""
    return encode_body(GatewayCreditsReply(balance=balance, total_used=total_used))


@dataclass(frozen=True, slots=True, kw_only=True)
class GenerationInfo:
    """One request.

    Attributes:
        id: Its name.
        model: The model that answered.
        provider: Who ran it.
        created_at: When it came.
        total_cost: What it cost the caller, in USD as decimal text, like all costs.
        latency_seconds: Until the provider began to answer.
        generation_seconds: Until it had answered.
        num_tokens: Tokens that were read.
        num_output_tokens: Tokens that were written.
        num_cached_tokens: Of those that were read, those that a cache spared.
        is_byok: Whether the caller's own credentials were used.
        upstream_inference_cost: What the provider charges the caller for it, with the caller's own credentials.
        market_cost: What it costs at the provider's list price.
        surcharge_cost: What was added to it.
        gateway_cost: What was taken from the balance.
        has_failed: Whether it has no answer, or not the whole of one.
    """

    id: str
    model: str
    provider: str
    created_at: datetime
    total_cost: str
    latency_seconds: float
    generation_seconds: float
    num_tokens: int
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    is_byok: bool = False
    upstream_inference_cost: str = NO_PRICE
    market_cost: str | None = None
    surcharge_cost: str | None = None
    gateway_cost: str | None = None
    has_failed: bool = False


class GatewayGeneration(Struct, kw_only=True, omit_defaults=True):
    """One request. What embedding models and rerankers do not do, such as to think, is nothing."""

    id: str
    total_cost: Annotated[float, Meta(description="USD.")]
    upstream_inference_cost: Annotated[float, Meta(description="USD that the provider charges its own customer.")]
    usage: Annotated[float, Meta(description="The total cost once more.")]
    created_at: Annotated[str, Meta(description="ISO 8601, in UTC.")]
    model: str
    is_byok: Annotated[bool, Meta(description="Whether the caller's own credentials were used.")]
    provider_name: str
    streamed: bool
    finish_reason: Annotated[str, Meta(description="`stop`, or `error` where it failed.")]
    latency: Annotated[float, Meta(description="Milliseconds until the provider began to answer.")]
    generation_time: Annotated[float, Meta(description="Milliseconds until it had answered.")]
    native_tokens_prompt: int
    native_tokens_completion: int
    native_tokens_reasoning: int
    native_tokens_cached: int
    native_tokens_cache_creation: int
    billable_web_search_calls: int
    market_cost: float | None = None
    surcharge_cost: float | None = None
    gateway_cost: float | None = None


class GatewayGenerationReply(Struct, kw_only=True):
    """One request."""

    data: GatewayGeneration


def encode_generation(info: GenerationInfo) -> bytes:
    """The reply that describes one request."""
    cost = float(info.total_cost)
    return encode_body(
        GatewayGenerationReply(
            data=GatewayGeneration(
                id=info.id,
                total_cost=cost,
                upstream_inference_cost=float(info.upstream_inference_cost),
                usage=cost,
                created_at=info.created_at.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z"),
                model=info.model,
                is_byok=info.is_byok,
                provider_name=info.provider,
                streamed=False,
                finish_reason="error" if info.has_failed else "stop",
                latency=round(info.latency_seconds * MILLISECONDS, 3),
                generation_time=round(info.generation_seconds * MILLISECONDS, 3),
                native_tokens_prompt=info.num_tokens,
                native_tokens_completion=info.num_output_tokens,
                native_tokens_reasoning=0,
                native_tokens_cached=info.num_cached_tokens,
                native_tokens_cache_creation=0,
                billable_web_search_calls=0,
                market_cost=_number(info.market_cost),
                surcharge_cost=_number(info.surcharge_cost),
                gateway_cost=_number(info.gateway_cost),
            )
        )
    )


class GroupBy(StrEnum):
    """What the rows of a report are for."""

    DAY = "day"
    USER = "user"
    MODEL = "model"
    TAG = "tag"
    PROVIDER = "provider"
    CREDENTIAL_TYPE = "credential_type"


class DatePart(StrEnum):
    """How long a row of a report by day is."""

    DAY = "day"
    HOUR = "hour"


class CredentialType(StrEnum):
    """Whose credentials were used."""

    BYOK = "byok"
    SYSTEM = "system"


class GatewayReportParams(Struct, kw_only=True):
    """What a report is asked for with, in the query of its URL."""

    start_date: Annotated[date, Meta(description="First day, as YYYY-MM-DD.")]
    end_date: Annotated[date, Meta(description="Last day.")]
    group_by: Annotated[GroupBy, Meta(description="What the rows are for.")] = GroupBy.DAY
    date_part: Annotated[DatePart, Meta(description="How long a row by day is.")] = DatePart.DAY
    user_id: str | None = None
    model: str | None = None
    provider: str | None = None
    credential_type: CredentialType | None = None
    tags: Annotated[str | None, Meta(description="With commas between them.")] = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportQuery:
    """What a report is asked for.

    Attributes:
        start: First day.
        end: Last day.
        group_by: What the rows are for.
        date_part: How long a row by day is.
        user: Only requests for this user.
        model: Only requests for this model.
        provider: Only requests that this provider answered.
        credential_type: Only requests with such credentials.
        tags: Only requests filed under these.
    """

    start: date
    end: date
    group_by: GroupBy = GroupBy.DAY
    date_part: DatePart = DatePart.DAY
    user: str | None = None
    model: str | None = None
    provider: str | None = None
    credential_type: CredentialType | None = None
    tags: tuple[str, ...] = ()


def decode_report_query(params: Mapping[str, str]) -> ReportQuery:
    """What the query of a report's URL asks for.

    Raises:
        InvalidRequestError: A day is missing or none, the last is before the first, a word is none of its choices.
    """
    wire = decode_request_body(encode_body(dict(params)), GatewayReportParams)
    if wire.end_date < wire.start_date:
        raise InvalidRequestError(
            f"end_date is {wire.end_date}, before start_date {wire.start_date}.",
            param="end_date",
            hint="Exchange them.",
        )
    return ReportQuery(
        start=wire.start_date,
        end=wire.end_date,
        group_by=wire.group_by,
        date_part=wire.date_part,
        user=wire.user_id,
        model=wire.model,
        provider=wire.provider,
        credential_type=wire.credential_type,
        tags=tuple(tag for tag in (wire.tags or "").split(",") if tag),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportRow:
    """What was spent on one day, user, model, tag, provider or kind of credentials.

    Attributes:
        group_by: What the row is for.
        group: Which one: a day as YYYY-MM-DD, an hour as ISO 8601, else a name.
        date_part: How long a row by day is.
        total_cost: What was spent, in USD as decimal text.
        market_cost: What it costs at the providers' list prices.
        num_tokens: Tokens that were read.
        num_output_tokens: Tokens that were written.
        num_cached_tokens: Of those that were read, those that a cache spared.
        num_requests: How many there were.
    """

    group_by: GroupBy
    group: str
    date_part: DatePart = DatePart.DAY
    total_cost: str
    market_cost: str | None = None
    num_tokens: int
    num_output_tokens: int = 0
    num_cached_tokens: int = 0
    num_requests: int


class GatewayReportRow(Struct, kw_only=True, omit_defaults=True):
    """What was spent on what the one of the first seven fields says that is there."""

    day: str | None = None
    hour: str | None = None
    user: str | None = None
    model: str | None = None
    tag: str | None = None
    provider: str | None = None
    credential_type: Literal["byok", "system"] | None = None
    total_cost: Annotated[float, Meta(description="USD.")]
    market_cost: Annotated[float | None, Meta(description="USD at the providers' list prices.")] = None
    input_tokens: int
    output_tokens: int = 0
    cached_input_tokens: int
    request_count: int


class GatewayReportReply(Struct, kw_only=True):
    """What was spent."""

    results: list[GatewayReportRow]


def encode_report(rows: Sequence[ReportRow]) -> bytes:
    """The reply that says what was spent."""
    return encode_body(GatewayReportReply(results=[_row(row) for row in rows]))


def _row(row: ReportRow) -> GatewayReportRow:
    reply = GatewayReportRow(
        total_cost=float(row.total_cost),
        market_cost=_number(row.market_cost),
        input_tokens=row.num_tokens,
        output_tokens=row.num_output_tokens,
        cached_input_tokens=row.num_cached_tokens,
        request_count=row.num_requests,
    )
    field = row.date_part if row.group_by is GroupBy.DAY else row.group_by
    setattr(reply, field, row.group)
    return reply


def _number(dollars: str | None) -> float | None:
    return None if dollars is None else float(dollars)
