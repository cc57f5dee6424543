"""What a wire format is to the gateway: what it can carry, how a body is written for an endpoint, how a reply is read.

The formats themselves are a table in `quernel.gateway.formats`.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Generic, TypeAlias, TypeVar

from quernel.gateway.options import Options, Prompts
from quernel.gateway.transport import HttpReply
from quernel.protocols.provider_replies import Reply
from quernel.protocols.vectors import VectorEncoding
from quernel.types import EmbeddingRequest, EmbeddingResult, ModelInfo, RerankRequest, RerankResult, Truncate

Q = TypeVar("Q", EmbeddingRequest, RerankRequest)
R = TypeVar("R", EmbeddingResult, RerankResult)

CUTS = frozenset(Truncate)
REFUSES = frozenset({Truncate.ERROR})
CUTS_END = frozenset({Truncate.ERROR, Truncate.END})


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a request is written for.

    Attributes:
        model: The provider's name of the model.
        info: What the model is. A `dimensions` or `max_tokens` of 0 is not known.
        options: What is particular about the endpoint.
    """

    model: str
    info: ModelInfo
    options: Options = Options()

    @property
    def encoding(self) -> VectorEncoding:
        """How the endpoint is asked to write vectors."""
        return VectorEncoding.BASE64 if self.options.base64 else VectorEncoding.FLOAT


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation(Generic[Q, R]):
    """Embedding or reranking in a wire format.

    Attributes:
        path: After the address of the provider.
        encode: The body for a request that `quernel.gateway.expression` gave.
        decode: What a reply to it comes to; an `InternalError` where it cannot be read.
        headers: Besides the usual ones.
        prompts: How an endpoint is told what a text is, unless its options say otherwise.
        carries: Fields of the request that it has; and `token_ids`.
        truncates: What it can be told to do with texts that are too long.
    """

    path: str
    encode: Callable[[Q, Target], bytes]
    decode: Callable[[HttpReply, Q, Target], Reply[R]]
    headers: Callable[[Target], Mapping[str, str]] = lambda target: {}
    prompts: Prompts = "fields"
    carries: frozenset[str] = frozenset()
    truncates: frozenset[Truncate] = REFUSES


EmbeddingFormat: TypeAlias = Operation[EmbeddingRequest, EmbeddingResult]
RerankFormat: TypeAlias = Operation[RerankRequest, RerankResult]
