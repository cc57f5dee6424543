"""`quernel usage`: what was used of the gateway, and spent."""

from typing import TYPE_CHECKING, Any

import click

from quernel.cli.amounts import parse_past
from quernel.cli.books import books_options, opened_books
from quernel.cli.options import Group, option, refuse_options
from quernel.cli.requests import OUTPUT
from quernel.cli.talk import one_line, print_json, table

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from quernel.gateway.usage import Line, Report

WHICH = "Which"
MEASURES = ("requests", "errors", "tokens", "documents")
WIDTH = 40

HEADER = ("TIME", "GENERATION", "ACCOUNT", "KEY", "MODEL", "PROVIDER", "STATUS", "TOKENS", "COST $", "MS")

since = option("--since", section=WHICH, default="30d", help="How long ago (7d, 12h), or from when.  [default: 30d]")
until = option("--until", section=WHICH, help="Until when, itself not in it.  [default: now]")
account = option("--account", section=WHICH, help="Id or slug of an account.  [default: all]")
as_json = option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, as the HTTP API has them.")


@click.group(
    cls=Group,
    invoke_without_command=True,
    short_help="Report what was used and spent.",
)
@option(
    "--by",
    default="day",
    section=WHICH,
    help="What it is divided by, with commas between: day, hour, account, key, user, tag, model, provider, "
    "credential, operation.  [default: day]",
)
@since
@until
@account
@option("--csv", "as_csv", section=OUTPUT, is_flag=True, help="Print CSV.")
@as_json
@books_options
@click.pass_context
def command(
    ctx: click.Context,
    /,
    *,
    by: str,
    since: str,
    until: str | None,
    account: str | None,
    as_csv: bool,
    as_json: bool,
    **given: Any,
) -> None:
    """Report what was used of the gateway and spent, from its database on this machine.

    \b
    quernel usage --by day,model --since 7d
    quernel usage --by account --csv
    quernel usage requests --since 1h
    """
    if ctx.invoked_subcommand is not None:
        refuse_options(ctx)
        return
    from quernel.gateway.accounts import find_account
    from quernel.gateway.ids import now_ms
    from quernel.gateway.reports import build_report, show_report, write_report
    from quernel.gateway.usage import report

    now = now_ms()
    start = parse_past(since, place="since", now=now)
    end = None if until is None else parse_past(until, place="until", now=now)

    def operation(connection: "Connection") -> "tuple[Report, list[Line]]":
        owner = None if account is None else find_account(connection, account).id
        wanted = build_report(by, now=now, start=start, end=end, account=owner)
        return wanted, report(connection, wanted)

    with opened_books(given) as books:
        wanted, lines = books.read(operation)
        slugs = books.slugs()
    if as_csv:
        click.echo(write_report(wanted, lines), nl=False)
    elif as_json:
        print_json(*show_report(wanted, lines).data)
    else:
        click.echo(rendered(wanted, lines, slugs))


def rendered(wanted: "Report", lines: "list[Line]", slugs: dict[str, str]) -> str:
    """A report as a table, with slugs for ids of accounts."""
    from quernel.gateway.reports import show_report

    names = [grouping.value for grouping in wanted.by]
    header = [
        *(name.upper() for name in names),
        *(name.upper() for name in MEASURES),
        "COST $",
        "AT PROVIDERS' PRICES $",
    ]
    rows = []
    for line in show_report(wanted, lines).data:
        group = line.group | {"account": slugs.get(line.group.get("account", ""), "")}
        counts = [str(getattr(line, measure)) for measure in MEASURES]
        rows.append([*(one_line(group[name], WIDTH) or "-" for name in names), *counts, line.cost, line.upstream_cost])
    return table(header, rows, right=range(len(names), len(header)))


@command.command("requests", short_help="List single requests, the newest first.")
@since
@until
@account
@option("--key", section=WHICH, help="Only of the key of this id.")
@option("--user", section=WHICH, help="Only for this user.")
@option("--model", section=WHICH, help="Only of this model.")
@option("--provider", section=WHICH, help="Only what this provider answered.")
@option("--last", type=click.IntRange(min=1), default=50, section=WHICH, help="How many at most.  [default: 50]")
@as_json
@books_options
def requests(*, since: str, until: str | None, account: str | None, last: int, as_json: bool, **given: Any) -> None:
    """List single requests, the newest first: how much, by whom, where; what was asked is kept nowhere."""
    from quernel.gateway.accounts import find_account
    from quernel.gateway.ids import now_ms
    from quernel.gateway.listings import Wanted, list_requests
    from quernel.gateway.views import show_request

    now = now_ms()
    start = parse_past(since, place="since", now=now)
    end = None if until is None else parse_past(until, place="until", now=now)
    where = {name: given[name] for name in ("key", "user", "model", "provider") if given[name] is not None}
    with opened_books(given) as books:
        owner = None if account is None else books.read(lambda connection: find_account(connection, account).id)
        wanted = Wanted(account=owner, where=where, start=start, end=end)
        found = [show_request(row) for row in books.read(lambda one: list_requests(one, wanted, most=last))]
        slugs = books.slugs()
    if as_json:
        print_json(*found)
        return
    rows = [
        (
            row.time,
            row.id,
            slugs.get(row.account, row.account),
            row.key,
            row.model,
            row.provider or "-",
            str(row.status),
            str(row.tokens),
            row.cost,
            f"{row.milliseconds:.1f}",
        )
        for row in found
    ]
    click.echo(table(HEADER, rows, right=(6, 7, 8, 9)))
