"""The ledger: money is held before a call, settled after it, and let go if it fails.

    grant ──▶ balance ──hold──▶ held ──settle──▶ charged (an entry)
                 ▲               │
                 └─────void──────┘

The exact cost of a request is known once its texts are tokenized, so a hold is exact too, and a budget is hard: what is
not there cannot be held. Entries only grow; the balance of an account is the sum of its entries, and what it has held
the sum of its holds, at the end of every transaction. Each operation is named by its caller, so doing it again (after a
crash, or by an impatient client) does nothing the second time.

Every operation locks the account's row first. So operations of one account happen one after the other, whichever
gateway they come from, and those of several cannot wait for each other in a circle, as a group takes accounts in their
order.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, NamedTuple

import sqlalchemy as sa
from sqlalchemy.engine import Connection

from quernel.errors import ConflictError, InsufficientCreditError, InvalidRequestError, NotFoundError
from quernel.gateway import limits, schema
from quernel.gateway.limits import Meter, Remaining
from quernel.gateway.money import MOST_PICOS, Picos, format_dollars
from quernel.gateway.statement import Statement, read_json, write_json


class EntryKind(StrEnum):
    """Why money came or went."""

    GRANT = "grant"
    """Given, such as a welcome credit."""
    PURCHASE = "purchase"
    """Paid for."""
    CHARGE = "charge"
    """A request."""
    REFUND = "refund"
    """A charge given back."""
    ADJUSTMENT = "adjustment"
    """Set right by an operator."""
    CLOSING = "closing"
    """The charges of a day that is long over, as one."""


SPENDING = frozenset({EntryKind.CHARGE, EntryKind.REFUND, EntryKind.CLOSING})
"""Entries that make up what an account has spent."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hold:
    """What a request is going to cost.

    Attributes:
        id: The generation that it is for; where a request is sent again, that of the first time.
        asker: The generation as which it is asked for now.
        account: Who pays.
        key: Whose request it is.
        amount: Its cost, or the most that it may come to.
        tokens: Its tokens, for limits.
        meters: The limits that bind it.
        instance: The gateway that holds.
    """

    id: str
    asker: str
    account: str
    key: str
    amount: Picos
    tokens: int
    meters: Sequence[Meter] = ()
    instance: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Admission:
    """A request that may run.

    Attributes:
        available: What the account has left, after the hold.
        remaining: What its limits by the minute still take, for `requests` and `tokens`.
    """

    available: Picos
    remaining: dict[str, Remaining] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Balance:
    """The money of an account.

    Attributes:
        balance: The sum of its entries.
        held: What requests under way have reserved of it.
        spent: What requests have cost so far.
    """

    balance: Picos
    held: Picos
    spent: Picos

    @property
    def available(self) -> Picos:
        """What a request may cost."""
        return self.balance - self.held


_LOCK = Statement(
    sa.select(schema.accounts.c.balance, schema.accounts.c.held)
    .where(schema.accounts.c.id == sa.bindparam("account"))
    .with_for_update(key_share=True)  # rows that only name the account are written meanwhile
)
_MOVE = Statement(
    sa.update(schema.accounts)
    .where(schema.accounts.c.id == sa.bindparam("account_is"))
    .values(
        balance=schema.accounts.c.balance + sa.bindparam("more_balance"),
        held=schema.accounts.c.held + sa.bindparam("more_held"),
        spent=schema.accounts.c.spent + sa.bindparam("more_spent"),
    )
)
_FIND_HOLD = Statement(
    sa.select(schema.holds.c.asker, schema.holds.c.amount, schema.holds.c.tokens, schema.holds.c.counters).where(
        schema.holds.c.id == sa.bindparam("hold")
    )
)
_FIND_ENTRY = Statement(
    sa.select(schema.entries.c.amount, schema.entries.c.note).where(
        schema.entries.c.account == sa.bindparam("account"),
        schema.entries.c.kind == sa.bindparam("kind"),
        schema.entries.c.reference == sa.bindparam("reference"),
    )
)
_HOLD = Statement(
    sa.insert(schema.holds),
    ["id", "asker", "account", "key", "amount", "tokens", "counters", "instance", "time"],
)
_DROP_HOLD = Statement(sa.delete(schema.holds).where(schema.holds.c.id == sa.bindparam("hold")))
_ENTER = Statement(sa.insert(schema.entries), ["account", "time", "kind", "amount", "reference", "actor", "note"])


class _HoldRow(NamedTuple):
    """A hold as it is written."""

    asker: str
    amount: Picos
    tokens: int
    counters: Any

    @property
    def places(self) -> list[list[Any]]:
        """The counters that it raised."""
        found: list[list[Any]] = read_json(self.counters)
        return found


