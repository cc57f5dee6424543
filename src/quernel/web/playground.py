"""The playground: texts to vectors and documents in order, live, with the visitor's key or on the visitors' allowance.

A form asks, with scripts or without. What it asks are requests to the API like anybody's, and the page shows them as
programs. Texts are in no address and nowhere kept.
"""

import asyncio
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from quernel.web.api import Api, ApiError, ApiReply, Visitor
from quernel.web.catalogue import KINDS
from quernel.web.equivalents import Asked, programs_of
from quernel.web.pages import form_of, pages_of, session_of, visitor_of
from quernel.web.samples import samples_of
from quernel.web.snippets import KEY, Snippet
from quernel.web.trial import MOST_CHARACTERS, MOST_TEXTS, Trial
from quernel.web.view import HEAT_LEVELS, MAP_HEIGHT, MAP_MARGIN, MAP_WIDTH, Row, View, look_at, reranked

TRIED = ("embedding", "reranker")
"""Kinds of models that can be tried."""

TITLES = {
    400: "This cannot be asked",
    401: "Sign in to try it",
    402: "No credit left",
    403: "Not allowed",
    404: "No such model",
    429: "Limit reached",
    504: "Too slow",
}
"""Status of a refusal to the heading above its message."""

KEY_HELPS = frozenset({401, 402, 403, 429})
"""Refusals that somebody without a key may not get with one."""

