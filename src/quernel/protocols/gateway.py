"""What a gateway says of its models and of who offers them; Quernel's own, near to what OpenRouter and Vercel have.

Money is decimal text in US dollars for one unit: a token, a document, a request. Times of day are ISO 8601, and what is
null is not known, or too little was measured to say.

Source: https://openrouter.ai/docs/api-reference/list-available-models and .../list-endpoints-for-a-model.
"""

from typing import Annotated, Literal

from msgspec import Meta, Struct

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
    description: str = ""
    aliases: Annotated[list[str], Meta(description="Other names to ask for it by.")] = []
    kind: Annotated[str, Meta(description="`embedding`, `reranker` or `chat`.")]
    type: Annotated[str, Meta(description="The same in other gateways' words: `embedding`, `reranking`, `language`.")]
    context_window: Annotated[int, Meta(description="Longest input in tokens that any provider reads.")]
    dimensions: Annotated[int | None, Meta(description="Length of its full vectors.")] = None
    min_dimensions: Annotated[int | None, Meta(description="The shortest that they may be cut to.")] = None
    license: str | None = None
    num_parameters: int | None = None
    pricing: Annotated[PricingEntry | None, Meta(description="Those of the cheapest provider.")] = None
    providers: Annotated[list[str], Meta(description="Who offers it.")] = []


class ModelQuery(Struct, kw_only=True):
    """Which models to list."""

    type: Annotated[str | None, Meta(description="Those of one kind, in either of its words.")] = None


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
