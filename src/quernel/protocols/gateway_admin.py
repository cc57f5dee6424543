"""How a gateway is managed: keys, accounts, members, money, usage, customers' credentials, providers and prices.

Money is decimal text in US dollars, times are ISO 8601 in UTC. The text of a key is in the reply that makes it and in
no other; its prefix tells keys apart. A field that a change leaves out stays what it is.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal, TypeVar

from msgspec import UNSET, Meta, Struct, UnsetType, field

from quernel.errors import InvalidRequestError
from quernel.protocols.body import decode_request_body, encode_body
from quernel.protocols.gateway import Dollars

Q = TypeVar("Q", bound=Struct)

MOST_NAME, MOST_LABEL = 64, 200
"""Letters that are kept of a slug; and of a name, note or reference."""

MOST_COUNT = 2**63 - 1
"""What a column of whole numbers holds."""

FIRST_MOMENT, LAST_MOMENT = -62_135_596_800_000, 253_402_300_799_999
"""Milliseconds since 1970 of the first and last moments that ISO 8601 writes with four digits for the year."""

MOST_LISTED, LISTED = 1000, 100
"""Lines of one page: the most, and how many where a request does not say."""

LONGEST_LIMIT = 9
"""Digits of a number that is looked at."""

LONGEST_GRACE_SECONDS = 30 * 86_400

PRINTABLE = r"^[^\x00-\x1f\x7f]*$(?!\n)"
"""No control characters: they are no part of a name, and a database need not take all of them."""

Moment = Annotated[str, Meta(description="ISO 8601, in UTC.")]
Label = Annotated[str, Meta(max_length=MOST_LABEL, pattern=PRINTABLE)]
Named = Annotated[str, Meta(min_length=1, max_length=MOST_LABEL, pattern=PRINTABLE)]
Count = Annotated[int, Meta(ge=0, le=MOST_COUNT)]
ModelNames = Annotated[list[Label], Meta(description="Models that may be asked; empty for all.")]
ProviderNames = Annotated[list[Label], Meta(description="Providers that may answer; empty for all.")]
Regions = Annotated[list[Label], Meta(description="Regions in which requests may be computed; empty for all.")]
Issuers = Annotated[list[Label], Meta(description="Issuers whose tokens may name the account by a claim.")]
ZeroRetention = Annotated[bool, Meta(description="Only providers that keep nothing.")]
NoTraining = Annotated[bool, Meta(description="Only providers that do not train on requests.")]
Capture = Annotated[
    bool, Meta(description="Whether requests and replies are written to the gateway's capture file, if it has one.")
]
Scopes = Annotated[list[str], Meta(description="Of `infer`, `read`, `manage`, `operate`.")]
Tags = Annotated[list[Label], Meta(description="What its usage is filed under.")]
AccountId = Annotated[str, Meta(description="The id of the account.")]
AccountName = Annotated[
    Label | None,
    Meta(description="Another account than the key's own, by id or slug; `*` for all. Needs the scope `operate`."),
]
Cursor = Annotated[str | None, Meta(description="`next_cursor` of the page before.")]
NextCursor = Annotated[str | None, Meta(description="Asks for the next page; null on the last.")]
PageLength = Annotated[int, Meta(ge=1, le=MOST_LISTED, description="Lines of a page.")]
AccountStatusName = Literal["active", "suspended", "closed"]
RoleName = Literal["viewer", "member", "admin", "owner"]


def format_time(milliseconds: int) -> str:
    """A moment, from milliseconds since 1970, as ISO 8601."""
    moment = datetime.fromtimestamp(milliseconds / 1000, UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def parse_time(text: str, *, place: str) -> int:
    """Milliseconds since 1970, from a day or a moment; one without a time zone is in UTC.

    Raises:
        InvalidRequestError: It is none, or not within the years 1 to 9999 in UTC.
    """
    hint = "Write it like 2026-01-31 or 2026-01-31T12:00:00Z."
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise InvalidRequestError(f"{place} is {text!r}, which is no time.", param=place, hint=hint) from error
    found = int((moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    if not FIRST_MOMENT <= found <= LAST_MOMENT:
        raise InvalidRequestError(f"{place} is {text!r}, which is in no year from 1 to 9999.", param=place, hint=hint)
    return found


def decode_query(params: Mapping[str, str], shape: type[Q]) -> Q:
    """What the query of a URL asks for.

    Raises:
        InvalidRequestError: A parameter that is not known, or of another type.
    """
    for name, text in params.items():
        if "\0" in text:
            raise InvalidRequestError(f"{name} holds a NUL.", param=name, hint="Leave the NUL out.")
    return decode_request_body(encode_body({name: _number_or_text(name, text) for name, text in params.items()}), shape)


def _number_or_text(name: str, text: str) -> int | str:
    return int(text) if name == "limit" and text.isdecimal() and len(text) <= LONGEST_LIMIT else text


class LimitEntry(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """The most that a window takes; what is left out has no limit."""

    requests: Annotated[Count | None, Meta(description="Requests.")] = None
    tokens: Annotated[Count | None, Meta(description="Tokens that models read.")] = None
    usd: Annotated[Dollars | None, Meta(description="Money.")] = None


class LimitsEntry(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Limits by calendar minute, day and month in UTC. In a change they take the place of all that there were."""

    minute: LimitEntry | None = None
    day: LimitEntry | None = None
    month: LimitEntry | None = None


class AccountQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """Whose."""

    account: AccountName = None


class PageQuery(AccountQuery, kw_only=True, forbid_unknown_fields=True):
    """A page of a list that has the newest first."""

    limit: PageLength = LISTED
    cursor: Cursor = None


class KeyBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A key to make."""

    name: Annotated[Named, Meta(description="What it is for.")]
    account: AccountName = None
    scopes: Scopes | None = None
    models: ModelNames | None = None
    providers: ProviderNames | None = None
    limits: LimitsEntry | None = None
    zdr: ZeroRetention | None = None
    no_training: NoTraining | None = None
    tags: Tags | None = None
    expires: Annotated[Moment | None, Meta(description="When it ends; never, where that is not said.")] = None


class KeyChangeBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be different about a key."""

    name: Named | None = None
    scopes: Scopes | None = None
    models: ModelNames | None = None
    providers: ProviderNames | None = None
    limits: LimitsEntry | None = None
    zdr: ZeroRetention | None = None
    no_training: NoTraining | None = None
    tags: Tags | None = None
    expires: Annotated[Moment | UnsetType | None, Meta(description="When it ends; null for never.")] = UNSET


class RotateBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """How a key is given a new secret."""

    grace_seconds: Annotated[
        int, Meta(ge=0, le=LONGEST_GRACE_SECONDS, description="How long the old secret stays good.")
    ] = 0


class KeyEntry(Struct, kw_only=True):
    """A key, without its secret."""

    id: str
    prefix: Annotated[str, Meta(description="How the text of the key begins.")]
    name: str
    account: AccountId
    scopes: Scopes
    models: ModelNames
    providers: ProviderNames
    limits: LimitsEntry
    zdr: ZeroRetention
    no_training: NoTraining
    tags: Tags
    created: Moment
    created_by: str
    expires: Moment | None = None
    revoked: Moment | None = None
    rotating_until: Annotated[
        Moment | None, Meta(description="Until when the secret of before the last rotation is good, too.")
    ] = None
    last_used: Annotated[Moment | None, Meta(description="About when it was last used.")] = None


class NewKeyReply(KeyEntry, kw_only=True):
    """A key with its text, which is not shown again."""

    key: Annotated[str, Meta(description="The key itself.")]


class KeyPage(Struct, kw_only=True):
    """Keys, the newest first."""

    data: list[KeyEntry]
    next_cursor: NextCursor = None


class CountWindow(Struct, kw_only=True):
    """How much of a number is used."""

    limit: int
    used: int
    left: int


class MoneyWindow(Struct, kw_only=True):
    """How much money is used; what requests under way may cost at most counts as used."""

    limit: Dollars
    used: Dollars
    left: Dollars


class WindowEntry(Struct, kw_only=True, omit_defaults=True):
    """A limit and what is used of it."""

    of: Annotated[str, Meta(description="Whose limit: `key`, `account` or `address`.")]
    period: Annotated[str, Meta(description="`minute`, `day` or `month`.")]
    resets: Annotated[Moment, Meta(description="When the next window begins.")]
    requests: CountWindow | None = None
    tokens: CountWindow | None = None
    usd: MoneyWindow | None = None


