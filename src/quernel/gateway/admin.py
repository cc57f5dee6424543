"""What the routes do that manage a gateway: keys, accounts, money, usage, credentials, providers.

What a key may see and change here is its scopes' matter (`quernel.gateway.admin_routes` has them) and its account's:
another account is not there for it, unless it has the scope `operate`. Members of an account change its name, `zdr`,
`no_training` and `capture`; its status, limits, models, providers, regions and issuers are what the operator grants it,
and only the operator's to change. Nobody gives a key or member a scope that they lack themselves.

Every change is written down in its own transaction, and this process acts upon it before it answers; others do within
a second.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
from sqlalchemy.engine import Connection
from starlette.requests import Request
from starlette.responses import Response

from quernel.errors import (
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuernelError,
)
from quernel.gateway import ledger, usage
from quernel.gateway.accounts import (
    PERMISSIONS,
    Account,
    AccountKind,
    AccountSettings,
    AccountStatus,
    Role,
    find_account,
    list_accounts,
    list_members,
    unknown_account,
)
from quernel.gateway.asker import principal_of
from quernel.gateway.audit import list_changes
from quernel.gateway.byok import list_credentials
from quernel.gateway.editor import Editor
from quernel.gateway.handlers import gateway_of, site_of
from quernel.gateway.health import Condition
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.keys import Key, KeySettings, Place, Scope, find_key, list_keys
from quernel.gateway.ledger import EntryKind
from quernel.gateway.listings import (
    StoredProvider,
    Wanted,
    find_provider,
    list_entries,
    list_providers,
    list_requests,
)
from quernel.gateway.money import parse_dollars
from quernel.gateway.principals import Principal
from quernel.gateway.providers import SLUG, Offer, parse_dated_price
from quernel.gateway.registry import Registry
from quernel.gateway.reports import build_report, show_report, write_report
from quernel.gateway.views import (
    show_account,
    show_balance,
    show_change,
    show_credentials,
    show_discrepancy,
    show_entry,
    show_key,
    show_member,
    show_new_key,
    show_new_price,
    show_provider,
    show_request,
    show_time,
    show_used,
)
from quernel.gateway.windows import read_used
from quernel.protocols.body import decode_request_body, encode_body
from quernel.protocols.gateway_admin import (
    AccountBody,
    AccountChangeBody,
    AccountPage,
    AccountPageQuery,
    AccountQuery,
    AuditPage,
    AuditQuery,
    CredentialBody,
    CredentialList,
    CreditBody,
    CreditReply,
    DeletedReply,
    KeyBody,
    KeyChangeBody,
    KeyPage,
    LedgerPage,
    LedgerQuery,
    MemberBody,
    MemberList,
    MemberQuery,
    NewPriceBody,
    OwnKeyReply,
    PageQuery,
    ProviderBody,
    ProviderChangeBody,
    ProviderEntry,
    ProviderList,
    ReconcileReply,
    RequestPage,
    RequestQuery,
    RotateBody,
    UsageReportQuery,
    decode_query,
    parse_time,
)
from quernel.server.middleware import Handler, json_response

T = TypeVar("T")

EVERYBODY = "*"
"""All accounts, where a query may name one."""

LAST = "~"
"""Changes raise the revision, whose row all gateways share: so they come after all that locks an account's row."""

KEY_RULES = ("scopes", "models", "providers", "limits", "zdr", "no_training", "tags")
MEMBERS_RULES = ("zdr", "no_training", "capture")
"""Settings of an account that its members change."""

OPERATORS_RULES = ("limits", "models", "providers", "regions", "issuers")
"""Settings of an account that only the operator changes."""

OPEN_SECRET = re.compile(r"env:\w+_API_(KEY|TOKEN)", re.ASCII)
"""What `api_key` may name over HTTP: a key that may operate the gateway is not to read all files and variables."""

CSV_TYPE = "text/csv; charset=utf-8"
CSV_HEADERS = {"content-disposition": 'attachment; filename="usage.csv"'}

