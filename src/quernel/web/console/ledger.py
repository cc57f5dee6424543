"""What came and went of an account's money, the newest first."""

from starlette.responses import Response

from quernel.web.console.desk import EVERYBODY, Desk, page
from quernel.web.console.usage import key_names

KINDS = {
    "grant": "Gift",
    "purchase": "Purchase",
    "charge": "Charge",
    "refund": "Refund",
    "adjustment": "Adjustment",
    "closing": "Charges of a day",
}
"""Kind of an entry to what it is called."""


async def show_ledger(desk: Desk) -> Response:
    """A page of entries, with what is left."""
    kind = desk.query("kind")
    found, problem = await desk.listed("/v1/ledger", **desk.of, kind=kind)
    money = None if desk.account == EVERYBODY else (await desk.get("/v1/account", **desk.of))["balance"]
    return desk.show(
        "ledger.html",
        problem=problem,
        entries=found["data"],
        next_cursor=found["next_cursor"],
        money=money,
        names=await key_names(desk),
        kinds=KINDS,
        kind=kind,
    )


ROUTES = (page("/console/ledger", show_ledger),)
