"""What the books hold, as replies and `--json` show it."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from quernel.gateway.accounts import Account, Member
from quernel.gateway.audit import Change
from quernel.gateway.health import Condition
from quernel.gateway.keys import Key
from quernel.gateway.ledger import Balance, Discrepancy
from quernel.gateway.limits import Limit, show_limits
from quernel.gateway.listings import Entry
from quernel.gateway.money import MILLION, THOUSAND, Picos, Price, format_dollars
from quernel.gateway.providers import Offer, Provider
from quernel.gateway.usage import TAG_SEPARATOR, Usage
from quernel.gateway.windows import Used
from quernel.protocols.gateway_admin import (
    AccountEntry,
    AttemptEntry,
    AuditEntry,
    BalanceEntry,
    ConditionEntry,
    CountWindow,
    CredentialEntry,
    DiscrepancyEntry,
    KeyEntry,
    LedgerEntry,
    LimitsEntry,
    MemberEntry,
    MoneyWindow,
    NewKeyReply,
    OfferEntry,
    PriceEntry,
    PriceReply,
    ProviderEntry,
    RequestEntry,
    WindowEntry,
    format_time,
)


def show_time(milliseconds: int | None) -> str | None:
    """A moment; `None` where there is none."""
    return None if milliseconds is None else format_time(milliseconds)


def show_key(key: Key) -> KeyEntry:
    """A key."""
    return KeyEntry(**_key(key))


def show_new_key(key: Key, text: str) -> NewKeyReply:
    """A key with its text."""
    return NewKeyReply(**_key(key), key=text)


def _key(key: Key) -> dict[str, Any]:
    settings = key.settings
    return {
        "id": key.id,
        "prefix": key.prefix,
        "name": key.name,
        "account": key.account,
        "scopes": sorted(settings.scopes),
        "models": list(settings.models),
        "providers": list(settings.providers),
        "limits": show_limits_entry(settings.limits),
        "zdr": settings.zdr,
        "no_training": settings.no_training,
        "tags": list(settings.tags),
        "created": format_time(key.created),
        "created_by": key.created_by,
        "expires": show_time(key.expires),
        "revoked": show_time(key.revoked),
        "rotating_until": show_time(key.rotating_until),
        "last_used": show_time(key.last_used),
    }


def show_limits_entry(limits: Sequence[Limit]) -> LimitsEntry:
    """Limits."""
    return msgspec.convert(show_limits(limits), LimitsEntry)


def show_used(used: Used) -> WindowEntry:
    """A limit and what is used of it."""
    limit = used.meter.limit

    def count(most: int | None, so_far: int) -> CountWindow | None:
        return None if most is None else CountWindow(limit=most, used=so_far, left=max(most - so_far, 0))

    money = None
    if limit.spend is not None:
        left = format_dollars(max(limit.spend - used.spend, 0))
        money = MoneyWindow(limit=format_dollars(limit.spend), used=format_dollars(used.spend), left=left)
    return WindowEntry(
        of=used.meter.subject.partition(":")[0],
        period=limit.period.value,
        resets=format_time(used.window.end),
        requests=count(limit.requests, used.requests),
        tokens=count(limit.tokens, used.tokens),
        usd=money,
    )


def show_balance(money: Balance) -> BalanceEntry:
    """The money of an account."""
    return BalanceEntry(
        balance=format_dollars(money.balance),
        held=format_dollars(money.held),
        available=format_dollars(money.available),
        spent=format_dollars(money.spent),
    )


def show_account(account: Account) -> AccountEntry:
    """An account."""
    settings = account.settings
    return AccountEntry(
        id=account.id,
        slug=account.slug,
        name=account.name,
        kind=account.kind.value,
        status=account.status.value,
        limits=show_limits_entry(settings.limits),
        models=list(settings.models),
        providers=list(settings.providers),
        regions=list(settings.regions),
        issuers=list(settings.issuers),
        zdr=settings.zdr,
        no_training=settings.no_training,
        capture=settings.capture,
        balance=show_balance(Balance(balance=account.balance, held=account.held, spent=account.spent)),
        created=format_time(account.created),
    )


def show_member(member: Member) -> MemberEntry:
    """A member of an account."""
    return MemberEntry(
        subject=member.subject,
        role=member.role.value,
        email=member.email,
        account=member.account,
        created=format_time(member.created),
    )


def show_credentials(credentials: Mapping[str, int]) -> list[CredentialEntry]:
    """Providers to which a key is stored."""
    return [
        CredentialEntry(provider=provider, created=format_time(created))
        for provider, created in sorted(credentials.items())
    ]


def show_entry(entry: Entry) -> LedgerEntry:
    """An entry of the ledger."""
    return LedgerEntry(
        id=entry.id,
        account=entry.account,
        time=format_time(entry.time),
        kind=entry.kind,
        amount=format_dollars(entry.amount),
        reference=entry.reference,
        actor=entry.actor,
        note=entry.note,
    )


def show_request(row: Usage) -> RequestEntry:
    """A request."""
    return RequestEntry(
        id=row.id,
        time=format_time(row.time),
        account=row.account,
        key=row.key,
        user=row.user,
        tags=[tag for tag in row.tags.split(TAG_SEPARATOR) if tag],
        operation=row.operation,
        model=row.model,
        provider=row.provider,
        status=row.status,
        code=row.code,
        items=row.items,
        tokens=row.tokens,
        output_tokens=row.output_tokens,
        documents=row.documents,
        cost=format_dollars(row.cost),
        upstream_cost=format_dollars(row.upstream_cost),
        price=row.price,
        milliseconds=round(row.milliseconds, 3),
        upstream_milliseconds=round(row.upstream_milliseconds, 3),
        attempts=[AttemptEntry(**attempt) for attempt in row.attempts],
        byok=row.byok,
        credential=row.credential,
    )


def show_price(price: Price) -> PriceEntry:
    """A price."""
    return PriceEntry(**_price(price))


def show_new_price(provider: str, model: str, price: Price) -> PriceReply:
    """A price, with what it is for."""
    return PriceReply(**_price(price), provider=provider, model=model)


def _price(price: Price) -> dict[str, Any]:
    def usd(amount: Picos, unit: int) -> str:
        return format_dollars(amount, unit=unit)

    return {
        "id": price.id,
        "since": format_time(price.valid_from),
        "usd_per_million_tokens": usd(price.token, MILLION),
        "usd_per_million_output_tokens": usd(price.output_token, MILLION),
        "usd_per_thousand_documents": usd(price.document, THOUSAND),
        "usd_per_request": usd(price.request, 1),
    }


def show_provider(
    provider: Provider,
    *,
    source: str,
    updated: int,
    problem: Callable[[Offer], str | None] = lambda offer: None,
    condition: Callable[[Offer], Condition | None] = lambda offer: None,
) -> ProviderEntry:
    """A provider.

    Args:
        provider: The provider.
        source: Where it comes from.
        updated: When it was changed last.
        problem: Why a model of it cannot be asked.
        condition: How a model of it is doing.
    """
    return ProviderEntry(
        slug=provider.slug,
        format=provider.format,
        name=provider.title,
        base_url=provider.base_url,
        api_key=provider.api_key,
        headers=list(provider.headers),
        region=provider.region,
        headquarters=provider.headquarters,
        zdr=provider.zdr,
        no_training=provider.no_training,
        byok=provider.byok,
        concurrency=provider.concurrency,
        timeout_seconds=provider.timeout_seconds,
        allow_http=provider.allow_http,
        terms=provider.terms,
        enabled=provider.enabled,
        source=source,
        updated=format_time(updated),
        models=[_offer(offer, problem(offer), condition(offer)) for offer in provider.models],
    )


def _offer(offer: Offer, problem: str | None, condition: Condition | None) -> OfferEntry:
    return OfferEntry(
        model=offer.model,
        upstream=offer.upstream or offer.model,
        quantization=offer.quantization,
        max_tokens=offer.max_tokens,
        dimensions=offer.dimensions,
        max_texts=offer.max_texts,
        released=offer.released,
        options=dict(offer.options),
        prices=[show_price(price) for price in offer.prices],
        problem=problem,
        condition=None if condition is None else show_condition(condition),
    )


def show_condition(condition: Condition) -> ConditionEntry:
    """How a model at a provider is doing."""

    def figure(number: float | None, digits: int, unit: float = 1.0) -> float | None:
        return None if number is None else round(number * unit, digits)

    return ConditionEntry(
        state=condition.state.value,
        latency_p50_ms=figure(condition.latency_p50, 2, 1000),
        latency_p95_ms=figure(condition.latency_p95, 2, 1000),
        tokens_per_second=figure(condition.throughput, 1),
        uptime=figure(condition.uptime, 4),
        requests=round(condition.requests, 2),
        running=condition.running,
        drifted=condition.drifted,
        canary_cosine=condition.canary_cosine,
        last_failure=None if condition.last_failure is None else condition.last_failure.value,
    )


def show_change(change: Change) -> AuditEntry:
    """A line of the audit."""
    return AuditEntry(
        id=change.id,
        time=format_time(change.time),
        actor=change.actor,
        action=change.action,
        target=change.target,
        detail=dict(change.detail),
    )


def show_discrepancy(one: Discrepancy) -> DiscrepancyEntry:
    """Where the books do not agree."""
    return DiscrepancyEntry(
        account=one.account, what=one.what, row=format_dollars(one.row), sum=format_dollars(one.sum)
    )
