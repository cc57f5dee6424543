"""What a gateway says of its models and of who offers them; Quernel's own, near to what OpenRouter and Vercel have.

Money is decimal text in US dollars for one unit: a token, a document, a request. Times of day are ISO 8601, and what is
null is not known, or too little was measured to say.

Source: https://openrouter.ai/docs/api-reference/list-available-models and .../list-endpoints-for-a-model.
"""

import re
from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError

Dollars = Annotated[str, Meta(description="USD as decimal text.")]


class PricingEntry(Struct, kw_only=True):
    """What one unit costs."""

    input: Annotated[Dollars, Meta(description="A token that the model reads.")]
    output: Annotated[Dollars, Meta(description="A token that it writes.")] = "0.00"
    document: Annotated[Dollars, Meta(description="A document that it ranks.")] = "0.00"
    request: Annotated[Dollars, Meta(description="A request.")] = "0.00"


class ModelEntry(Struct, kw_only=True):
    """A model that somebody offers."""

    id: Annotated[str, Meta(description="The name to ask for it by.")]
    object: Literal["model"] = "model"
    created: Annotated[int, Meta(description="Since when it is offered, in seconds since 1970; 0 where not known.")] = 0
    owned_by: str
    name: Annotated[str, Meta(description="Its name without its maker's.")]
    title: Annotated[str, Meta(description="Its name for people.")] = ""
    summary: Annotated[str, Meta(description="One sentence, of its page.")] = ""
    description: Annotated[str, Meta(description="One sentence, of the gateway's configuration.")] = ""
    aliases: Annotated[list[str], Meta(description="Other names to ask for it by.")] = []
    kind: Annotated[str, Meta(description="`embedding`, `reranker` or `chat`.")]
    type: Annotated[str, Meta(description="The same in other gateways' words: `embedding`, `reranking`, `language`.")]
    tasks: Annotated[list[str], Meta(description="What it is good for, such as `retrieval`.")] = []
    released: Annotated[str | None, Meta(description="When its makers published it, as YYYY-MM-DD.")] = None
    context_window: Annotated[int, Meta(description="Longest input in tokens that any provider reads.")]
    dimensions: Annotated[int | None, Meta(description="Length of its full vectors.")] = None
    min_dimensions: Annotated[int | None, Meta(description="The shortest that they may be cut to.")] = None
    license: str | None = None
    num_parameters: int | None = None
    pricing: Annotated[PricingEntry | None, Meta(description="Those of the cheapest provider.")] = None
    providers: Annotated[list[str], Meta(description="Who offers it.")] = []
    zdr: Annotated[bool, Meta(description="Whether a provider offers it that keeps nothing, by contract.")] = False
    latency_ms: Annotated[
        float | None, Meta(description="Median time to an answer, of late, at the fastest provider that is well.")
    ] = None
    throughput: Annotated[float | None, Meta(description="Median tokens a second of one request there.")] = None
    uptime: Annotated[float | None, Meta(description="The share of recent requests that it answered.")] = None


ModelSort = Literal["name", "price", "context", "dimensions", "latency", "throughput", "released"]


class ModelQuery(Struct, kw_only=True):
    """Which models to list, and in which order. What a model must have at a provider, one provider must have alone."""

    q: Annotated[
        str | None, Meta(description="Words that must all occur in its names, summary, tasks or languages.")
    ] = None
    kind: Annotated[Literal["embedding", "reranker", "chat"] | None, Meta(description="Those of one kind.")] = None
    type: Annotated[
        Literal["embedding", "reranking", "language", "reranker", "chat"] | None,
        Meta(description="The same, in either of its words."),
    ] = None
    provider: Annotated[str | None, Meta(description="Those that this provider offers.")] = None
    license: Annotated[str | None, Meta(description="Those under this licence, such as `Apache-2.0`.")] = None
    task: Annotated[str | None, Meta(description="Those that are good for it, such as `code-retrieval`.")] = None
    zdr: Annotated[
        bool | None, Meta(description="`true`: those at a provider that keeps nothing; `false`: those at none.")
    ] = None
    max_price: Annotated[
        Annotated[str, Meta(pattern=r"^[0-9]{1,6}(\.[0-9]{1,12})?$(?!\n)")] | None,
        Meta(description="Those for at most so many dollars a million tokens; none that are paid by document alone."),
    ] = None
    min_context: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Those that read at least so many tokens.")
    ] = None
    min_dimensions: Annotated[
        Annotated[int, Meta(ge=0)] | None, Meta(description="Those whose full vectors are at least so long.")
    ] = None
    sort: Annotated[
        ModelSort | None, Meta(description="By what; what is not known comes last. By default as they are configured.")
    ] = None
    order: Annotated[
        Literal["asc", "desc"] | None,
        Meta(
            description="From the least or from the most. By default from the least name, price and latency, and from "
            "the most of the others."
        ),
    ] = None


