"""`quernel accounts`: who pays in the gateway, and their money."""

from typing import TYPE_CHECKING, Any

import click

from quernel.cli.amounts import show_limit_flags
from quernel.cli.books import books_options, opened_books
from quernel.cli.options import group, option, quiet_option
from quernel.cli.requests import OUTPUT
from quernel.cli.talk import one_line, print_json, say, sheet, table
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from quernel.gateway.accounts import Account, AccountStatus
    from quernel.gateway.editor import Editor

KINDS = ("organisation", "person")
ROLES = ("viewer", "member", "admin", "owner")
CREDITS = ("grant", "purchase", "refund", "adjustment")
"""Values of enums of `quernel.gateway`, spelled here so that `--help` need not import them (and a database)."""

HEADER = ("SLUG", "NAME", "KIND", "STATUS", "BALANCE $", "HELD $", "SPENT $")
WIDTH = 40
NAME = click.argument("name", metavar="SLUG")
as_json = option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, as the HTTP API has them.")

command = group(
    "accounts",
    short_help="Make accounts of the gateway, and see and add their money.",
    help="""Make accounts of the gateway, and see and add their money, in its database on this machine.

    \b
    quernel accounts create acme --name "Acme, Inc."
    quernel accounts credit acme 100 --reference invoice-17
    quernel accounts check
    """,
)


@command.command("create", short_help="Make an account.")
@NAME
@option("--name", "title", default="", help="Its name for people.  [default: the slug]")
@option("--kind", type=click.Choice(KINDS), default="organisation", help="What it is.  [default: organisation]")
@option("--welcome", metavar="USD", help="Its first credit, in dollars.  [default: that of the settings]")
@as_json
@quiet_option
@books_options
def create(*, name: str, title: str, kind: str, welcome: str | None, as_json: bool, quiet: bool, **given: Any) -> None:
    """Make an account of that slug: its name in addresses, tokens and commands."""
    from quernel.gateway.accounts import AccountKind
    from quernel.gateway.ids import new_id
    from quernel.gateway.money import format_dollars, parse_dollars

    amount = None if welcome is None else parse_dollars(welcome, place="welcome")
    if amount is not None and amount < 0:
        raise SettingsError(f"welcome is {welcome}.", param="welcome", hint="Set 0 or more.")
    with opened_books(given) as books:
        first = books.settings.welcome if amount is None else amount
        account_id = new_id("acc")
        account = books.change(
            lambda editor: editor.create_account(
                name, account_id=account_id, name=title, kind=AccountKind(kind), welcome=first
            )
        )
    if as_json:
        print_account(account, as_json=True)
    say(f"{account.slug} has ${format_dollars(account.balance)}.", quiet=quiet)


@command.command("list", short_help="List accounts.")
@as_json
@books_options
def list_(*, as_json: bool, **given: Any) -> None:
    """List accounts with their money."""
    from quernel.gateway.accounts import list_accounts
    from quernel.gateway.views import show_account
    from quernel.protocols.gateway_admin import MOST_LISTED

    def page(last: "Account | None", connection: "Connection") -> "list[Account]":
        return list_accounts(connection, most=MOST_LISTED, after=None if last is None else last.slug)

    with opened_books(given) as books:
        found = [show_account(account) for account in books.every(page)]
    if as_json:
        print_json(*found)
        return
    rows = [
        (
            one.slug,
            one_line(one.name, WIDTH),
            one.kind,
            one.status,
            one.balance.balance,
            one.balance.held,
            one.balance.spent,
        )
        for one in found
    ]
    click.echo(table(HEADER, rows, right=(4, 5, 6)))


@command.command("show", short_help="Show one account.")
@NAME
@as_json
@books_options
def show(*, name: str, as_json: bool, **given: Any) -> None:
    """Show an account with its money and what its requests may do."""
    from quernel.gateway.accounts import find_account

    with opened_books(given) as books:
        print_account(books.read(lambda connection: find_account(connection, name)), as_json=as_json)


