"""Models behind HTTP as models: one endpoint of a provider is an `EmbeddingModel` or a `RerankModel`.

What a provider answers is checked before it leaves here: as many vectors or scores as texts, each text once, the length
that was asked for, no NaN, no infinity, no empty vector. A provider that fails this has failed.
"""

import asyncio
import hmac
import ipaddress
import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from copy import copy
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import partial
from typing import Generic, NoReturn, Self, TypeVar
from urllib.parse import urlsplit

import numpy as np

from quernel.errors import FailureKind, InternalError, NoRouteError, ProviderError, SettingsError
from quernel.gateway.expression import express_embedding, express_rerank
from quernel.gateway.formats import FORMATS
from quernel.gateway.options import Options, parse_options
from quernel.gateway.transport import HttpReply, Transport, check_headers, is_sendable
from quernel.gateway.wire import EmbeddingFormat, RerankFormat, Target
from quernel.protocols.provider_replies import Reply
from quernel.types import (
    EmbeddingRequest,
    EmbeddingResult,
    ModelInfo,
    RerankRequest,
    RerankResult,
    Vectors,
    check_dimensions,
)

T = TypeVar("T")
R = TypeVar("R", EmbeddingResult, RerankResult)
W = TypeVar("W", bound=EmbeddingFormat | RerankFormat)

HIDDEN = "***"

REPLY_BYTES = 2**20
"""Of any reply, besides its numbers."""

NUMBER_BYTES, ROW_BYTES = 32, 2**10
"""The most that a number of a vector takes as JSON, and a document's place."""

MOST_DIMENSIONS = 2**13
"""Of a model that does not say its own."""

ECHO = 4
"""Bytes that a reply may take for each of the request, where it repeats the texts: `\\u00e9` for the two of an é."""

PRIVATE_SUFFIXES = (".local", ".internal", ".lan", ".home.arpa")
"""Names that no public server has."""

NUMERIC = re.compile(r"(?:0x[0-9a-f]*|[0-9]+)(?:\.(?:0x[0-9a-f]*|[0-9]+))*\.?")
"""Hosts that are no address by the book, but are one to some resolvers (`127.1`, `0x7f000001`)."""


