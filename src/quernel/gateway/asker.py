"""From an HTTP request in any wire format to the gateway and back: who asks, where it may go, what is said of it.

The wire formats are the server's; here stands what they share in a gateway.
"""

import hashlib
import math
from collections.abc import Coroutine, Mapping
from dataclasses import replace
from typing import Any, TypeVar, cast

import orjson
from starlette.requests import Request

from quernel.errors import ForeignTokenIdsError, InvalidRequestError, ModelNotFoundError
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import Scope
from quernel.gateway.limits import Remaining
from quernel.gateway.models import GatewayKind, GatewayModel
from quernel.gateway.money import format_dollars
from quernel.gateway.principals import Principal
from quernel.gateway.registry import LocalModels
from quernel.gateway.service import Ask, Gateway, Receipt
from quernel.gateway.site import Site
from quernel.protocols.ai_gateway import MODEL_HEADER
from quernel.protocols.fields import RoutingFields
from quernel.protocols.provider_options import ProviderOptions
from quernel.server.exchange import Exchange, exchange_of
from quernel.server.inference import (
    INPUT_TYPE_HEADER,
    INSTRUCTION_HEADER,
    complete_embedding,
    complete_rerank,
    deadline_of,
    until_done,
)
from quernel.server.middleware import header
from quernel.server.models import DEFAULT
from quernel.server.served import EmbedCall
from quernel.server.token_ids import TokenIdPolicy, read_token_ids
from quernel.types import EmbeddingModel, EmbeddingRequest, EmbeddingResult, RerankRequest, RerankResult

T = TypeVar("T")

IDEMPOTENCY_HEADER = b"idempotency-key"
ROUTING_HEADER = "x-quernel-provider-options"
"""The content of `providerOptions.gateway`, as JSON, for wire formats whose bodies have no place for it."""

SAID_IN_HEADERS = (MODEL_HEADER, INSTRUCTION_HEADER, INPUT_TYPE_HEADER, ROUTING_HEADER)
"""Headers that are as much of a request as its body."""

TAGS_HEADER = b"x-quernel-tags"
"""Tags with commas between them, which usage is filed under."""

GENERATION_HEADER, PROVIDER_HEADER, COST_HEADER, OVERHEAD_HEADER = (
    "x-quernel-generation-id",
    "x-quernel-provider",
    "x-quernel-cost",
    "x-quernel-overhead-ms",
)


def principal_of(request: Request) -> Principal:
    """Who asks."""
    return cast("Principal", exchange_of(request).caller)


class RoutedAsker:
    """Asks providers, through the gateway.

    Args:
        gateway: The gateway.
        local: Models of this process, whose tokenizers can be asked.
        token_ids: What token ids as input mean.
    """

    def __init__(self, gateway: Gateway, local: LocalModels, token_ids: TokenIdPolicy) -> None:
        self._gateway = gateway
        self._local = local
        self._token_ids = token_ids

    async def embed(self, request: Request, call: EmbedCall) -> EmbeddingResult:
        """What a provider of the model that `call` names says to it. Errors as `Asker`."""
        ask = ask_of(request)
        name = self._name(call.model, GatewayKind.EMBEDDING)
        asked = complete_embedding(request, call.request)
        if not all(isinstance(text, str) for text in asked.inputs):
            asked = self._read_token_ids(asked, name)
        billed = await until_billed(request, ask, self._gateway.embed(ask, name, asked))
        note(exchange_of(request), billed.receipt, billed.result)
        return billed.result

    async def rerank(self, request: Request, name: str | None, *asked: RerankRequest) -> list[RerankResult]:
        """What a provider of that reranker says to each of these requests. Errors as `Asker`."""
        complete = complete_rerank(request, asked)
        chosen = self._name(name, GatewayKind.RERANKER)
        ask = ask_of(request)
        billed = await until_billed(request, ask, self._gateway.rerank(ask, chosen, *complete))
        for result in billed.result:
            note(exchange_of(request), billed.receipt, result)
        return list(billed.result)

    def device(self, name: str) -> str:
        """Where a model computes: with a provider."""
        return "remote"

    def _name(self, name: str | None, kind: GatewayKind) -> str:
        """The name that was asked for; that of the first model of the kind that anybody offers, where none was."""
        if name is not None and name.lower() != DEFAULT:
            return name
        found = next((model for model in self._served(kind)), None)
        if found is None:
            raise ModelNotFoundError(f"No {kind} model is served here.", param="model")
        return found.name

    def _served(self, kind: GatewayKind) -> list[GatewayModel]:
        offered = {model.name for provider, _, model in self._gateway.registry.offered() if provider.enabled}
        return [model for model in self._gateway.registry.models if model.name in offered and model.kind is kind]

    def _read_token_ids(self, asked: EmbeddingRequest, name: str) -> EmbeddingRequest:
        model = self._gateway.registry.models.find(name)
        local = None if model is None else self._local.get(model.name.lower())
        if local is None and self._token_ids == "check":
            raise ForeignTokenIdsError(
                "input holds token ids, and it cannot be seen here whose they are.",
                param="input",
                hint="Send texts. LangChain: OpenAIEmbeddings(check_embedding_ctx_length=False).",
            )
        return read_token_ids(asked, cast("EmbeddingModel", local), self._token_ids)