@command.command("credit", short_help="Add money to an account.")
@NAME
@click.argument("amount", metavar="USD")
@option("--reference", required=True, help="Names the payment: one that was entered is not entered again.")
@option("--kind", type=click.Choice(CREDITS), default="purchase", help="Why.  [default: purchase]")
@option("--note", help="What is to be remembered of it.")
@as_json
@quiet_option
@books_options
def credit(
    *,
    name: str,
    amount: str,
    reference: str,
    kind: str,
    note: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Add money to an account, once for each reference. An adjustment may be below zero: write it after `--`."""
    from quernel.gateway.accounts import find_account
    from quernel.gateway.ledger import EntryKind
    from quernel.gateway.money import format_dollars, parse_dollars

    dollars = parse_dollars(amount, place="amount")

    def operation(editor: "Editor") -> "tuple[bool, Account]":
        account = find_account(editor.connection, name).id
        entered = editor.credit(account, EntryKind(kind), dollars, reference=reference, note=note)
        return entered, find_account(editor.connection, account)

    with opened_books(given) as books:
        entered, account = books.change(operation)
    if as_json:
        print_account(account, as_json=True)
    before = "" if entered else f"{reference} was entered before. "
    say(f"{before}{account.slug} has ${format_dollars(account.balance)}.", quiet=quiet)


@command.command("suspend", short_help="Answer no requests of an account any more.")
@NAME
@as_json
@quiet_option
@books_options
def suspend(*, name: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Answer no requests of an account any more, until it is activated."""
    from quernel.gateway.accounts import AccountStatus

    switch(name, AccountStatus.SUSPENDED, as_json=as_json, quiet=quiet, given=given)


@command.command("activate", short_help="Answer the requests of a suspended account again.")
@NAME
@as_json
@quiet_option
@books_options
def activate(*, name: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Answer the requests of a suspended account again."""
    from quernel.gateway.accounts import AccountStatus

    switch(name, AccountStatus.ACTIVE, as_json=as_json, quiet=quiet, given=given)


@command.command("members", short_help="List or change who may act for an account.")
@NAME
@option("--add", metavar="SUBJECT", help="Let somebody act for it: issuer|subject of an identity provider.")
@option("--role", type=click.Choice(ROLES), default="member", help="As what.  [default: member]")
@option("--email", help="Where they are reached.")
@option("--remove", metavar="SUBJECT", help="Let somebody no longer act for it.")
@as_json
@books_options
def members(
    *,
    name: str,
    add: str | None,
    role: str,
    email: str | None,
    remove: str | None,
    as_json: bool,
    **given: Any,
) -> None:
    """List who may act for an account; after adding or removing somebody, if one of these is asked for."""
    from quernel.gateway.accounts import Role, find_account, list_members
    from quernel.gateway.views import show_member

    def operation(editor: "Editor") -> None:
        account = find_account(editor.connection, name).id
        if add is not None:
            editor.set_member(account, add, Role(role), email=email)
        if remove is not None:
            editor.remove_member(account, remove)

    with opened_books(given) as books:
        if add is not None or remove is not None:
            books.change(operation)
        found = [
            show_member(member)
            for member in books.read(lambda connection: list_members(connection, find_account(connection, name).id))
        ]
    if as_json:
        print_json(*found)
        return
    rows = [(one.role, one.created, one.email or "", one_line(one.subject, 3 * WIDTH)) for one in found]
    click.echo(table(("ROLE", "SINCE", "EMAIL", "SUBJECT"), rows))


@command.command("check", short_help="See whether the books agree.")
@as_json
@quiet_option
@books_options
@click.pass_context
def check(ctx: click.Context, /, *, as_json: bool, quiet: bool, **given: Any) -> None:
    """See whether balances are the sums of their entries; exit code 1 where they are not."""
    from quernel.gateway.ledger import reconcile
    from quernel.gateway.views import show_discrepancy

    with opened_books(given) as books:
        found = [show_discrepancy(one) for one in books.read(reconcile)]
        slugs = books.slugs()
    if as_json:
        print_json(*found)
    elif found:
        rows = [(slugs[one.account], one.what, one.row, one.sum) for one in found]
        click.echo(table(("ACCOUNT", "WHAT", "SAYS $", "ENTRIES $"), rows, right=(2, 3)))
    if found:
        ctx.exit(1)
    say(f"The books agree. Accounts: {len(slugs)}.", quiet=quiet)


def switch(name: str, status: "AccountStatus", *, as_json: bool, quiet: bool, given: dict[str, Any]) -> None:
    """Change the status of an account."""
    with opened_books(given) as books:
        account = books.change(lambda editor: editor.change_account(name, status=status))
    if as_json:
        print_account(account, as_json=True)
    say(f"{account.slug} is {account.status.value}.", quiet=quiet)


def print_account(account: "Account", *, as_json: bool) -> None:
    """Print an account."""
    import msgspec

    from quernel.gateway.views import show_account

    shown = show_account(account)
    if as_json:
        print_json(shown)
        return
    rows = [
        ("id", shown.id),
        ("slug", shown.slug),
        ("name", one_line(shown.name, 2 * WIDTH)),
        ("kind", shown.kind),
        ("status", shown.status),
        ("balance", f"${shown.balance.balance}"),
        ("held", f"${shown.balance.held}"),
        ("spent", f"${shown.balance.spent}"),
        ("limits", show_limit_flags(msgspec.to_builtins(shown.limits)) or "none"),
        ("models", " ".join(shown.models)),
        ("providers", " ".join(shown.providers)),
        ("regions", " ".join(shown.regions)),
        ("issuers", " ".join(shown.issuers)),
        ("zdr", "yes" if shown.zdr else ""),
        ("no training", "yes" if shown.no_training else ""),
        ("capture", "yes" if shown.capture else ""),
        ("created", shown.created),
    ]
    click.echo(sheet(rows))