LONGEST_ID = 18
"""Digits of a number that any database takes."""

GENERATION = re.compile(r"gen_[0-9a-z]{26}", re.ASCII)
PLACE = re.compile(rf"(?P<created>\d{{1,{LONGEST_ID}}})\.(?P<id>[0-9a-z]{{1,64}})", re.ASCII)
"""Of a key in a list, as a cursor has it."""


def guarded(handler: Handler, scope: Scope | None, *, takes_query: bool) -> Handler:
    """A handler that only those reach who have a scope; with none, everybody who is known.

    Args:
        handler: Answers them.
        scope: What they must have.
        takes_query: Whether it reads what the URL says after the question mark; else that must be nothing.
    """

    async def handle(request: Request, body: bytes) -> Response:
        if scope is not None:
            principal_of(request).require(scope)
        if not takes_query:
            for name in request.query_params:
                raise InvalidRequestError(
                    f"{name} is no parameter of this route.", param=name, hint="It takes none; leave it out."
                )
        return await handler(request, body)

    return handle


async def change(request: Request, operation: Callable[[Editor], T], *, lock: str = LAST) -> T:
    """What a change comes to, once it is on disk and this process acts upon it."""
    site, actor = site_of(request), principal_of(request).actor

    def whole(connection: Connection) -> T:
        return operation(Editor(connection=connection, actor=actor, now=now_ms()))

    changed = await site.gateway.database.write(whole, lock=lock)
    with suppress(QuernelError):  # it is done; where this fails now, the watch of the revision follows
        await site.principals.look()
        await site.gateway.registry.load()
    return changed


async def read(request: Request, operation: Callable[[Connection], T]) -> T:
    """What the books say."""
    return await gateway_of(request).database.read(operation)


def reply(shown: msgspec.Struct) -> Response:
    """A reply."""
    return json_response(encode_body(shown))


def query_of(request: Request) -> Mapping[str, str]:
    """The parameters of the URL."""
    return dict(request.query_params)


def named(request: Request, parameter: str) -> str:
    """What the path names.

    Raises:
        NotFoundError: No name of anything.
    """
    name: str = request.path_params[parameter]
    if not name.isprintable():
        raise NotFoundError(
            f"There is nothing of the name {name!r}.", param=parameter, hint="No name has what cannot be printed."
        )
    return name


def whose(connection: Connection, principal: Principal, name: str | None) -> str | None:
    """The id of the account that a request is about; `None` for all.

    Raises:
        NotFoundError: There is none, or not for this key.
    """
    own = principal.account
    if name is None or name in (own.id, own.slug):
        return own.id
    if Scope.OPERATE not in principal.permissions:
        raise unknown_account(name)
    return None if name == EVERYBODY else find_account(connection, name).id


def one_of(connection: Connection, principal: Principal, name: str | None) -> str:
    """The id of the one account that a request is about.

    Raises:
        NotFoundError: There is none, or not for this key.
        InvalidRequestError: All are named.
    """
    account = whose(connection, principal, name)
    if account is None:
        raise InvalidRequestError(
            f"account is {name!r}, which is all of them.", param="account", hint="Name one by its id or slug."
        )
    return account


def reach(principal: Principal) -> str | None:
    """Whose keys a key may see and change; `None` for everybody's."""
    return None if Scope.OPERATE in principal.permissions else principal.account.id


def require_all(principal: Principal, permissions: frozenset[Scope]) -> None:
    """Refuse to give what the giver lacks.

    Raises:
        PermissionDeniedError: Such.
    """
    for scope in Scope:
        if scope in permissions and scope not in principal.permissions:
            raise PermissionDeniedError(
                f"This key cannot give the scope {scope.value!r}, which it lacks itself.",
                param="scopes",
                hint="Ask whoever has it.",
            )


