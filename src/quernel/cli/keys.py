"""`quernel keys`: API keys of the gateway."""

from typing import TYPE_CHECKING, Any

import click

from quernel.cli.amounts import LIMIT_FORM, parse_future, parse_limit_flags, parse_span, show_limit_flags
from quernel.cli.books import OPERATOR, Books, books_options, opened_books
from quernel.cli.options import group, option, quiet_option
from quernel.cli.requests import OUTPUT
from quernel.cli.talk import one_line, print_json, say, sheet, table
from quernel.errors import SettingsError

if TYPE_CHECKING:
    from sqlalchemy.engine import Connection

    from quernel.gateway.keys import Key
    from quernel.protocols.gateway_admin import KeyEntry

SCOPES = ("infer", "read", "manage", "metrics", "operate")
"""The values of `quernel.gateway.keys.Scope`, spelled here so that `--help` need not import it (and a database)."""

RULES = "What it may do"
HEADER = ("ID", "NAME", "ACCOUNT", "SCOPES", "LIMITS", "STATE", "LAST USED")
WIDTH = 40

NEVER = "never"
"""The end of a key that has none."""

ID = click.argument("key_id", metavar="ID")
as_json = option("--json", "as_json", section=OUTPUT, is_flag=True, help="Print JSON lines, as the HTTP API has them.")

command = group(
    "keys",
    short_help="Make, list, change and revoke API keys of the gateway.",
    help="""Make, list, change and revoke API keys of the gateway, in its database on this machine.

    \b
    KEY=$(quernel keys create "my service" --limit minute:requests=60 --limit month:usd=10)
    quernel keys list
    quernel keys revoke ID

    A running gateway acts upon a change within a second.
    """,
)


@command.command("create", short_help="Make a key, and print it.")
@click.argument("name")
@option("--account", default=OPERATOR, help=f"Id or slug of the account that pays.  [default: {OPERATOR}]")
@option("--scope", "scopes", section=RULES, multiple=True, type=click.Choice(SCOPES), help="Repeats.  [default: infer]")
@option("--model", "models", section=RULES, multiple=True, help="Model that it may ask; repeats.  [default: all]")
@option("--provider", "providers", section=RULES, multiple=True, help="Who may answer; repeats.  [default: all]")
@option(
    "--limit",
    "limits",
    section=RULES,
    multiple=True,
    metavar="LIMIT",
    help=f"Requests, tokens or usd in a minute, day or month, such as {LIMIT_FORM} or month:usd=10; repeats.",
)
@option("--expires", section=RULES, help="In how long it ends (90d), or when.  [default: never]")
@option("--zdr", section=RULES, is_flag=True, help="Only providers that keep nothing.")
@option("--no-training", section=RULES, is_flag=True, help="Only providers that do not train on requests.")
@option("--tag", "tags", section=RULES, multiple=True, help="What its usage is filed under; repeats.")
@as_json
@quiet_option
@books_options
def create(
    *,
    name: str,
    account: str,
    scopes: tuple[str, ...],
    limits: tuple[str, ...],
    expires: str | None,
    as_json: bool,
    quiet: bool,
    **given: Any,
) -> None:
    """Make a key for NAME. The key alone goes to stdout; it is in no other place."""
    from quernel.gateway.accounts import find_account
    from quernel.gateway.editor import Editor
    from quernel.gateway.ids import now_ms
    from quernel.gateway.keys import KeySettings
    from quernel.gateway.views import show_new_key

    rules = {name: given[name] for name in ("models", "providers", "zdr", "no_training", "tags")}
    settings = KeySettings.parse({**rules, "scopes": scopes or ("infer",), "limits": parse_limit_flags(limits)})
    until = None if expires is None else parse_future(expires, place="expires", now=now_ms())
    with opened_books(given) as books:
        minted = books.mint().new()

        def operation(editor: Editor) -> "Key":
            found = find_account(editor.connection, account)
            return editor.create_key(minted, found.id, name, settings, expires=until)

        key = books.change(operation)
    if as_json:
        print_json(show_new_key(key, minted.text))
    else:
        click.echo(minted.text)
    say("This key is not shown again.", quiet=quiet)


@command.command("list", short_help="List keys, the newest first.")
@option("--account", help="Id or slug of an account.  [default: all]")
@as_json
@books_options
def list_(*, account: str | None, as_json: bool, **given: Any) -> None:
    """List keys, the newest first, without their secrets."""
    from quernel.gateway.accounts import find_account
    from quernel.gateway.keys import list_keys
    from quernel.gateway.views import show_key
    from quernel.protocols.gateway_admin import MOST_LISTED

    with opened_books(given) as books:
        owner = None if account is None else books.read(lambda connection: find_account(connection, account).id)

        def page(last: "Key | None", connection: "Connection") -> "list[Key]":
            return list_keys(connection, owner, most=MOST_LISTED, before=None if last is None else last.place)

        found = list(books.every(page))
        slugs = books.slugs()
    if as_json:
        print_json(*map(show_key, found))
        return
    rows = [
        (
            key.id,
            one_line(key.name, WIDTH),
            slugs[key.account],
            " ".join(sorted(key.settings.scopes)),
            limits_of(shown := show_key(key)),
            state_of(key),
            shown.last_used or "never",
        )
        for key in found
    ]
    click.echo(table(HEADER, rows))