def ask_of(request: Request, options: ProviderOptions | None = None) -> Ask:
    """What the gateway is told of a request, besides its texts.

    Args:
        request: The request.
        options: Where its body says that it may go, if that was read already.

    Raises:
        PermissionDeniedError: The key may not ask models.
        InvalidRequestError: What it says of providers cannot be read.
    """
    exchange = exchange_of(request)
    principal = principal_of(request)
    principal.require(Scope.INFER)
    found = exchange.routing.decode() if options is None else options
    if found == ProviderOptions():
        found = _options_of_header(request)
    tags = header(request.scope, TAGS_HEADER)
    if tags is not None:
        found = replace(found, tags=(*found.tags, *(tag.strip() for tag in tags.decode("latin-1").split(","))))
    key = header(request.scope, IDEMPOTENCY_HEADER)
    ask = Ask(principal=principal, options=found, started=exchange.started, deadline=deadline_of(request))
    if key:
        ask.idempotency_key = key.decode("latin-1")
        ask.fingerprint = _fingerprint(request)
    return ask


async def until_billed(request: Request, ask: Ask, work: Coroutine[Any, Any, T]) -> T:
    """What comes of `work`, by which the gateway answers `ask`. A reply to its failure says what it is written down as.

    Raises:
        ClientDisconnect: The client hung up.
        QuernelError: It failed, or its time is over.
    """
    try:
        return await until_done(request, work)
    except BaseException:
        if ask.is_filed:
            exchange = exchange_of(request)
            exchange.reply_headers[GENERATION_HEADER] = ask.generation
            exchange.errors = exchange.errors.of_generation(ask.generation)
        raise


def _fingerprint(request: Request) -> bytes:
    """What a request is known again by: a digest under the gateway's secret, from which no text can be guessed."""
    said = [request.url.path.encode(), *(header(request.scope, name.encode()) for name in SAID_IN_HEADERS)]
    digests = [b"" if part is None else hashlib.sha256(part).digest() for part in (*said, request.state.body)]
    mint = cast("Site", request.app.state.served).mint
    return mint.digest(b"\0".join(digests).hex())


def _options_of_header(request: Request) -> ProviderOptions:
    content = header(request.scope, ROUTING_HEADER.encode())
    if content is None:
        return ProviderOptions()
    try:
        said = orjson.loads(content)
    except orjson.JSONDecodeError as error:
        raise InvalidRequestError(f"The header {ROUTING_HEADER} is no JSON.", param=ROUTING_HEADER) from error
    return RoutingFields(provider_options={"gateway": said}).decode()


def note(exchange: Exchange, receipt: Receipt, result: EmbeddingResult | RerankResult) -> None:
    """Take down what a request came to: for the log and the metrics, and for the reply."""
    exchange.model = receipt.model
    exchange.count(result)
    if exchange.reply_metadata is None:
        exchange.reply_metadata = receipt.shown()
    exchange.reply_headers |= reply_headers(receipt, exchange.seconds)


def reply_headers(receipt: Receipt, seconds: float) -> dict[str, str]:
    """What a reply's headers say of how it was answered."""
    overhead = max(seconds * 1000 - receipt.upstream_milliseconds, 0.0)
    headers = {
        GENERATION_HEADER: receipt.generation,
        PROVIDER_HEADER: receipt.provider,
        COST_HEADER: format_dollars(receipt.cost),
        OVERHEAD_HEADER: f"{overhead:.2f}",
    }
    if receipt.admission is not None:
        headers |= limit_headers(receipt.admission.remaining)
    return headers


def limit_headers(remaining: Mapping[str, Remaining]) -> dict[str, str]:
    """What is left of the minute, as OpenAI has it."""
    headers: dict[str, Any] = {}
    for what, left in remaining.items():
        headers[f"x-ratelimit-limit-{what}"] = str(left.limit)
        headers[f"x-ratelimit-remaining-{what}"] = str(left.remaining)
        headers[f"x-ratelimit-reset-{what}"] = f"{math.ceil(max(left.resets - now_ms(), 0) / 1000)}s"
    return headers