def lock(connection: Connection, account: str) -> tuple[Picos, Picos]:
    """Balance and held of an account, which nobody else changes until the transaction ends.

    Raises:
        NotFoundError: No such account.
    """
    row = _LOCK.row(connection, {"account": account})
    if row is None:
        raise NotFoundError(f"There is no account {account}.", param="account")
    balance, held = row
    return balance, held


def _find_hold(connection: Connection, hold_id: str) -> _HoldRow | None:
    row = _FIND_HOLD.row(connection, {"hold": hold_id})
    return None if row is None else _HoldRow(*row)


def hold(connection: Connection, wanted: Hold, *, now: int) -> Admission:
    """Reserve what a request costs, and count it against its limits; one that is paid for, as a request alone.

    Raises:
        ConflictError: The same request is under way.
        InsufficientCreditError: The account, or a budget, does not cover it.
        LimitExceededError: A limit in requests or tokens is reached.
        NotFoundError: No such account.
    """
    balance, held = lock(connection, wanted.account)
    is_again = wanted.id != wanted.asker
    if is_again and _entry(connection, wanted.account, EntryKind.CHARGE, wanted.id) is not None:
        _, remaining = limits.take(connection, wanted.meters, tokens=0, spend=0, now=now)
        return Admission(available=balance - held, remaining=remaining)
    before = _find_hold(connection, wanted.id)
    if before is not None and before.asker == wanted.asker:
        return Admission(available=balance - held)
    if before is not None:
        raise ConflictError("The same request is under way.", hint="Wait for its answer.")
    available = balance - held - wanted.amount
    if wanted.amount and available < 0:
        raise InsufficientCreditError(
            f"This request costs ${format_dollars(wanted.amount)}, but the account has "
            f"${format_dollars(max(balance - held, 0))} available.",
            hint="Add credit to the account.",
        )
    raised, remaining = limits.take(connection, wanted.meters, tokens=wanted.tokens, spend=wanted.amount, now=now)
    if wanted.amount:
        _move(connection, wanted.account, held=wanted.amount)
    values = {
        "id": wanted.id,
        "asker": wanted.asker,
        "account": wanted.account,
        "key": wanted.key,
        "amount": wanted.amount,
        "tokens": wanted.tokens,
        "counters": write_json(raised),
        "instance": wanted.instance,
        "time": now,
    }
    _HOLD.change(connection, values)
    return Admission(available=available, remaining=remaining)


def settle(connection: Connection, wanted: Hold, *, cost: Picos, tokens: int, now: int) -> Picos:
    """Charge a request that was answered, and let go what was held for it beyond that.

    A hold that is gone (another gateway took this one for dead) is held and charged anew, if money and limits allow.

    Args:
        connection: The transaction.
        wanted: What was held.
        cost: What it cost.
        tokens: What it read.
        now: The time.

    Returns:
        What was charged: nothing where the request was paid for already, when it was asked for another time.

    Raises:
        InsufficientCreditError: It cost more than was held, or the hold is gone, and the account or a budget does not
            cover it: the answer must not be given out.
        LimitExceededError: The hold is gone, and a limit in requests or tokens is reached.
    """
    balance, held = lock(connection, wanted.account)
    row = _find_hold(connection, wanted.id)
    if row is None:
        # What is held is not paid for: the hold goes with the charge.
        paid = _entry(connection, wanted.account, EntryKind.CHARGE, wanted.id)
        if paid is not None:
            charged, payer = paid
            return -charged if (payer or wanted.id) == wanted.asker else 0
    amount, counted = (row.amount, row.tokens) if row is not None else (0, 0)
    if cost > amount and balance - held + amount - cost < 0:
        raise InsufficientCreditError(
            f"The request came to ${format_dollars(cost)}, which the account does not cover.",
            hint="Add credit to the account.",
        )
    if row is None and cost:
        limits.take(connection, wanted.meters, tokens=tokens, spend=cost, now=now)
    if row is not None:
        _DROP_HOLD.change(connection, {"hold": wanted.id})
        if tokens != counted or cost != amount:
            for place in row.places:
                limits.add(connection, place, tokens=tokens - counted, spend=cost - amount)
    if cost:
        payer = wanted.asker if wanted.asker != wanted.id else None  # the id says it, nearly always
        _enter(connection, wanted.account, EntryKind.CHARGE, -cost, wanted.id, actor=wanted.key, note=payer, now=now)
    if cost or amount:
        _move(connection, wanted.account, balance=-cost, held=-amount, spent=cost)
    return cost