def require_changes(wire: msgspec.Struct) -> None:
    """Refuse a body that changes nothing.

    Raises:
        InvalidRequestError: Such.
    """
    if wire == type(wire)():
        raise InvalidRequestError(
            "The body changes nothing.", hint=f"Send one of {', '.join(wire.__struct_encode_fields__)}."
        )


def rules_of(wire: msgspec.Struct, fields: Sequence[str]) -> dict[str, Any]:
    """Those of a body's fields that say something."""
    said = {field: getattr(wire, field) for field in fields}
    return {field: msgspec.to_builtins(value) for field, value in said.items() if value is not None}


def page(rows: Sequence[T], most: int, cursor: Callable[[T], object]) -> tuple[Sequence[T], str | None]:
    """A page of rows of which one more than fits was read, and where the next goes on."""
    return rows[:most], str(cursor(rows[most - 1])) if len(rows) > most else None


def row_number(cursor: str | None) -> int | None:
    """The row after which a page begins.

    Raises:
        InvalidRequestError: No such place.
    """
    if cursor is None:
        return None
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= LONGEST_ID):
        raise _no_cursor(cursor)
    return int(cursor)


def key_place(cursor: str | None) -> Place | None:
    """The place in a list of keys after which a page begins. Errors as `row_number`."""
    if cursor is None:
        return None
    matched = PLACE.fullmatch(cursor)
    if matched is None:
        raise _no_cursor(cursor)
    return int(matched["created"]), matched["id"]


def matching(cursor: str | None, form: re.Pattern[str]) -> str | None:
    """The name after which a page begins. Errors as `row_number`."""
    if cursor is not None and form.fullmatch(cursor) is None:
        raise _no_cursor(cursor)
    return cursor


def _no_cursor(cursor: str) -> InvalidRequestError:
    return InvalidRequestError(f"cursor is {cursor!r}.", param="cursor", hint="Send next_cursor of the page before.")


async def own_key(request: Request, body: bytes) -> Response:
    """Who asks, what it may do, and how much is left of that."""
    principal = principal_of(request)
    account, settings = principal.account, principal.settings

    def operation(connection: Connection) -> OwnKeyReply:
        key: Key | None = find_key(connection, principal.key) if principal.credential == "api-key" else None
        return OwnKeyReply(
            id=principal.key,
            prefix=None if key is None else key.prefix,
            label=principal.name,
            credential=principal.credential,
            account=account.id,
            account_slug=account.slug,
            account_name=account.name,
            scopes=sorted(principal.permissions),
            models=_both(settings.models, account.settings.models),
            providers=_both(settings.providers, account.settings.providers),
            zdr=settings.zdr or account.settings.zdr,
            no_training=settings.no_training or account.settings.no_training,
            tags=list(principal.tags),
            expires=None if key is None else show_time(key.expires),
            limits=[show_used(used) for used in read_used(connection, principal.meters, now_ms())],
            balance=show_balance(ledger.balance_of(connection, account.id)),
        )

    return reply(await read(request, operation))


def _both(key: Sequence[str], account: Sequence[str]) -> list[str]:
    """What a key and its account both allow; each is empty where it allows all."""
    known = {name.lower() for name in account}
    return [name for name in key if not known or name.lower() in known] if key else list(account)


async def all_keys(request: Request, body: bytes) -> Response:
    """Keys, the newest first."""
    principal, query = principal_of(request), decode_query(query_of(request), PageQuery)
    before = key_place(query.cursor)
    found = await read(
        request,
        lambda connection: list_keys(
            connection, whose(connection, principal, query.account), most=query.limit + 1, before=before
        ),
    )
    rows, cursor = page(found, query.limit, lambda key: f"{key.created}.{key.id}")
    return reply(KeyPage(data=[show_key(key) for key in rows], next_cursor=cursor))


async def one_key(request: Request, body: bytes) -> Response:
    """One key."""
    key_id, owner = named(request, "id"), reach(principal_of(request))
    return reply(show_key(await read(request, lambda connection: find_key(connection, key_id, owner))))