class BalanceEntry(Struct, kw_only=True):
    """The money of an account."""

    balance: Annotated[Dollars, Meta(description="The sum of its entries.")]
    held: Annotated[Dollars, Meta(description="What requests under way have reserved of it.")]
    available: Annotated[Dollars, Meta(description="What is left to spend.")]
    spent: Annotated[Dollars, Meta(description="What requests have cost so far.")]


class OwnKeyReply(Struct, kw_only=True):
    """Who asks, what it may do, and how much is left of that."""

    id: str
    prefix: Annotated[str | None, Meta(description="How the key begins; null for a token or a visitor.")] = None
    label: Annotated[str, Meta(description="The name of the key, or of whoever a token is for.")]
    credential: Annotated[str, Meta(description="`api-key`, `oidc` or `demo`.")]
    account: AccountId
    account_slug: str
    account_name: str
    scopes: Annotated[list[str], Meta(description="All that it may do.")]
    models: ModelNames
    providers: ProviderNames
    zdr: ZeroRetention
    no_training: NoTraining
    tags: Tags
    expires: Moment | None = None
    limits: Annotated[list[WindowEntry], Meta(description="The limits that bind it.")]
    balance: BalanceEntry


class AccountBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """An account to make."""

    slug: Annotated[str, Meta(description="Its name in addresses and tokens: small letters, digits, dots and dashes.")]
    name: Annotated[Label, Meta(description="Its name for people.")] = ""
    kind: Literal["organisation", "person"] = "organisation"
    welcome: Annotated[Dollars | None, Meta(description="Its first credit; the gateway's, where it is not said.")] = (
        None
    )
    limits: LimitsEntry | None = None
    models: ModelNames | None = None
    providers: ProviderNames | None = None
    regions: Regions | None = None
    issuers: Issuers | None = None
    zdr: ZeroRetention | None = None
    no_training: NoTraining | None = None
    capture: Capture | None = None


class AccountPageQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """A page of all accounts."""

    limit: PageLength = LISTED
    cursor: Cursor = None


class AccountChangeBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What is to be different about an account.

    Its members may change `name`, `zdr`, `no_training` and `capture`; the rest is what the operator allows it.
    """

    name: Named | None = None
    status: AccountStatusName | None = None
    limits: LimitsEntry | None = None
    models: ModelNames | None = None
    providers: ProviderNames | None = None
    regions: Regions | None = None
    issuers: Issuers | None = None
    zdr: ZeroRetention | None = None
    no_training: NoTraining | None = None
    capture: Capture | None = None


class AccountEntry(Struct, kw_only=True):
    """An account."""

    id: str
    slug: str
    name: str
    kind: Annotated[str, Meta(description="`organisation`, `person`, `operator` or `demo`.")]
    status: Annotated[str, Meta(description="`active`, `suspended` or `closed`.")]
    limits: LimitsEntry
    models: ModelNames
    providers: ProviderNames
    regions: Regions
    issuers: Issuers
    zdr: ZeroRetention
    no_training: NoTraining
    capture: Capture
    balance: BalanceEntry
    created: Moment


class AccountPage(Struct, kw_only=True):
    """Accounts, by slug."""

    data: list[AccountEntry]
    next_cursor: NextCursor = None


class CreditBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Money for an account."""

    amount: Annotated[Dollars, Meta(description="Above zero; an adjustment may be below.")]
    reference: Annotated[Named, Meta(description="Names the payment: one that was entered is not entered again.")]
    kind: Literal["grant", "purchase", "refund", "adjustment"] = "purchase"
    note: Label | None = None


class CreditReply(Struct, kw_only=True):
    """What came of it."""

    entered: Annotated[bool, Meta(description="Whether it was entered now; false where it was before.")]
    account: AccountId
    balance: BalanceEntry


class MemberBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """Somebody who may act for an account."""

    subject: Annotated[Named, Meta(description="`issuer|subject` of an identity provider.")]
    role: RoleName
    email: Label | None = None


class MemberQuery(AccountQuery, kw_only=True, forbid_unknown_fields=True):
    """Who, of whose members."""

    subject: Named


class MemberEntry(Struct, kw_only=True):
    """Somebody who may act for an account."""

    subject: str
    role: RoleName
    email: str | None = None
    account: AccountId
    created: Moment


class MemberList(Struct, kw_only=True):
    """Who may act for an account."""

    data: list[MemberEntry]


class DeletedReply(Struct, kw_only=True):
    """What is no more."""

    id: str
    deleted: Literal[True] = True