FORMS: Mapping[str, str] = {
    "kind": "One of embedding, reranker, chat.",
    "type": "One of embedding, reranking, language.",
    "zdr": "Write true or false.",
    "max_price": "Write dollars for a million tokens, such as 0.02.",
    "min_context": "Write a number of tokens, such as 8192.",
    "min_dimensions": "Write a number, such as 1024.",
    "sort": "One of name, price, context, dimensions, latency, throughput, released.",
    "order": "Write asc or desc.",
}
"""Parameter of `ModelQuery` to what it may be."""

_PLACE = re.compile(r"at `\$\.(?P<name>\w+)`$")


def decode_model_query(params: Mapping[str, str]) -> ModelQuery:
    """What the query of the catalogue's URL asks for; parameters that are empty or not known are passed over.

    Raises:
        InvalidRequestError: A value is none of those that its parameter takes.
    """
    given = {name: value for name, value in params.items() if value}
    try:
        return msgspec.convert(given, ModelQuery, strict=False)
    except msgspec.ValidationError as error:
        place = _PLACE.search(str(error))
        assert place is not None, "the query is flat, and none of its parameters is required"
        name = place["name"]
        raise InvalidRequestError(f"{name} is {given[name]!r}.", param=name, hint=FORMS[name]) from error


class GenerationQuery(Struct, kw_only=True):
    """Which request is looked up."""

    id: Annotated[str, Meta(description="As in the reply's header `x-quernel-generation-id`.")]


class ModelEntryList(Struct, kw_only=True):
    """The models that anybody offers."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


class LatencyEntry(Struct, kw_only=True):
    """How long a provider takes, of late."""

    p50_ms: float | None = None
    p95_ms: float | None = None


class ThroughputEntry(Struct, kw_only=True):
    """How fast a provider is in one request, of late."""

    p50_tokens_per_second: float | None = None


class EndpointEntry(Struct, kw_only=True):
    """A model at a provider."""

    provider: Annotated[str, Meta(description="The name to ask for it by in `order` and `only`.")]
    provider_name: str
    status: Annotated[
        int,
        Meta(description="0 well, -1 being tried again, -2 paused after failures, -5 its vectors are not the model's."),
    ]
    reason: Annotated[str | None, Meta(description="Why it is not well.")] = None
    local: Annotated[bool, Meta(description="Whether it is the gateway's own machine.")]
    quantization: Annotated[str, Meta(description="How its weights are stored.")]
    context_length: int
    dimensions: int | None = None
    pricing: PricingEntry
    zdr: Annotated[bool, Meta(description="Whether it keeps nothing, by contract.")]
    no_training: Annotated[bool, Meta(description="Whether it promises not to train on requests.")]
    byok: Annotated[bool, Meta(description="Whether customers may bring their own keys.")]
    region: str | None = None
    headquarters: Annotated[str | None, Meta(description="The country of its seat, two letters.")] = None
    terms: str | None = None
    released: str | None = None
    supported_parameters: list[str] = []
    latency: LatencyEntry
    throughput: ThroughputEntry
    uptime: Annotated[float | None, Meta(description="The share of recent requests that it answered.")] = None
    running: Annotated[int, Meta(description="Requests under way.")] = 0
    canary_cosine: Annotated[
        float | None, Meta(description="How like the model's its vectors of fixed texts were when last looked at.")
    ] = None


class ArchitectureEntry(Struct, kw_only=True):
    """What goes in and comes out."""

    modality: str = "text"
    input_modalities: list[str]
    output_modalities: list[str]


class ModelEndpoints(ModelEntry, kw_only=True):
    """A model with who offers it."""

    architecture: ArchitectureEntry
    endpoints: list[EndpointEntry]


class EndpointsReply(Struct, kw_only=True):
    """A model with who offers it."""

    data: ModelEndpoints