async def create_key(request: Request, body: bytes) -> Response:
    """A new key."""
    principal, site = principal_of(request), site_of(request)
    query, wire = decode_query(query_of(request), AccountQuery), decode_request_body(body, KeyBody)
    settings = KeySettings.parse(rules_of(wire, KEY_RULES))
    require_all(principal, settings.permissions)
    expires = None if wire.expires is None else parse_time(wire.expires, place="expires")
    if None not in (wire.account, query.account) and wire.account != query.account:
        raise InvalidRequestError(
            f"account is {wire.account!r} in the body and {query.account!r} in the URL.",
            param="account",
            hint="Name it once.",
        )
    name = query.account if wire.account is None else wire.account
    minted = site.mint.new()

    def operation(editor: Editor) -> Key:
        account = one_of(editor.connection, principal, name)
        return editor.create_key(minted, account, wire.name, settings, expires=expires)

    return reply(show_new_key(await change(request, operation), minted.text))


async def change_key(request: Request, body: bytes) -> Response:
    """A key, renamed or with other rules."""
    principal, key_id, wire = principal_of(request), named(request, "id"), decode_request_body(body, KeyChangeBody)
    require_changes(wire)
    rules = rules_of(wire, KEY_RULES)
    expires = parse_time(wire.expires, place="expires") if isinstance(wire.expires, str) else wire.expires

    def operation(editor: Editor) -> Key:
        before = find_key(editor.connection, key_id, reach(principal))
        require_all(principal, KeySettings.parse({**before.settings.shown(), **rules}).permissions)
        return editor.change_key(key_id, reach(principal), name=wire.name, rules=rules, expires=expires)

    return reply(show_key(await change(request, operation)))


async def revoke_key(request: Request, body: bytes) -> Response:
    """A key, ended."""
    key_id, owner = named(request, "id"), reach(principal_of(request))
    return reply(show_key(await change(request, lambda editor: editor.revoke_key(key_id, owner))))


async def rotate_key(request: Request, body: bytes) -> Response:
    """A key with a new secret."""
    principal, site, key_id = principal_of(request), site_of(request), named(request, "id")
    wire = decode_request_body(body or b"{}", RotateBody)
    minted = site.mint.new(key_id)

    def operation(editor: Editor) -> Key:
        # Whoever gets the new secret has what the key may do.
        require_all(principal, find_key(editor.connection, key_id, reach(principal)).settings.permissions)
        return editor.rotate_key(minted, reach(principal), grace_seconds=wire.grace_seconds)

    return reply(show_new_key(await change(request, operation), minted.text))


async def own_account(request: Request, body: bytes) -> Response:
    """The account of the key, or another for operators."""
    principal, query = principal_of(request), decode_query(query_of(request), AccountQuery)
    found = await read(
        request, lambda connection: find_account(connection, one_of(connection, principal, query.account))
    )
    return reply(show_account(found))


async def change_own_account(request: Request, body: bytes) -> Response:
    """The account of the key, renamed or with other rules."""
    return await _change_account(request, body, decode_query(query_of(request), AccountQuery).account)


async def change_account(request: Request, body: bytes) -> Response:
    """An account, renamed, with another status or other rules."""
    return await _change_account(request, body, named(request, "name"))


async def _change_account(request: Request, body: bytes, name: str | None) -> Response:
    principal, wire = principal_of(request), decode_request_body(body, AccountChangeBody)
    require_changes(wire)
    if Scope.OPERATE not in principal.permissions:
        for field in rules_of(wire, ("status", *OPERATORS_RULES)):
            raise PermissionDeniedError(
                f"Only the operator changes {field} of an account.", param=field, hint="Leave it out, or ask them."
            )
    rules = rules_of(wire, (*MEMBERS_RULES, *OPERATORS_RULES))
    status = None if wire.status is None else AccountStatus(wire.status)

    def operation(editor: Editor) -> Account:
        account = one_of(editor.connection, principal, name)
        if account == principal.account.id and status not in (None, AccountStatus.ACTIVE):
            raise ConflictError(
                f"status is {status}, but this is the account of the key that asks.",
                param="status",
                hint="Ask with a key of another account.",
            )
        return editor.change_account(account, name=wire.name, status=status, rules=rules)

    return reply(show_account(await change(request, operation)))


