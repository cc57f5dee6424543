"""A gateway as it looks after a month: providers that are fast, slow and now and then away, customers, and usage.

    with showroom(folder) as room:
        page.goto(room.url + room.path("model"))

For tests in a browser, pictures and measurements. All is real but the providers, which are fakes on this machine, and
the month, which is written into the books before the gateway is served (`past`).
"""

import itertools
import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from quernel import Embedder, Reranker
from quernel.catalog.catalog import load_cards
from quernel.types import ModelKind
from tests.support.gateway import Served
from tests.support.past import FULL_KEY, READER_KEY, SEARCH_KEY, SPENT_KEY, write_past
from tests.support.provider import failing, provider, slow
from tests.support.storefront import storefront

TINY_EMBEDDING, TINY_RERANKER = "quernel/tiny-embedding", "quernel/tiny-reranker"
EMBEDDINGS = tuple(f"Qwen/Qwen3-Embedding-{size}" for size in ("0.6B", "4B", "8B"))
RERANKERS = tuple(f"Qwen/Qwen3-Reranker-{size}" for size in ("0.6B", "4B", "8B"))

DIMENSIONS = {card.name: card.dimensions for card in load_cards() if card.kind is ModelKind.EMBEDDING}
MAX_TOKENS = 32_768

ROUNDS = 10
"""Requests to each model of each provider: figures of fewer than five are not shown, and old ones count less."""

ACCOUNT = "acme-books"

ROLES = {"customer": FULL_KEY, "reader": READER_KEY, "search": SEARCH_KEY, "spent": SPENT_KEY}
"""Keys of the customer: one that may do all, one that may only read, and two that may only ask models; of these the
second has used up what it may ask today."""

SLOW_SECONDS = 0.05

DEMO = {"demo_usd_a_day": "1", "demo_requests_a_day": 10_000}

PERIOD, PLACE_OF_FAILURE = 11, 7
"""One provider fails once in so many requests, and which of them that is."""

TEXTS = (
    "A lighthouse keeper's daughter maps the currents of a bay that no ship has left in forty years.",
    "How to mend a pocket watch without its drawings, in twelve evenings and with three tools.",
    "Bread, salt and weather: a year in the bakeries of a mountain town.",
    "The last tram driver of the city remembers its lines, street by street.",
    "An introduction to the stars of the southern sky for people who go to bed early.",
    "Two sisters inherit a greenhouse, its debts, and a plant that nobody can name.",
    "A short history of paper, from rags to pulp and back again.",
    "Letters between a beekeeper and a bridge engineer, who never met.",
)
QUERY = "stories about people who repair things"


@dataclass(frozen=True)
class Place:
    """A page of the showroom.

    Attributes:
        name: What it is called here.
        path: Where it is; names in braces are those of `Showroom.names`.
        who: Whose it is: `visitor`, `customer` or `operator`.
    """

    name: str
    path: str
    who: str = "visitor"


PLACES = {
    place.name: place
    for place in (
        Place("home", "/"),
        Place("models", "/models"),
        Place("models-filtered", "/models?kind=embedding&sort=price"),
        Place("model", f"/models/{TINY_EMBEDDING}"),
        Place("model-remote", f"/models/{EMBEDDINGS[0]}"),
        Place("model-reranker", f"/models/{RERANKERS[1]}"),
        Place("compare", "/compare?" + "&".join(f"model={name}" for name in (TINY_EMBEDDING, *EMBEDDINGS))),
        Place("playground", "/playground"),
        Place("playground-reranker", f"/playground?model={TINY_RERANKER}"),
        Place("reference", "/docs"),
        Place("sign-in", "/sign-in"),
        Place("overview", "/console", "customer"),
        Place("keys", "/console/keys", "customer"),
        Place("key-new", "/console/keys/new", "customer"),
        Place("key", "/console/keys/{key}", "customer"),
        Place("usage", "/console/usage", "customer"),
        Place("usage-by-key", "/console/usage?range=7d&by=key&measure=tokens", "customer"),
        Place("requests", "/console/requests", "customer"),
        Place("request", "/console/requests/{request}", "customer"),
        Place("ledger", "/console/ledger", "customer"),
        Place("members", "/console/members", "customer"),
        Place("settings", "/console/settings", "customer"),
        Place("providers-offered", "/console/providers", "customer"),
        Place("overview-operator", "/console", "operator"),
        Place("usage-of-all", "/console/usage?account=*&by=account", "operator"),
        Place("providers", "/console/providers", "operator"),
        Place("provider", "/console/providers/{provider}", "operator"),
        Place("provider-new", "/console/providers/new", "operator"),
        Place("accounts", "/console/accounts", "operator"),
        Place("account", "/console/accounts/{account}", "operator"),
        Place("audit", "/console/audit", "operator"),
        Place("books", "/console/books", "operator"),
    )
}
"""Every page there is, by its name."""


