"""The pages of the console."""

from quernel.web.console import (
    accounts,
    audit,
    books,
    keys,
    ledger,
    members,
    overview,
    providers,
    requests,
    settings,
    usage,
)

ROUTES = (
    *overview.ROUTES,
    *keys.ROUTES,
    *usage.ROUTES,
    *requests.ROUTES,
    *ledger.ROUTES,
    *members.ROUTES,
    *settings.ROUTES,
    *accounts.ROUTES,
    *providers.ROUTES,
    *audit.ROUTES,
    *books.ROUTES,
)