def void(connection: Connection, hold_id: str, account: str) -> bool:
    """Let go what was held for a request that failed. Its tokens and money no longer count; that it was made does.

    Returns:
        Whether there was anything.
    """
    lock(connection, account)
    row = _find_hold(connection, hold_id)
    if row is None:
        return False
    _DROP_HOLD.change(connection, {"hold": hold_id})
    for place in row.places:
        limits.add(connection, place, tokens=-row.tokens, spend=-row.amount)
    if row.amount:
        _move(connection, account, held=-row.amount)
    return True


def enter(
    connection: Connection,
    account: str,
    kind: EntryKind,
    amount: Picos,
    *,
    reference: str,
    actor: str,
    now: int,
    note: str | None = None,
) -> bool:
    """Add money to an account, or take it, once for each reference.

    Returns:
        Whether it was done now; `False` where it was before.

    Raises:
        NotFoundError: No such account.
        ConflictError: The reference stands for another amount.
        InvalidRequestError: The account would hold more than a ledger can.
    """
    lock(connection, account)
    before = _entry(connection, account, kind, reference)
    if before is not None:
        if before[0] != amount:
            raise ConflictError(
                f"The reference {reference!r} stands for ${format_dollars(before[0])} already.",
                param="reference",
                hint="Use another one for another amount.",
            )
        return False
    money = balance_of(connection, account)
    if not -MOST_PICOS <= money.balance + amount <= MOST_PICOS - max(money.spent, 0):
        raise InvalidRequestError(
            f"With ${format_dollars(amount)} the account would have been given more than a ledger holds.",
            param="amount",
            hint=f"All that is ever given to an account may come to ${format_dollars(MOST_PICOS)}.",
        )
    _enter(connection, account, kind, amount, reference, actor=actor, note=note, now=now)
    _move(connection, account, balance=amount, spent=-amount if kind in SPENDING else 0)
    return True


def balance_of(connection: Connection, account: str) -> Balance:
    """The money of an account.

    Raises:
        NotFoundError: No such account.
    """
    table = schema.accounts.c
    found = sa.select(table.balance, table.held, table.spent).where(table.id == account)
    row = connection.execute(found).one_or_none()
    if row is None:
        raise NotFoundError(f"There is no account {account}.", param="account")
    return Balance(balance=row.balance, held=row.held, spent=row.spent)


def sweep(connection: Connection, instance: str) -> int:
    """Let go all that a gateway held which is no more.

    Returns:
        How many holds.
    """
    found = sa.select(schema.holds.c.id, schema.holds.c.account).where(schema.holds.c.instance == instance)
    rows = connection.execute(found.order_by(schema.holds.c.account)).all()
    return sum(void(connection, row.id, row.account) for row in rows)


@dataclass(frozen=True, slots=True, kw_only=True)
class Discrepancy:
    """A number in an account's row that is not what its entries or holds come to.

    Attributes:
        account: Its id.
        what: `balance`, `spent` or `held`.
        row: What the row says.
        sum: What they come to.
    """

    account: str
    what: str
    row: Picos
    sum: Picos


def reconcile(connection: Connection) -> list[Discrepancy]:
    """Where accounts do not say what their entries and holds do: nowhere, or there is a fault."""

    def sums(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> dict[str, int]:
        grouped = sa.select(table.c.account, sa.func.sum(table.c.amount)).where(*conditions).group_by(table.c.account)
        return {account: int(total) for account, total in connection.execute(grouped)}

    charges = sums(schema.entries, schema.entries.c.kind.in_(SPENDING))
    expected = {
        "balance": sums(schema.entries),
        "spent": {account: -amount for account, amount in charges.items()},
        "held": sums(schema.holds),
    }
    rows = connection.execute(sa.select(schema.accounts)).mappings()
    return [
        Discrepancy(account=row["id"], what=what, row=row[what], sum=totals.get(row["id"], 0))
        for row in rows
        for what, totals in expected.items()
        if row[what] != totals.get(row["id"], 0)
    ]


def _entry(connection: Connection, account: str, kind: EntryKind, reference: str) -> tuple[Picos, str | None] | None:
    """The amount and note of an entry; `None` where there is none."""
    found = {"account": account, "kind": kind.value, "reference": reference}
    row: tuple[Picos, str | None] | None = _FIND_ENTRY.row(connection, found)
    return row


def _enter(
    connection: Connection,
    account: str,
    kind: EntryKind,
    amount: Picos,
    reference: str,
    *,
    actor: str,
    note: str | None,
    now: int,
) -> None:
    values = {
        "account": account,
        "time": now,
        "kind": kind.value,
        "amount": amount,
        "reference": reference,
        "actor": actor,
        "note": note,
    }
    _ENTER.change(connection, values)


def _move(connection: Connection, account: str, *, balance: Picos = 0, held: Picos = 0, spent: Picos = 0) -> None:
    more = {"more_balance": balance, "more_held": held, "more_spent": spent}
    _MOVE.change(connection, {"account_is": account, **more})