class LedgerQuery(PageQuery, kw_only=True, forbid_unknown_fields=True):
    """A page of the ledger."""

    kind: Literal["grant", "purchase", "charge", "refund", "adjustment", "closing"] | None = None


class LedgerEntry(Struct, kw_only=True):
    """Money that came or went."""

    id: int
    account: AccountId
    time: Moment
    kind: str
    amount: Annotated[Dollars, Meta(description="Below zero where it went.")]
    reference: Annotated[str, Meta(description="The generation that it paid for, or the name of a payment.")]
    actor: Annotated[str, Meta(description="Whose doing it was.")]
    note: str | None = None


class LedgerPage(Struct, kw_only=True):
    """Entries of the ledger, the newest first."""

    data: list[LedgerEntry]
    next_cursor: NextCursor = None


class RequestQuery(PageQuery, kw_only=True, forbid_unknown_fields=True):
    """A page of requests."""

    key: Annotated[str | None, Meta(description="Only of this key.")] = None
    user: Annotated[str | None, Meta(description="Only for this user.")] = None
    model: Annotated[str | None, Meta(description="Only of this model.")] = None
    provider: Annotated[str | None, Meta(description="Only what this provider answered.")] = None
    start: Annotated[Moment | None, Meta(description="From when.")] = None
    end: Annotated[Moment | None, Meta(description="Until when, itself not in it.")] = None


class AttemptEntry(Struct, kw_only=True, omit_defaults=True):
    """One time that a provider was asked."""

    provider: str
    model: str
    outcome: Annotated[str, Meta(description="`ok`, `abandoned`, or how it failed.")]
    ms: Annotated[float, Meta(description="How long it took.")]
    status: Annotated[int | None, Meta(description="What it answered, where that was a failure.")] = None


class RequestEntry(Struct, kw_only=True):
    """A request: how much, by whom, where and at what price. What was asked and answered is kept nowhere."""

    id: Annotated[str, Meta(description="The generation.")]
    time: Moment
    account: AccountId
    key: str
    user: str
    tags: list[str]
    operation: Annotated[str, Meta(description="`embed`, `rerank` or `chat`.")]
    model: str
    provider: Annotated[str, Meta(description="Who answered; empty where nobody could.")]
    status: int
    code: str | None = None
    items: Annotated[int, Meta(description="Texts or documents.")]
    tokens: Annotated[int, Meta(description="Tokens that the model read.")]
    output_tokens: Annotated[int, Meta(description="Tokens that it wrote.")]
    documents: Annotated[int, Meta(description="Documents that it ranked.")]
    cost: Annotated[Dollars, Meta(description="What was charged.")]
    upstream_cost: Annotated[Dollars, Meta(description="What it is at the provider's price.")]
    price: Annotated[int, Meta(description="The row of the price table.")]
    milliseconds: float
    upstream_milliseconds: float
    attempts: Annotated[list[AttemptEntry], Meta(description="Who was asked, in the order in which they ended.")]
    byok: Annotated[bool, Meta(description="Whether the customer's own key to the provider was used.")]
    credential: str


class RequestPage(Struct, kw_only=True):
    """Requests, the newest first."""

    data: list[RequestEntry]
    next_cursor: NextCursor = None


class UsageReportQuery(AccountQuery, kw_only=True, forbid_unknown_fields=True):
    """A report of what was used."""

    start: Annotated[
        Moment | None, Meta(description="From which day or full hour, as far as sums are kept; by default 30 days ago.")
    ] = None
    end: Annotated[Moment | None, Meta(description="Until which, itself not in it; now by default.")] = None
    by: Annotated[
        str,
        Meta(
            description="What it is divided by, with commas between: `day`, `hour`, `account`, `key`, `user`, `tag`, "
            "`model`, `provider`, `credential`, `operation`."
        ),
    ] = "day"
    format: Literal["json", "csv"] = "json"
    key: Annotated[str | None, Meta(description="Only of this key.")] = None
    user: Annotated[str | None, Meta(description="Only for this user.")] = None
    model: Annotated[str | None, Meta(description="Only of this model.")] = None
    provider: Annotated[str | None, Meta(description="Only what this provider answered.")] = None
    operation: Annotated[Literal["embed", "rerank", "chat"] | None, Meta(description="Only of this kind.")] = None
    tags: Annotated[str | None, Meta(description="Only what is filed under one of these, with commas between.")] = None