class Secret:
    """A key that shows itself to nobody by accident.

    Args:
        value: The key.
    """

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for the one place that sends it."""
        return self._value

    def __repr__(self) -> str:
        return f"Secret({HIDDEN!r})"

    def __str__(self) -> str:
        return HIDDEN

    def __format__(self, spec: str) -> str:
        return HIDDEN

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Secret):
            return NotImplemented
        mine, theirs = (secret._value.encode("utf-8", "surrogatepass") for secret in (self, other))
        return hmac.compare_digest(mine, theirs)

    def __hash__(self) -> int:
        return hash(self._value)

    def __copy__(self) -> Self:
        return self

    def __deepcopy__(self, memo: object) -> Self:
        return self

    def __reduce__(self) -> NoReturn:
        raise TypeError("A secret is not written anywhere.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """A model at a provider, and the way to it.

    Attributes:
        provider: What errors and logs call the provider.
        base_url: Its address; what the format's path follows. A part of the path that it ends in is not repeated.
        format: The wire format that it speaks.
        model: Its name of the model.
        api_key: The key that requests are sent with; `None` for none.
        headers: Sent with every request.
        timeout_seconds: For each request to it.
        max_texts: Most texts or documents that it takes at once; `None` for any number. More go in several requests.
        concurrency: Requests that one of ours becomes at once.
        allow_http: Whether it may be spoken to without TLS in a private network.
        options: What is particular about it (`quernel.gateway.options.Options`).
    """

    provider: str
    base_url: str
    format: str
    model: str
    api_key: Secret | None = None
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    timeout_seconds: float = 60.0
    max_texts: int | None = None
    concurrency: int = 4
    allow_http: bool = False
    options: Mapping[str, object] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.format not in FORMATS:
            near = get_close_matches(self.format, FORMATS, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Use one of: {', '.join(FORMATS)}."
            raise SettingsError(f"{self.provider}: format is {self.format!r}.", param="format", hint=hint)
        numbers = {
            "timeout_seconds": self.timeout_seconds,
            "max_texts": self.max_texts,
            "concurrency": self.concurrency,
        }
        for name, number in numbers.items():
            if number is not None and not number > 0:
                raise SettingsError(f"{self.provider}: {name} is {number}.", param=name, hint="Set more than 0.")
        check_base_url(self.base_url, allow_http=self.allow_http)
        key = key_headers(self.api_key, parse_options(self.options))
        for name, value in {**self.headers, **key}.items():
            if not is_sendable(name, value):
                raise SettingsError(
                    f"{self.provider}: the header {name!r} cannot be sent.",
                    param="headers",
                    hint="Leave out line ends, and headers that HTTP itself writes.",
                )


def check_base_url(url: str, *, allow_http: bool = False) -> None:
    """Refuse an address to which texts and keys should not be sent.

    Args:
        url: The address of a provider.
        allow_http: Whether it may be without TLS where its host is in a private network. This machine always may.

    Raises:
        SettingsError: It is none, it holds a user name, a query or a fragment, or it is without TLS.
    """
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        parts, host = urlsplit(""), None
    is_plain = url.isascii() and url.isprintable() and not set(url) & set(" \\")
    if parts.scheme not in ("http", "https") or not host or not is_plain:
        hint = "Write it like https://api.example.com/v1."
        raise SettingsError("base_url is no address of a web server.", param="base_url", hint=hint)
    if "@" in parts.netloc:
        raise SettingsError("base_url holds a user name.", param="base_url", hint="Give the key as api_key.")
    if "?" in url or "#" in url:
        raise SettingsError("base_url has a query or a fragment.", param="base_url", hint="Leave it out.")
    if parts.scheme == "https" or _is_loopback(host):
        return
    if not _is_private(host):
        raise SettingsError(f"{url} would send texts and keys unencrypted.", param="base_url", hint="Use https.")
    if not allow_http:
        raise SettingsError(
            f"{url} would send texts and keys unencrypted through a private network.",
            param="base_url",
            hint="Use https, or set allow_http if everybody in that network may read them.",
        )


def _address(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def _is_loopback(host: str) -> bool:
    address = _address(host)
    return host == "localhost" or host.endswith(".localhost") if address is None else address.is_loopback


def _is_private(host: str) -> bool:
    address = _address(host)
    if address is None:
        return not NUMERIC.fullmatch(host) and ("." not in host or host.endswith(PRIVATE_SUFFIXES))
    return address.is_private and not (address.is_link_local or address.is_unspecified)


def join_url(base_url: str, path: str) -> str:
    """The path after the address. Where the address ends as the path begins (`/v1`), that stands there once."""
    base = base_url.rstrip("/")
    head, given = base.split("/")[:3], base.split("/")[3:]
    wanted = path.strip("/").split("/")
    shared = next(count for count in range(len(wanted), -1, -1) if given[len(given) - count :] == wanted[:count])
    return "/".join([*head, *given, *wanted[shared:]])


def key_headers(key: Secret | None, options: Options) -> dict[str, str]:
    """The headers that a key is sent in, as its endpoint wants them; none where there is no key."""
    if key is None:
        return {}
    if options.key_header is not None:
        return {options.key_header: key.reveal()}
    return {"authorization": f"Bearer {key.reveal()}"}


class _HttpModel(Generic[W]):
    """What both kinds of model share: the way to the endpoint."""

    def __init__(self, endpoint: Endpoint, info: ModelInfo, transport: Transport, wire: W | None) -> None:
        if wire is None:
            raise SettingsError(
                f"{endpoint.provider}: {endpoint.model} is of the kind {info.kind}, which the format "
                f"{endpoint.format!r} does not have.",
                param="format",
            )
        self._endpoint = endpoint
        self._transport = transport
        self._wire: W = wire
        self._target = Target(model=endpoint.model, info=info, options=parse_options(endpoint.options))
        self._key = endpoint.api_key
        self._url = join_url(endpoint.base_url, wire.path)

    @property
    def info(self) -> ModelInfo:
        """What the model is."""
        return self._target.info

    def with_key(self, key: Secret) -> Self:
        """The same model, asked with another key: a customer's own.

        Raises:
            InvalidRequestError: The key cannot be sent.
        """
        check_headers(key_headers(key, self._target.options))
        other = copy(self)
        other._key = key
        return other

    def refuses(self, request: EmbeddingRequest | RerankRequest) -> str | None:
        """Why the endpoint cannot be asked this, as a clause; `None` where it can."""
        return FORMATS[self._endpoint.format].refuses(request, self._target)

    async def _send(self, body: bytes, reply_bytes: int) -> HttpReply:
        """The endpoint's reply to a body.

        Args:
            body: The body.
            reply_bytes: What its numbers take at most.
        """
        endpoint = self._endpoint
        headers = {
            **self._wire.headers(self._target),
            **endpoint.headers,
            **key_headers(self._key, self._target.options),
        }
        try:
            return await self._transport.post(
                self._url,
                body,
                headers,
                provider=endpoint.provider,
                timeout=endpoint.timeout_seconds,
                max_reply_bytes=REPLY_BYTES + reply_bytes + ECHO * len(body),
            )
        except ProviderError as error:
            if self._key is not None and error.hint is not None and self._key.reveal() in error.hint:
                error.hint = None
            raise

    def _parts(self, count: int) -> list[slice]:
        """So many texts in parts that the endpoint takes."""
        most = self._endpoint.max_texts or count
        return [slice(start, start + most) for start in range(0, count, most)]

    def _inexpressible(self, error: NoRouteError) -> NoRouteError:
        return NoRouteError(f"{self._endpoint.provider} cannot be asked this: {error.message}.", param=error.param)

    def _bad(self, problem: str) -> ProviderError:
        return ProviderError(
            f"{self._endpoint.provider} sent a reply that cannot be used: {problem}", kind=FailureKind.BAD_REPLY
        )


class HttpEmbeddingModel(_HttpModel[EmbeddingFormat]):
    """An embedding model behind HTTP.

    Args:
        endpoint: Where it is.
        info: What the model is, as far as it is known; its name is that of results.
        transport: What sends.

    Raises:
        SettingsError: The endpoint's format has no embeddings.
    """

    def __init__(self, endpoint: Endpoint, info: ModelInfo, transport: Transport) -> None:
        super().__init__(endpoint, info, transport, FORMATS[endpoint.format].embed)

    async def embed(self, request: EmbeddingRequest) -> EmbeddingResult:
        """Vectors for the request's inputs, in their order. Errors as `answer`."""
        return (await self.answer(request)).result

    async def answer(self, request: EmbeddingRequest) -> Reply[EmbeddingResult]:
        """Vectors for the request's inputs, in their order, and what the provider says of them.

        Raises:
            InvalidDimensionsError: The model does not have so many dimensions.
            NoRouteError: The request cannot be said in the endpoint's format.
            ProviderError: The provider failed, or answered what cannot be used.
        """
        if self.info.dimensions:
            check_dimensions(request.dimensions, self.info.dimensions)
        try:
            expressed = express_embedding(request, self._wire, self._target)
        except NoRouteError as error:
            raise self._inexpressible(error) from None
        slices = self._parts(len(request.inputs))
        if len(slices) == 1:
            return await self._answer_part(expressed, request)
        parts = [replace(expressed, inputs=expressed.inputs[part]) for part in slices]
        replies = await _all_of(
            [partial(self._answer_part, part, request) for part in parts], self._endpoint.concurrency
        )
        results = [reply.result for reply in replies]
        merged = EmbeddingResult(
            vectors=np.concatenate([result.vectors for result in results]),
            num_tokens=tuple(count for result in results for count in result.num_tokens),
            truncated=tuple(cut for result in results for cut in result.truncated),
            model=self.info.name,
        )
        return _merged(merged, replies)

    async def _answer_part(self, part: EmbeddingRequest, whole: EmbeddingRequest) -> Reply[EmbeddingResult]:
        numbers = len(part.inputs) * (self.info.dimensions or MOST_DIMENSIONS)
        reply = await self._send(self._wire.encode(part, self._target), numbers * NUMBER_BYTES)
        try:
            decoded = self._wire.decode(reply, part, self._target)
        except InternalError as error:
            failure = self._bad(error.message)
        else:
            given = decoded.result.vectors
            vectors = self._checked(given, len(part.inputs), whole)
            return decoded if vectors is given else replace(decoded, result=replace(decoded.result, vectors=vectors))
        raise failure  # without the error, whose own cause holds the reply

    def _checked(self, vectors: Vectors, count: int, request: EmbeddingRequest) -> Vectors:
        """The vectors, if they are what was asked for or can be made so.

        Raises:
            ProviderError: They are not.
        """
        full = self.info.dimensions
        given = vectors.shape[1]
        wanted = request.dimensions or full or given
        if len(vectors) != count:
            raise self._bad(f"It has {len(vectors)} vectors for {count} texts.")
        is_full = given == full or (not full and given > wanted)
        may_cut = self._target.options.matryoshka and request.normalize is not False
        if given != wanted and not (is_full and may_cut):
            raise self._bad(f"Its vectors have {given} numbers where {wanted} were asked for.")
        if not np.isfinite(vectors).all():
            raise self._bad("It has a vector with NaN or infinity.")
        if given != wanted:
            vectors = vectors[:, :wanted]
        if not vectors.any(axis=1).all():
            raise self._bad("It has a vector of zeros.")
        may_scale = request.normalize or (request.normalize is None and self._target.options.scales)
        return _scaled(vectors) if given != wanted or (may_scale and not _are_units(vectors)) else vectors