@dataclass(frozen=True, kw_only=True)
class Showroom:
    """It, open.

    Attributes:
        served: The gateway.
        keys: The `operator`'s key, and of a customer those of `ROLES`.
        account: The slug of that customer.
        names: What stands in braces in `Place.path`.
    """

    served: Served
    keys: dict
    account: str
    names: dict

    @property
    def url(self) -> str:
        """Where it is."""
        return self.served.url

    def path(self, name: str) -> str:
        """Where a page of `PLACES` is."""
        return PLACES[name].path.format(**self.names)


@contextmanager
def showroom(folder, *, https=False) -> Iterator[Showroom]:
    """A showroom on a port of this machine, with its books in that folder."""
    past = []
    with ExitStack() as stack:
        local = {TINY_EMBEDDING: stack.enter_context(Embedder()), TINY_RERANKER: stack.enter_context(Reranker())}
        tables = [LOCAL, *(away.table(stack.enter_context(away.provider())) for away in AWAY)]
        served = stack.enter_context(
            storefront(
                folder,
                providers=tables,
                local=local,
                environment={away.variable: f"key of {away.slug}" for away in AWAY},
                https=https,
                prepare=lambda parts: past.append(write_past(parts)),
                **DEMO,
            )
        )
        (written,) = past
        keys = {"operator": served.key} | {role: written.keys[name] for role, name in ROLES.items()}
        ask_everybody(served)
        request = ask_as_customers(served, keys)
        in_paths = {"key": written.key_ids[SEARCH_KEY], "account": ACCOUNT, "provider": "larkfen"}
        yield Showroom(served=served, keys=keys, account=ACCOUNT, names={**in_paths, "request": request})


# Who offers what


@dataclass(frozen=True, kw_only=True)
class Away:
    """A provider that is a fake.

    Attributes:
        slug: Its name.
        wire_format: What it speaks.
        prices: Of each model, in dollars for a million tokens; several where it was changed.
        seconds: How long its answers take.
        fails: Whether it fails now and then.
        more: What else its table says.
    """

    slug: str
    wire_format: str
    prices: dict
    seconds: tuple
    fails: bool = False
    more: dict

    @property
    def is_slow(self):
        """Whether it is slow."""
        return self.seconds[0] > SLOW_SECONDS

    @property
    def variable(self):
        """Where its key is found."""
        return f"{self.slug.upper()}_API_KEY"

    def provider(self):
        """It, to be run."""
        return provider(self.wire_format, self._script(), dimensions=DIMENSIONS, max_tokens=MAX_TOKENS)

    def table(self, running):
        """As the configuration has it."""
        models = [
            {"model": model, "prices": _dated(prices), **self.more.get(model, {})}
            for model, prices in self.prices.items()
        ]
        said = {name: value for name, value in self.more.items() if name not in self.prices}
        return {
            "slug": self.slug,
            "format": self.wire_format,
            "base_url": running.url,
            "api_key": f"env:{self.variable}",
            "models": models,
            **said,
        }

    def _script(self):
        dice = random.Random(self.slug)
        for number in itertools.count():
            is_bad = self.fails and number % PERIOD == PLACE_OF_FAILURE
            yield failing(503) if is_bad else slow(dice.uniform(*self.seconds))


def _dated(prices):
    """Prices of the past and of now; the last has held for twelve days."""
    tables = [{"usd_per_million_tokens": price} for price in prices]
    if len(tables) > 1:
        tables[-1]["from"] = (datetime.now(UTC) - timedelta(days=12)).date().isoformat()
    return tables


LOCAL = {
    "slug": "local",
    "format": "local",
    "name": "This machine",
    "region": "on site",
    "zdr": True,
    "no_training": True,
    "models": [
        {"model": model, "prices": [{"usd_per_million_tokens": "0.004"}]} for model in (TINY_EMBEDDING, TINY_RERANKER)
    ],
}

