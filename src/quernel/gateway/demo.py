"""Visitors without a key: a shared allowance for each day, and a share of it for each address."""

from sqlalchemy.engine import Connection
from starlette.types import Scope as HttpScope

from quernel.errors import NotFoundError
from quernel.gateway import ledger
from quernel.gateway.accounts import Account, AccountKind, create_account, find_account
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import KeySettings, Scope
from quernel.gateway.ledger import EntryKind
from quernel.gateway.limits import DAY_MS, Limit, Meter, Period
from quernel.gateway.opening import Parts
from quernel.gateway.principals import Principal

SLUG = "demo"


class Demo:
    """Lets visitors in.

    Args:
        parts: The gateway.
    """

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._account: Account | None = None
        self._day = 0

    async def visitor(self, scope: HttpScope) -> Principal | None:
        """Who a visitor is; `None` where none are let in. Addresses are kept as keyed digests, and for a day."""
        settings = self._parts.settings
        if not settings.demo_budget or not settings.demo_requests_a_day:
            return None
        now = now_ms()
        if self._account is None or now // DAY_MS != self._day:
            self._account = await self._parts.database.write(self._prepare)
            self._day = now // DAY_MS
        client = scope.get("client")
        address = self._parts.mint.digest(f"address {client[0] if client else ''}").hex()[:32]
        meters = (
            Meter(
                f"address:{address}",
                Limit(period=Period.DAY, requests=settings.demo_requests_a_day),
                "An address without a key",
            ),
            Meter(
                f"account:{self._account.id}",
                Limit(period=Period.DAY, spend=settings.demo_budget),
                "Visitors without a key together",
            ),
        )
        return Principal(
            account=self._account,
            key=SLUG,
            name="visitor",
            settings=KeySettings(),
            permissions=frozenset({Scope.INFER}),
            credential="demo",
            meters=meters,
        )

    def _prepare(self, connection: Connection) -> Account:
        """The account of visitors, with what they may spend today."""
        now = now_ms()
        try:
            account = find_account(connection, SLUG)
        except NotFoundError:
            account = create_account(connection, SLUG, now=now, name="Visitors", kind=AccountKind.DEMO)
        missing = self._parts.settings.demo_budget - account.balance
        if missing > 0:
            reference = f"day {now // DAY_MS}"
            ledger.enter(connection, account.id, EntryKind.GRANT, missing, reference=reference, actor="system", now=now)
        return account