class HttpRerankModel(_HttpModel[RerankFormat]):
    """A reranker behind HTTP.

    Args:
        endpoint: Where it is.
        info: What the model is, as far as it is known; its name is that of results.
        transport: What sends.

    Raises:
        SettingsError: The endpoint's format has no reranking.
    """

    def __init__(self, endpoint: Endpoint, info: ModelInfo, transport: Transport) -> None:
        super().__init__(endpoint, info, transport, FORMATS[endpoint.format].rerank)

    async def rerank(self, request: RerankRequest) -> RerankResult:
        """The request's documents, best first. Errors as `answer`."""
        return (await self.answer(request)).result

    async def answer(self, request: RerankRequest) -> Reply[RerankResult]:
        """The request's documents, best first, and what the provider says of them.

        Raises:
            NoRouteError: The request cannot be said in the endpoint's format.
            ProviderError: The provider failed, or answered what cannot be used.
        """
        try:
            expressed = express_rerank(request, self._wire, self._target)
        except NoRouteError as error:
            raise self._inexpressible(error) from None
        parts = self._parts(len(request.documents))
        works = [partial(self._answer_part, replace(expressed, documents=expressed.documents[part])) for part in parts]
        replies = await _all_of(works, self._endpoint.concurrency)
        ranked = [
            replace(document, index=part.start + document.index)
            for part, reply in zip(parts, replies, strict=True)
            for document in reply.result.results
        ]
        # Logits of scores that were rounded to 0 or 1 are equal where the scores are.
        ranked.sort(key=lambda document: (-document.logit, document.index))
        merged = RerankResult(
            results=tuple(ranked[: request.top_n]),
            num_tokens=tuple(count for reply in replies for count in reply.result.num_tokens),
            truncated=tuple(cut for reply in replies for cut in reply.result.truncated),
            model=self.info.name,
        )
        return _merged(merged, replies)

    async def _answer_part(self, part: RerankRequest) -> Reply[RerankResult]:
        count = len(part.documents)
        reply = await self._send(self._wire.encode(part, self._target), count * ROW_BYTES)
        try:
            decoded = self._wire.decode(reply, part, self._target)
        except InternalError as error:
            failure = self._bad(error.message)
        else:
            ranked = decoded.result.results
            if sorted(document.index for document in ranked) != list(range(count)):
                raise self._bad(f"It does not have each of {count} documents once.")
            if not np.isfinite([(document.relevance_score, document.logit) for document in ranked]).all():
                raise self._bad("It has a score of NaN or infinity.")
            return decoded
        raise failure  # without the error, whose own cause holds the reply


