"""One request and its reply, as the log, the metrics and the traces see them."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, cast

from starlette.requests import Request

from quernel.protocols.error_body import UNION, ErrorDialect
from quernel.protocols.fields import RoutingFields
from quernel.types import EmbeddingResult, RerankResult, Timing


@dataclass(slots=True)
class Exchange:
    """One request and its reply. It holds nothing of the texts.

    Attributes:
        request_id: The client's id for it, or ours.
        errors: How its errors are answered.
        route: The route's path, with its parameters unfilled; `None` where there is no such route.
        num_texts: Texts or documents that a model read for it.
        num_tokens: Tokens that a model read for it.
        num_truncated: Texts that were cut for it.
        timing: Where the model's time went; of several questions that it was asked at once, the longest.
        model: The name of the model that was asked.
        code: Code of the error that was answered.
        status: Status that was answered.
        started: When it came, by `time.perf_counter`.
        caller: Who asks, where the server knows them apart.
        routing: What its body says to a gateway.
        reply_headers: What the reply has besides what its route gives.
        reply_metadata: What is said of how it was answered, where its wire format has room.
    """

    request_id: str
    errors: ErrorDialect = UNION
    route: str | None = None
    num_texts: int = 0
    num_tokens: int = 0
    num_truncated: int = 0
    timing: Timing = Timing()
    model: str | None = None
    code: str | None = None
    status: int | None = None
    started: float = field(default_factory=time.perf_counter)
    caller: object = None
    routing: RoutingFields = RoutingFields()
    reply_headers: dict[str, str] = field(default_factory=dict)
    reply_metadata: Mapping[str, Any] | None = None

    @property
    def seconds(self) -> float:
        """Since it came."""
        return time.perf_counter() - self.started

    def count(self, result: EmbeddingResult | RerankResult) -> None:
        """Add what a model did."""
        self.timing = self.timing.longest(result.timing) if self.num_texts else result.timing
        self.num_texts += len(result.num_tokens)
        self.num_tokens += sum(result.num_tokens)
        self.num_truncated += sum(result.truncated)


def exchange_of(request: Request) -> Exchange:
    """The exchange that a request belongs to."""
    return cast("Exchange", request.state.exchange)