async def all_accounts(request: Request, body: bytes) -> Response:
    """Accounts, by slug."""
    query = decode_query(query_of(request), AccountPageQuery)
    after = matching(query.cursor, SLUG)
    found = await read(request, lambda connection: list_accounts(connection, most=query.limit + 1, after=after))
    rows, cursor = page(found, query.limit, lambda account: account.slug)
    return reply(AccountPage(data=[show_account(account) for account in rows], next_cursor=cursor))


async def one_account(request: Request, body: bytes) -> Response:
    """One account."""
    name = named(request, "name")
    return reply(show_account(await read(request, lambda connection: find_account(connection, name))))


async def create_account(request: Request, body: bytes) -> Response:
    """A new account, with its welcome credit."""
    site, wire = site_of(request), decode_request_body(body, AccountBody)
    settings = AccountSettings.parse(rules_of(wire, (*MEMBERS_RULES, *OPERATORS_RULES)))
    welcome = site.settings.welcome if wire.welcome is None else parse_dollars(wire.welcome, place="welcome")
    if welcome < 0:
        raise InvalidRequestError(f"welcome is {wire.welcome}.", param="welcome", hint="Send 0 or more.")
    account_id = new_id("acc")

    def operation(editor: Editor) -> Account:
        kind = AccountKind(wire.kind)
        return editor.create_account(
            wire.slug, account_id=account_id, name=wire.name, kind=kind, settings=settings, welcome=welcome
        )

    return reply(show_account(await change(request, operation)))


async def credit_account(request: Request, body: bytes) -> Response:
    """Money added to an account, once for each reference."""
    name, wire = named(request, "name"), decode_request_body(body, CreditBody)
    amount, kind = parse_dollars(wire.amount, place="amount"), EntryKind(wire.kind)
    account = await read(request, lambda connection: find_account(connection, name).id)

    def operation(editor: Editor) -> CreditReply:
        entered = editor.credit(account, kind, amount, reference=wire.reference, note=wire.note)
        money = ledger.balance_of(editor.connection, account)
        return CreditReply(entered=entered, account=account, balance=show_balance(money))

    return reply(await change(request, operation, lock=account))


async def all_members(request: Request, body: bytes) -> Response:
    """Who may act for an account."""
    principal, query = principal_of(request), decode_query(query_of(request), AccountQuery)
    found = await read(
        request, lambda connection: list_members(connection, one_of(connection, principal, query.account))
    )
    return reply(MemberList(data=[show_member(member) for member in found]))


async def set_member(request: Request, body: bytes) -> Response:
    """Somebody who may act for an account from now on, or otherwise."""
    principal, query = principal_of(request), decode_query(query_of(request), AccountQuery)
    wire = decode_request_body(body, MemberBody)
    role = Role(wire.role)
    require_all(principal, PERMISSIONS[role])
    member = await change(
        request,
        lambda editor: editor.set_member(
            one_of(editor.connection, principal, query.account), wire.subject, role, email=wire.email
        ),
    )
    return reply(show_member(member))


async def remove_member(request: Request, body: bytes) -> Response:
    """Somebody who may no longer act for an account."""
    principal, query = principal_of(request), decode_query(query_of(request), MemberQuery)
    await change(
        request,
        lambda editor: editor.remove_member(one_of(editor.connection, principal, query.account), query.subject),
    )
    return reply(DeletedReply(id=query.subject))