RESULT = {
    "kinds": KINDS,
    "key": KEY,
    "levels": HEAT_LEVELS,
    "map_width": MAP_WIDTH,
    "map_height": MAP_HEIGHT,
    "map_margin": MAP_MARGIN,
}
"""What a result is drawn with."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Why there is no answer.

    Attributes:
        status: HTTP status.
        title: In a few words.
        message: What is wrong, and the way out.
        key_helps: Whether a key of one's own may help.
        wait: How long to wait, in words.
    """

    status: int
    title: str
    message: str
    key_helps: bool = False
    wait: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Receipt:
    """What one request came to.

    Attributes:
        asked: The request.
        tokens: How many were read.
        cost: Dollars.
        provider: Who answered.
        generation: The id that it is written down under.
        milliseconds: How long the API took.
    """

    asked: Asked
    tokens: int
    cost: str
    provider: str
    generation: str
    milliseconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of a trial.

    Attributes:
        model: The entry of the model.
        receipts: What the requests came to.
        milliseconds: How long the API took for all of them, which were under way at once.
        programs: The same as programs.
        rows: The texts, best first; none where nothing was searched for.
        view: What there is to see of the vectors; `None` for a reranker.
    """

    model: Mapping[str, Any]
    receipts: Sequence[Receipt]
    milliseconds: float
    programs: Sequence[Snippet]
    rows: Sequence[Row]
    view: View | None

    @property
    def tokens(self) -> int:
        """Tokens of all requests."""
        return sum(receipt.tokens for receipt in self.receipts)

    @property
    def cost(self) -> str:
        """Dollars for all requests."""
        return format(sum((Decimal(receipt.cost) for receipt in self.receipts), Decimal(0)), "f")

    @property
    def num_moved(self) -> int:
        """How many texts have another place than before."""
        return sum(row.moved != 0 for row in self.rows)


async def show(request: Request) -> Response:
    """The form, with a sample in it."""
    models = await _models(request)
    wanted = request.query_params.get("model", "")
    model = _find(models, wanted)
    missing = _no_model(wanted) if wanted and model is None else None
    return await _page(request, models, model or next(iter(models), None), problem=missing, status=200)


async def play(request: Request) -> Response:
    """What a model says to what was typed; for a script the part of the page with that alone."""
    pages, visitor, form = pages_of(request), visitor_of(request), await form_of(request)
    trial = Trial.of_form(form)
    models = await _models(request)
    model = _find(models, trial.model)
    outcome, problem = None, _no_model(trial.model) if model is None else _unfit(trial, model)
    if problem is None and model is not None:
        try:
            outcome = await _try(pages.api, visitor, model, trial, pages.origin(request))
        except ApiError as error:
            problem = _refusal(error, has_key=session_of(request) is not None)
    status = 200 if problem is None else problem.status
    if form.get("part") == "result":
        result = {"outcome": outcome, "problem": problem, "for_script": True}
        response = pages.show(request, "playground_result.html", status=status, **RESULT, **result)
        response.headers["x-quernel-part"] = "result"
    else:
        shown = model or next(iter(models), None)
        response = await _page(request, models, shown, trial=trial, outcome=outcome, problem=problem, status=status)
    response.headers["cache-control"] = "no-store"
    if status == 401:
        pages.sessions.end(request, response)
    return response


async def _page(
    request: Request,
    models: Sequence[Mapping[str, Any]],
    model: Mapping[str, Any] | None,
    *,
    status: int,
    trial: Trial | None = None,
    outcome: Outcome | None = None,
    problem: Problem | None = None,
) -> Response:
    pages = pages_of(request)
    card = None if model is None else await pages.api.get(f"/v1/models/{quote(model['id'])}/card", _anybody(request))
    samples = () if card is None else samples_of(card)
    wanted = request.query_params.get("sample")
    sample = next((one for one in samples if one.name == wanted), next(iter(samples), None))
    return pages.show(
        request,
        "playground.html",
        status=status,
        **RESULT,
        groups={kind: [one for one in models if one["kind"] == kind] for kind in TRIED},
        model=model,
        instructions=card and card["instructions"],
        samples=samples,
        trial=trial or (Trial() if sample is None else Trial.of_sample(sample)),
        outcome=outcome,
        problem=problem,
        for_script=False,
        most_texts=MOST_TEXTS,
        most_characters=MOST_CHARACTERS,
    )


async def _models(request: Request) -> list[Mapping[str, Any]]:
    found = (await pages_of(request).api.get("/v1/models", _anybody(request)))["data"]
    return [model for kind in TRIED for model in found if model["kind"] == kind]


def _anybody(request: Request) -> Visitor:
    """Who asks for what is public: without the key, whose end is to cost nobody what they have typed."""
    return Visitor(client=visitor_of(request).client)


def _find(models: Sequence[Mapping[str, Any]], name: str) -> Mapping[str, Any] | None:
    wanted = name.lower()
    return next((one for one in models if wanted in [known.lower() for known in (one["id"], *one["aliases"])]), None)


async def _try(api: Api, visitor: Visitor, model: Mapping[str, Any], trial: Trial, origin: str) -> Outcome:
    """What comes of asking.

    Raises:
        ApiError: The API refused.
    """
    requests = trial.requests(model)
    start = time.perf_counter()
    replies = await asyncio.gather(*(api.ask("POST", one.path, visitor, body=one.body) for one in requests))
    seconds = time.perf_counter() - start
    view, rows = None, []
    if model["kind"] == "reranker":
        rows = reranked(trial.texts, replies[0].content)
    else:
        view, rows = look_at(model, trial, [reply.content for reply in replies])
    return Outcome(
        model=model,
        receipts=[_receipt(asked, reply) for asked, reply in zip(requests, replies, strict=True)],
        milliseconds=seconds * 1000,
        programs=programs_of(requests, origin),
        rows=rows,
        view=view,
    )


def _receipt(asked: Asked, reply: ApiReply) -> Receipt:
    return Receipt(
        asked=asked,
        tokens=reply.content["usage"]["total_tokens"],
        cost=reply.headers["x-quernel-cost"],
        provider=reply.headers["x-quernel-provider"],
        generation=reply.headers["x-quernel-generation-id"],
        milliseconds=reply.seconds * 1000,
    )


def _no_model(name: str) -> Problem:
    return Problem(status=404, title=TITLES[404], message=f"{name[:200]!r} is no model that can be tried here.")


def _unfit(trial: Trial, model: Mapping[str, Any]) -> Problem | None:
    message = trial.problem(model["kind"])
    return None if message is None else Problem(status=400, title=TITLES[400], message=f"{message} Nothing was asked.")


def _refusal(error: ApiError, *, has_key: bool) -> Problem:
    has_ended = has_key and error.status == 401
    return Problem(
        status=error.status,
        title="Your session has ended" if has_ended else TITLES.get(error.status, "It failed"),
        message=error.message,
        key_helps=has_ended or (not has_key and error.status in KEY_HELPS),
        wait=None if error.retry_after is None else waiting(float(error.retry_after)),
    )


def waiting(seconds: float) -> str:
    """A time to wait, in words: 40 seconds, 12 minutes, 5 h 20 min."""
    if seconds < 100:
        return f"{seconds:.0f} {'second' if round(seconds) == 1 else 'seconds'}"
    minutes = -(-int(seconds) // 60)
    return f"{minutes} minutes" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


ROUTES = (
    Route("/playground", show, methods=["GET"]),
    Route("/playground", play, methods=["POST"]),
)