class ReportLine(Struct, kw_only=True):
    """What was used by one group."""

    group: Annotated[dict[str, str], Meta(description="What it is divided by, to its value.")]
    requests: Annotated[int, Meta(description="Requests, failed ones too.")]
    errors: Annotated[int, Meta(description="Those that failed.")]
    items: int
    tokens: int
    output_tokens: int
    documents: int
    cost: Annotated[Dollars, Meta(description="What was charged.")]
    upstream_cost: Annotated[Dollars, Meta(description="What it is at the providers' prices.")]
    milliseconds: Annotated[float, Meta(description="Time of all requests together.")]


class UsageReport(Struct, kw_only=True):
    """What was used."""

    start: Annotated[Moment, Meta(description="Later than what was asked for where sums are no longer kept.")]
    end: Moment
    by: list[str]
    data: list[ReportLine]


class CredentialBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """A customer's own key to a provider."""

    key: Annotated[
        str, Meta(min_length=1, max_length=4096, pattern=r"^[!-~]+$(?!\n)", description="As the provider gave it.")
    ]


class CredentialEntry(Struct, kw_only=True):
    """That a key to a provider is stored; the key is never shown."""

    provider: str
    created: Moment


class CredentialList(Struct, kw_only=True):
    """Providers to which a key is stored."""

    data: list[CredentialEntry]


class PriceBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A price; its parts add up, and what is left out costs nothing."""

    since: Annotated[
        Moment | None, Meta(description="The day or moment from which it holds; always, where it is not said.")
    ] = field(default=None, name="from")
    usd_per_million_tokens: Annotated[Dollars | int, Meta(description="Tokens that the model reads.")] = 0
    usd_per_million_output_tokens: Annotated[Dollars | int, Meta(description="Tokens that it writes.")] = 0
    usd_per_thousand_documents: Annotated[Dollars | int, Meta(description="Documents that it ranks.")] = 0
    usd_per_request: Annotated[Dollars | int, Meta(description="Each request.")] = 0


class NewPriceBody(PriceBody, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A new price of a model at a provider."""

    model: Annotated[Named, Meta(description="The gateway's name of the model.")]


class OfferBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A model at a provider."""

    model: Annotated[Named, Meta(description="The gateway's name of the model.")]
    upstream: Annotated[str | None, Meta(description="The provider's, where it is another.")] = None
    quantization: Annotated[str | None, Meta(description="How its weights are stored: `bf16`, `int8`, ...")] = None
    max_tokens: Annotated[int | None, Meta(description="The longest input that it reads there.")] = None
    dimensions: Annotated[int | None, Meta(description="Length of its vectors, where it is less than its own.")] = None
    max_texts: Annotated[int | None, Meta(description="Most texts in one request.")] = None
    prices: list[PriceBody] | None = None
    released: Annotated[str | None, Meta(description="Since when it is offered there.")] = None
    options: Annotated[dict[str, Any] | None, Meta(description="For the wire format.")] = None


class ProviderBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A provider, new or in place of the one of its slug; the keys of a `[[providers]]` table."""

    slug: Annotated[str, Meta(description="Its name in requests and replies.")]
    format: Annotated[str, Meta(description="The wire format that it speaks.")]
    name: Annotated[Label | None, Meta(description="Its name for people.")] = None
    base_url: str | None = None
    api_key: Annotated[
        str | None, Meta(description="Where the gateway finds its key: `env:NAME` or `file:PATH`; never the key.")
    ] = None
    headers: Annotated[dict[str, str] | None, Meta(description="Sent with every request.")] = None
    region: Annotated[str | None, Meta(description="Where it computes.")] = None
    headquarters: Annotated[str | None, Meta(description="The country of its seat, two letters.")] = None
    zdr: Annotated[bool | None, Meta(description="Whether it keeps nothing, by contract.")] = None
    no_training: Annotated[bool | None, Meta(description="Whether it promises not to train on requests.")] = None
    byok: Annotated[bool | None, Meta(description="Whether customers may bring their own keys.")] = None
    concurrency: Annotated[int | None, Meta(description="Most requests to it at once.")] = None
    timeout_seconds: float | None = None
    allow_http: Annotated[bool | None, Meta(description="Whether it may be spoken to without TLS.")] = None
    terms: Annotated[str | None, Meta(description="Where its terms are.")] = None
    enabled: Annotated[bool | None, Meta(description="Whether it is asked at all.")] = None
    models: list[OfferBody] | None = None