async def ledger_page(request: Request, body: bytes) -> Response:
    """Entries of the ledger, the newest first."""
    principal, query = principal_of(request), decode_query(query_of(request), LedgerQuery)
    before = row_number(query.cursor)
    kind = None if query.kind is None else EntryKind(query.kind)
    found = await read(
        request,
        lambda connection: list_entries(
            connection,
            whose(connection, principal, query.account),
            most=query.limit + 1,
            before=before,
            kind=kind,
        ),
    )
    rows, cursor = page(found, query.limit, lambda entry: entry.id)
    return reply(LedgerPage(data=[show_entry(entry) for entry in rows], next_cursor=cursor))


async def usage_page(request: Request, body: bytes) -> Response:
    """Requests, the newest first."""
    principal, query = principal_of(request), decode_query(query_of(request), RequestQuery)
    where, before = rules_of(query, ("key", "user", "model", "provider")), matching(query.cursor, GENERATION)
    start = None if query.start is None else parse_time(query.start, place="start")
    end = None if query.end is None else parse_time(query.end, place="end")
    await gateway_of(request).drain()

    def operation(connection: Connection) -> Sequence[usage.Usage]:
        wanted = Wanted(account=whose(connection, principal, query.account), where=where, start=start, end=end)
        return list_requests(connection, wanted, most=query.limit + 1, before=before)

    rows, cursor = page(await read(request, operation), query.limit, lambda row: row.id)
    return reply(RequestPage(data=[show_request(row) for row in rows], next_cursor=cursor))


async def usage_report(request: Request, body: bytes) -> Response:
    """What was used, by day, model, key or whatever else, as JSON or CSV."""
    principal, query = principal_of(request), decode_query(query_of(request), UsageReportQuery)
    await gateway_of(request).drain()

    def operation(connection: Connection) -> tuple[usage.Report, list[usage.Line]]:
        wanted = build_report(
            query.by,
            now=now_ms(),
            start=None if query.start is None else parse_time(query.start, place="start"),
            end=None if query.end is None else parse_time(query.end, place="end"),
            account=whose(connection, principal, query.account),
            where=rules_of(query, ("key", "user", "model", "provider", "operation")),
            tags=query.tags,
        )
        return usage.clipped(connection, wanted), usage.report(connection, wanted)

    wanted, lines = await read(request, operation)
    if query.format == "csv":
        return Response(write_report(wanted, lines), media_type=CSV_TYPE, headers=CSV_HEADERS)
    return reply(show_report(wanted, lines))


async def all_credentials(request: Request, body: bytes) -> Response:
    """Providers to which an account has a key stored."""
    principal, query = principal_of(request), decode_query(query_of(request), AccountQuery)
    found = await read(
        request, lambda connection: list_credentials(connection, one_of(connection, principal, query.account))
    )
    return reply(CredentialList(data=show_credentials(found)))


async def store_credential(request: Request, body: bytes) -> Response:
    """A customer's own key to a provider, stored in place of the one before."""
    principal, site, slug = principal_of(request), site_of(request), named(request, "provider")
    query, wire = decode_query(query_of(request), AccountQuery), decode_request_body(body, CredentialBody)
    open_to = [provider.slug for provider in site.gateway.registry.providers if provider.byok]
    if slug not in open_to:
        raise NotFoundError(
            f"There is no provider {slug} that takes keys of customers.",
            param="provider",
            hint=f"These do: {', '.join(open_to)}." if open_to else "None of this gateway does.",
        )

    def operation(editor: Editor) -> Mapping[str, int]:
        account = one_of(editor.connection, principal, query.account)
        editor.store_credential(site.vault, account, slug, wire.key)
        return list_credentials(editor.connection, account)

    stored = await change(request, operation)
    return reply(show_credentials({slug: stored[slug]})[0])


async def drop_credential(request: Request, body: bytes) -> Response:
    """A customer's own key to a provider, forgotten."""
    principal, slug = principal_of(request), named(request, "provider")
    query = decode_query(query_of(request), AccountQuery)
    await change(
        request,
        lambda editor: editor.drop_credential(one_of(editor.connection, principal, query.account), slug),
    )
    return reply(DeletedReply(id=slug))