def _merged(result: R, replies: Sequence[Reply[R]]) -> Reply[R]:
    """The replies to the parts of a request as one: of what they say of themselves the sum, if all say it."""
    tokens = [reply.reported_tokens for reply in replies if reply.reported_tokens is not None]
    costs = [reply.reported_cost for reply in replies if reply.reported_cost is not None]
    return Reply(
        result=result,
        reported_tokens=sum(tokens) if len(tokens) == len(replies) else None,
        reported_cost=sum(costs, start=costs[0] * 0) if len(costs) == len(replies) else None,
    )


UNIT_TOLERANCE = 1e-3
"""By which the length of a vector that is written in few digits may differ from 1."""


def _are_units(vectors: Vectors) -> bool:
    return bool((np.abs(np.linalg.norm(vectors, axis=1) - 1) < UNIT_TOLERANCE).all())


def _scaled(vectors: Vectors) -> Vectors:
    """Vectors of length 1."""
    exact = vectors.astype(np.float64)
    scaled: Vectors = (exact / np.linalg.norm(exact, axis=1, keepdims=True)).astype(np.float32)
    return scaled


async def _all_of(works: Sequence[Callable[[], Awaitable[T]]], at_once: int) -> list[T]:
    """The results of all works, so many of them at the same time; when one fails, the others are given up."""
    left = iter(enumerate(works))
    results: dict[int, T] = {}

    async def take() -> None:
        for place, work in left:
            results[place] = await work()

    tasks = [asyncio.ensure_future(take()) for _ in range(min(at_once, len(works)))]
    try:
        await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    return [results[place] for place in range(len(works))]