class ProviderChangeBody(Struct, kw_only=True, forbid_unknown_fields=True):
    """Whether a provider is asked."""

    enabled: bool


class PriceEntry(Struct, kw_only=True):
    """A price."""

    id: int
    since: Annotated[Moment, Meta(description="From when it holds.")] = field(name="from")
    usd_per_million_tokens: Dollars
    usd_per_million_output_tokens: Dollars
    usd_per_thousand_documents: Dollars
    usd_per_request: Dollars


class PriceReply(PriceEntry, kw_only=True):
    """A price of a model at a provider."""

    provider: str
    model: str


class ConditionEntry(Struct, kw_only=True):
    """How a model at a provider is doing, as this gateway has seen of late."""

    state: Annotated[str, Meta(description="`closed`: it is asked; `open`: it is not, for a while; `probing`.")]
    latency_p50_ms: float | None = None
    latency_p95_ms: float | None = None
    tokens_per_second: float | None = None
    uptime: Annotated[float | None, Meta(description="The share of requests that it answered.")] = None
    requests: Annotated[float, Meta(description="How many those are; old ones count less.")]
    running: Annotated[int, Meta(description="Requests under way.")]
    drifted: Annotated[str, Meta(description="Why its vectors are not the model's; empty where they are.")]
    canary_cosine: float | None = None
    last_failure: str | None = None


class OfferEntry(Struct, kw_only=True):
    """A model at a provider."""

    model: str
    upstream: str
    quantization: str
    max_tokens: int | None = None
    dimensions: int | None = None
    max_texts: int | None = None
    released: str | None = None
    options: dict[str, Any]
    prices: Annotated[list[PriceEntry], Meta(description="In the order of their beginnings.")]
    problem: Annotated[str | None, Meta(description="Why it cannot be asked as it is configured.")] = None
    condition: ConditionEntry | None = None


class ProviderEntry(Struct, kw_only=True):
    """A provider. Of its headers the names are shown, since what they hold may be secret."""

    slug: str
    format: str
    name: str
    base_url: str
    api_key: Annotated[str | None, Meta(description="Where its key is found.")] = None
    headers: list[str]
    region: str | None = None
    headquarters: str | None = None
    zdr: bool
    no_training: bool
    byok: bool
    concurrency: int | None = None
    timeout_seconds: float
    allow_http: bool
    terms: str | None = None
    enabled: bool
    source: Annotated[str, Meta(description="`file`: the configuration's, which says what it is; `api`.")]
    updated: Moment
    models: list[OfferEntry]


class ProviderList(Struct, kw_only=True):
    """All providers."""

    data: list[ProviderEntry]


class AuditQuery(Struct, kw_only=True, forbid_unknown_fields=True):
    """A page of the audit."""

    limit: PageLength = LISTED
    cursor: Cursor = None
    actor: Annotated[str | None, Meta(description="Only what this one did.")] = None
    action: Annotated[str | None, Meta(description="Only changes of this kind.")] = None
    target: Annotated[str | None, Meta(description="Only changes of this.")] = None


class AuditEntry(Struct, kw_only=True):
    """A change."""

    id: int
    time: Moment
    actor: Annotated[str, Meta(description="Whose doing it was: `api-key:ID`, `oidc:ID` or `cli:USER`.")]
    action: Annotated[str, Meta(description="Such as `key.revoke`.")]
    target: Annotated[str, Meta(description="What was changed: an id, or the name of a provider.")]
    detail: dict[str, Any]


class AuditPage(Struct, kw_only=True):
    """Changes, the newest first."""

    data: list[AuditEntry]
    next_cursor: NextCursor = None


class DiscrepancyEntry(Struct, kw_only=True):
    """A number in an account's row that is not what its entries or holds come to."""

    account: AccountId
    what: Annotated[str, Meta(description="`balance`, `spent` or `held`.")]
    row: Annotated[Dollars, Meta(description="What the row says.")]
    sum: Annotated[Dollars, Meta(description="What they come to.")]


class ReconcileReply(Struct, kw_only=True):
    """Whether the books agree: they do, or there is a fault."""

    agrees: bool
    data: list[DiscrepancyEntry]
