"""Customers of a gateway on this machine: an account with credit, a key to it, and what the books say of both."""

from dataclasses import dataclass

import httpx

from quernel.gateway import ledger
from quernel.gateway.accounts import create_account
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.keys import KeySettings, create_key
from quernel.gateway.listings import Wanted, list_requests
from quernel.gateway.money import parse_dollars


@dataclass(frozen=True)
class Customer:
    """Who pays.

    Attributes:
        account: The id of the account.
        key: A key to it.
        key_id: The key's id.
    """

    account: str
    key: str
    key_id: str

    def client(self, served, **options):
        """Asks the gateway with the key; to be closed."""
        headers = {"authorization": f"Bearer {self.key}", **options.pop("headers", {})}
        return httpx.Client(base_url=served.url, headers=headers, timeout=30, **options)

    def money(self, served):
        """Balance, held and spent."""
        return served.read(lambda connection: ledger.balance_of(connection, self.account))

    def rows(self, served):
        """Its requests, the latest first."""
        return served.read(lambda connection: list_requests(connection, Wanted(account=self.account), most=1000))


def new_customer(served, credit="1", *, account=None, **settings):
    """A customer with so many dollars.

    Args:
        served: The gateway.
        credit: Dollars.
        account: Settings of the account.
        settings: Of the key; by default it may ask models.
    """

    def operation(connection):
        slug, now = new_id("customer").replace("_", "-"), now_ms()
        welcome = parse_dollars(credit, place="credit")
        made = create_account(connection, slug, now=now, settings=account, welcome=welcome)
        minted = served.parts.mint.new()
        create_key(connection, minted, made.id, "test", KeySettings(**settings), created_by="test", now=now)
        return Customer(made.id, minted.text, minted.id)

    return served.parts.database.write_now(operation)