async def all_providers(request: Request, body: bytes) -> Response:
    """All providers."""
    registry = gateway_of(request).registry
    found = await read(request, list_providers)
    return reply(ProviderList(data=[_provider(request, registry, stored) for stored in found]))


async def one_provider(request: Request, body: bytes) -> Response:
    """One provider, with how its models are doing."""
    return await _show_provider(request, named(request, "slug"))


async def save_provider(request: Request, body: bytes) -> Response:
    """A provider, new or in place of the one of its slug."""
    table: dict[str, Any] = msgspec.to_builtins(decode_request_body(body, ProviderBody))
    if "api_key" in table and OPEN_SECRET.fullmatch(table["api_key"]) is None:
        raise InvalidRequestError(
            "api_key names no variable that may be named over HTTP.",
            param="api_key",
            hint="Write env:NAME_API_KEY; the configuration file and quernel providers add take others.",
        )
    await change(request, lambda editor: editor.save_provider(table))
    return await _show_provider(request, table["slug"])


async def switch_provider(request: Request, body: bytes) -> Response:
    """A provider, asked from now on or no more."""
    slug, wire = named(request, "slug"), decode_request_body(body, ProviderChangeBody)
    await change(request, lambda editor: editor.switch_provider(slug, enabled=wire.enabled))
    return await _show_provider(request, slug)


async def remove_provider(request: Request, body: bytes) -> Response:
    """A provider, taken out."""
    slug = named(request, "slug")
    await change(request, lambda editor: editor.remove_provider(slug))
    return reply(DeletedReply(id=slug))


async def add_price(request: Request, body: bytes) -> Response:
    """A new price of a model at a provider."""
    slug, wire = named(request, "slug"), decode_request_body(body, NewPriceBody)
    table: dict[str, Any] = msgspec.to_builtins(wire)
    price = parse_dated_price({key: value for key, value in table.items() if key != "model"}, place="price")
    added = await change(request, lambda editor: editor.add_price(slug, wire.model, price))
    return reply(show_new_price(slug, wire.model, added))


async def reset_canaries(request: Request, body: bytes) -> Response:
    """A model whose providers are compared with one another anew."""
    model = named(request, "model")
    await change(request, lambda editor: editor.reset_canaries(model))
    return reply(DeletedReply(id=model))


async def _show_provider(request: Request, slug: str) -> Response:
    stored = await read(request, lambda connection: find_provider(connection, slug))
    return reply(_provider(request, gateway_of(request).registry, stored))


def _provider(request: Request, registry: Registry, stored: StoredProvider) -> ProviderEntry:
    """A provider as it is shown; with its condition, as far as this process has it just as it is stored."""
    gateway, provider = gateway_of(request), stored.provider
    if provider not in registry.providers:
        return show_provider(provider, source=stored.source, updated=stored.updated)

    def condition(offer: Offer) -> Condition:
        return gateway.condition(provider, offer)

    def problem(offer: Offer) -> str | None:
        try:
            registry.upstream(provider, offer)
        except QuernelError as error:
            return error.message
        return None

    return show_provider(provider, source=stored.source, updated=stored.updated, problem=problem, condition=condition)


async def audit_page(request: Request, body: bytes) -> Response:
    """Changes, the newest first."""
    query = decode_query(query_of(request), AuditQuery)
    before = row_number(query.cursor)
    found = await read(
        request,
        lambda connection: list_changes(
            connection,
            most=query.limit + 1,
            before=before,
            actor=query.actor,
            action=query.action,
            target=query.target,
        ),
    )
    rows, cursor = page(found, query.limit, lambda row: row.id)
    return reply(AuditPage(data=[show_change(row) for row in rows], next_cursor=cursor))


async def reconcile(request: Request, body: bytes) -> Response:
    """Whether the books agree."""
    found = await read(request, ledger.reconcile)
    return reply(ReconcileReply(agrees=not found, data=[show_discrepancy(one) for one in found]))