@command.command("show", short_help="Show one key.")
@ID
@as_json
@books_options
def show(*, key_id: str, as_json: bool, **given: Any) -> None:
    """Show a key by its id, or by the letters that it begins with."""
    from quernel.gateway.keys import find_key

    with opened_books(given) as books:
        key = books.read(lambda connection: find_key(connection, plain_id(key_id)))
        print_key(key, books, as_json=as_json)


@command.command("change", short_help="Rename a key, or change when it ends.")
@ID
@option("--name", help="What it is for.")
@option("--expires", help=f"In how long it ends (90d), or when; {NEVER} for never.")
@as_json
@books_options
def change(*, key_id: str, name: str | None, expires: str | None, as_json: bool, **given: Any) -> None:
    """Rename a key, or change when it ends. What is not named stays.

    \b
    quernel keys change ID --expires 90d
    quernel keys change ID --expires never
    """
    from quernel.gateway.ids import now_ms

    if name is None and expires is None:
        raise SettingsError("name and expires are missing.", param="expires", hint="Write --expires 90d, or --name.")
    end: dict[str, Any] = {}
    if expires is not None:
        end["expires"] = None if expires == NEVER else parse_future(expires, place="expires", now=now_ms())
    with opened_books(given) as books:
        key = books.change(lambda editor: editor.change_key(plain_id(key_id), None, name=name, **end))
        print_key(key, books, as_json=as_json)


@command.command("limit", short_help="Replace the limits of a key.")
@ID
@click.argument("limits", nargs=-1, metavar="[LIMIT]...")
@option("--none", "no_limits", is_flag=True, help="Leave it without limits.")
@as_json
@books_options
def limit(*, key_id: str, limits: tuple[str, ...], no_limits: bool, as_json: bool, **given: Any) -> None:
    """Replace the limits of a key: requests, tokens or usd in a minute, day or month.

    \b
    quernel keys limit ID minute:requests=60 month:usd=10
    """
    if bool(limits) == no_limits:
        raise SettingsError("limits are missing.", param="limit", hint=f"Write {LIMIT_FORM}, or --none for no limits.")
    rules = {"limits": parse_limit_flags(limits)}
    with opened_books(given) as books:
        key = books.change(lambda editor: editor.change_key(plain_id(key_id), None, rules=rules))
        print_key(key, books, as_json=as_json)


@command.command("rotate", short_help="Give a key a new secret, and print it.")
@ID
@option("--grace", default="0s", help="How long the old secret stays good, such as 1d.  [default: 0s]")
@as_json
@quiet_option
@books_options
def rotate(*, key_id: str, grace: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """Give a key a new secret. The key alone goes to stdout; it is in no other place."""
    from quernel.gateway.views import show_new_key

    seconds = parse_span(grace, place="grace")
    with opened_books(given) as books:
        minted = books.mint().new(plain_id(key_id))
        key = books.change(lambda editor: editor.rotate_key(minted, None, grace_seconds=seconds))
    if as_json:
        print_json(show_new_key(key, minted.text))
    else:
        click.echo(minted.text)
    say("This key is not shown again.", quiet=quiet)


@command.command("revoke", short_help="End a key, for good.")
@ID
@as_json
@quiet_option
@books_options
def revoke(*, key_id: str, as_json: bool, quiet: bool, **given: Any) -> None:
    """End a key, for good."""
    from quernel.gateway.views import show_key

    with opened_books(given) as books:
        key = books.change(lambda editor: editor.revoke_key(plain_id(key_id), None))
    if as_json:
        print_json(show_key(key))
    say(f"{key.prefix} opens nothing any more.", quiet=quiet)


def plain_id(text: str) -> str:
    """The id of a key, from its id, from what is shown of it, or from all of it."""
    from quernel.gateway.keys import PREFIX

    return text.removeprefix(PREFIX).partition("_")[0]


def print_key(key: "Key", books: Books, *, as_json: bool) -> None:
    """Print a key, without its secret."""
    from quernel.gateway.views import show_key

    shown = show_key(key)
    if as_json:
        print_json(shown)
        return
    rows = [
        ("id", shown.id),
        ("prefix", shown.prefix),
        ("name", one_line(shown.name, 2 * WIDTH)),
        ("account", books.slugs()[shown.account]),
        ("scopes", " ".join(shown.scopes)),
        ("models", " ".join(shown.models)),
        ("providers", " ".join(shown.providers)),
        ("limits", limits_of(shown)),
        ("zdr", "yes" if shown.zdr else ""),
        ("no training", "yes" if shown.no_training else ""),
        ("tags", " ".join(shown.tags)),
        ("state", state_of(key)),
        ("created", f"{shown.created} by {shown.created_by}"),
        ("expires", shown.expires or ""),
        ("revoked", shown.revoked or ""),
        ("last used", shown.last_used or "never"),
    ]
    click.echo(sheet(rows))


def limits_of(shown: "KeyEntry") -> str:
    """A key's limits in a line."""
    import msgspec

    return show_limit_flags(msgspec.to_builtins(shown.limits)) or "none"


def state_of(key: "Key") -> str:
    """Whether a key opens anything."""
    from quernel.gateway.ids import now_ms

    if key.revoked is not None:
        return "revoked"
    return "good" if key.is_valid(now_ms()) else "expired"