AWAY = (
    Away(
        slug="larkfen",
        wire_format="quernel",
        prices=dict(
            zip(
                (*EMBEDDINGS, *RERANKERS),
                (["0.01"], ["0.02"], ["0.06", "0.05"], ["0.01"], ["0.025"], ["0.05"]),
                strict=True,
            )
        ),
        seconds=(0.012, 0.028),
        more={
            "name": "Larkfen Cloud",
            "region": "eu-west",
            "headquarters": "NL",
            "zdr": True,
            "no_training": True,
            "byok": True,
            "terms": "https://larkfen.example/terms",
        },
    ),
    Away(
        slug="ostbridge",
        wire_format="openai",
        prices=dict(zip(EMBEDDINGS, (["0.008"], ["0.018", "0.016"], ["0.04"]), strict=True)),
        seconds=(0.008, 0.02),
        fails=True,
        more={
            "name": "Ostbridge AI",
            "region": "us-east",
            "headquarters": "US",
            "terms": "https://ostbridge.example/terms",
        },
    ),
    Away(
        slug="vellmoor",
        wire_format="cohere",
        prices=dict(
            zip(
                (*EMBEDDINGS, *RERANKERS),
                (["0.012"], ["0.024"], ["0.055"], ["0.012"], ["0.02"], ["0.045"]),
                strict=True,
            )
        ),
        seconds=(0.07, 0.15),
        more={
            "name": "Vellmoor Compute",
            "region": "ap-southeast",
            "headquarters": "SG",
            "no_training": True,
            "terms": "https://vellmoor.example/terms",
            EMBEDDINGS[2]: {"quantization": "fp8"},
        },
    ),
)


# What is asked now, so that there are figures of live traffic


def ask_everybody(served):
    """Ask every model of every provider, as the operator.

    A provider is asked for one thing after the other, so that it fails at the same ones each time and nobody waits for
    anybody else; the models of the slow one, which does little but wait, at once.
    """
    works = [("local", (TINY_EMBEDDING, TINY_RERANKER))]
    for away in AWAY:
        works += [(away.slug, (model,)) for model in away.prices] if away.is_slow else [(away.slug, tuple(away.prices))]

    def work(slug, models):
        for model in models * ROUNDS:
            _ask(served, served.key, model, order=[slug], has=PACKED.get((slug, model), ()))

    with ThreadPoolExecutor(len(works)) as pool:
        for done in [pool.submit(work, *one) for one in works]:
            done.result()


def ask_as_customers(served, keys):
    """Ask as programs of a customer do, one of them until it may not any more.

    Returns:
        The generation of a request that went to a provider away.
    """
    while _ask(served, keys["spent"], TINY_EMBEDDING, may_be_refused=True).status_code == OK:
        pass
    dice = random.Random(ROUNDS)
    for model, role, options in NOW:
        reply = _ask(served, keys[role], model, texts=dice.sample(TEXTS, dice.randint(1, len(TEXTS))), **options)
    return reply.headers["x-quernel-generation-id"]


SHOP, TRIAL = {"user": "shop", "tags": ["query"]}, {"user": "anna", "tags": ["trial"]}

NOW = (
    *((TINY_EMBEDDING, "customer", TRIAL), (TINY_RERANKER, "customer", TRIAL)),
    *((EMBEDDINGS[1], "search", SHOP), (RERANKERS[1], "search", SHOP)) * 3,
    (EMBEDDINGS[2], "customer", {**TRIAL, "order": ["ostbridge"]}),
    *((EMBEDDINGS[1], "search", {**SHOP, "user": "app"}), (RERANKERS[1], "search", {**SHOP, "user": "app"})) * 2,
    (EMBEDDINGS[0], "customer", {"tags": ["evaluation"], "order": ["larkfen"]}),
    (EMBEDDINGS[1], "search", SHOP),
)
"""Model, key and options of what a customer's programs have asked last."""

PACKED = {("vellmoor", EMBEDDINGS[2]): ["quantization:fp8"]}
"""Weights that answer only those who ask for them."""

OK, TOO_MANY = 200, 429


def _ask(served, key, model, *, texts=TEXTS, may_be_refused=False, **options):
    is_reranker = model in (TINY_RERANKER, *RERANKERS)
    body = {"query": QUERY, "documents": texts} if is_reranker else {"input": texts, "encoding_format": "base64"}
    reply = served.http.post(
        "/v1/rerank" if is_reranker else "/v1/embeddings",
        json={"model": model, **body, "providerOptions": {"gateway": options}},
        headers={"authorization": f"Bearer {key}"},
    )
    assert reply.status_code == OK or (may_be_refused and reply.status_code == TOO_MANY), reply.text
    return reply
