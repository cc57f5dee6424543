"""The routes that manage a gateway, each with the scope that it takes."""

from typing import Any, Literal

from msgspec import Struct

from quernel.errors import (
    BodyTooLargeError,
    ConflictError,
    InvalidRequestError,
    NotFoundError,
    PermissionDeniedError,
    QuernelError,
    SettingsError,
    UnavailableError,
)
from quernel.gateway import admin
from quernel.gateway.keys import Scope
from quernel.protocols.gateway_admin import (
    AccountBody,
    AccountChangeBody,
    AccountEntry,
    AccountList,
    AuditPage,
    CredentialBody,
    CredentialEntry,
    CredentialList,
    CreditBody,
    CreditReply,
    DeletedReply,
    KeyBody,
    KeyChangeBody,
    KeyEntry,
    KeyList,
    LedgerPage,
    MemberBody,
    MemberEntry,
    MemberList,
    NewKeyReply,
    NewPriceBody,
    OwnKeyReply,
    PriceReply,
    ProviderBody,
    ProviderChangeBody,
    ProviderEntry,
    ProviderList,
    ReconcileReply,
    RequestPage,
    RotateBody,
    UsageReport,
)
from quernel.server.middleware import Handler
from quernel.server.routes import ASKED, Endpoint

ERRORS: tuple[type[QuernelError], ...] = (*ASKED, InvalidRequestError, UnavailableError)
"""Errors of any of these routes."""

CHANGE_ERRORS = (BodyTooLargeError, SettingsError, NotFoundError, ConflictError)
"""Errors of those that change something, besides."""


def _route(
    method: Literal["GET", "POST", "PUT", "PATCH", "DELETE"],
    path: str,
    handler: Handler,
    summary: str,
    *,
    scope: Scope | None,
    body: type[Struct] | None = None,
    reply: Any,
) -> Endpoint:
    taken = "" if scope is None else f" Scope `{scope.value}`."
    found = (NotFoundError,) if method == "GET" else CHANGE_ERRORS
    refused = () if scope is None else (PermissionDeniedError,)
    return Endpoint(
        method=method,
        path=path,
        handler=admin.guarded(handler, scope),
        summary=f"{summary}{taken}",
        body=() if body is None else (body,),
        reply=(reply,),
        errors=(*ERRORS, *refused, *found),
    )


READ, MANAGE, OPERATE = Scope.READ, Scope.MANAGE, Scope.OPERATE

ADMIN = (
    _route(
        "GET",
        "/v1/key",
        admin.own_key,
        "The key that asks: what it may do, how much is left of its limits, and the account's balance.",
        scope=None,
        reply=OwnKeyReply,
    ),
    _route(
        "GET",
        "/v1/keys",
        admin.all_keys,
        "The account's keys, the newest first; of another with `?account=`, of all with `?account=*`.",
        scope=READ,
        reply=KeyList,
    ),
    _route(
        "POST",
        "/v1/keys",
        admin.create_key,
        "Make a key. Its text is in this reply and in no other.",
        scope=MANAGE,
        body=KeyBody,
        reply=NewKeyReply,
    ),
    _route("GET", "/v1/keys/{id}", admin.one_key, "One key.", scope=READ, reply=KeyEntry),
    _route(
        "PATCH",
        "/v1/keys/{id}",
        admin.change_key,
        "Rename a key, or change what it may do.",
        scope=MANAGE,
        body=KeyChangeBody,
        reply=KeyEntry,
    ),
    _route("DELETE", "/v1/keys/{id}", admin.revoke_key, "End a key, for good.", scope=MANAGE, reply=KeyEntry),
    _route(
        "POST",
        "/v1/keys/{id}/rotate",
        admin.rotate_key,
        "Give a key a new secret; the old one stays good for `grace_seconds`.",
        scope=MANAGE,
        body=RotateBody,
        reply=NewKeyReply,
    ),
    _route("GET", "/v1/account", admin.own_account, "The account and its money.", scope=READ, reply=AccountEntry),
    _route(
        "PATCH",
        "/v1/account",
        admin.change_own_account,
        "Change the account's name, `zdr`, `no_training` or `capture`; operators, all else.",
        scope=MANAGE,
        body=AccountChangeBody,
        reply=AccountEntry,
    ),
    _route("GET", "/v1/members", admin.all_members, "Who may act for the account.", scope=READ, reply=MemberList),
    _route(
        "PUT",
        "/v1/members",
        admin.set_member,
        "Let somebody act for the account, or change what they may do.",
        scope=MANAGE,
        body=MemberBody,
        reply=MemberEntry,
    ),
    _route(
        "DELETE",
        "/v1/members",
        admin.remove_member,
        "Let somebody, whom `?subject=` names, no longer act for the account.",
        scope=MANAGE,
        reply=DeletedReply,
    ),
    _route(
        "GET",
        "/v1/ledger",
        admin.ledger_page,
        "What came and went of the account's money, the newest first; `?cursor=` asks for more.",
        scope=READ,
        reply=LedgerPage,
    ),
    _route(
        "GET",
        "/v1/usage",
        admin.usage_page,
        "The account's requests, the newest first, by `?key=`, `?user=`, `?model=`, `?provider=`, `?start=`, `?end=`.",
        scope=READ,
        reply=RequestPage,
    ),
    _route(
        "GET",
        "/v1/usage/report",
        admin.usage_report,
        "What was used from `?start=` to `?end=`, divided `?by=day,model`, with `?format=csv` as a table.",
        scope=READ,
        reply=UsageReport,
    ),
    _route(
        "GET",
        "/v1/credentials",
        admin.all_credentials,
        "Providers to which the account has a key of its own stored.",
        scope=READ,
        reply=CredentialList,
    ),
    _route(
        "PUT",
        "/v1/credentials/{provider}",
        admin.store_credential,
        "Store the account's own key to a provider.",
        scope=MANAGE,
        body=CredentialBody,
        reply=CredentialEntry,
    ),
    _route(
        "DELETE",
        "/v1/credentials/{provider}",
        admin.drop_credential,
        "Forget the account's own key to a provider.",
        scope=MANAGE,
        reply=DeletedReply,
    ),
    _route("GET", "/v1/accounts", admin.all_accounts, "All accounts.", scope=OPERATE, reply=AccountList),
    _route(
        "POST",
        "/v1/accounts",
        admin.create_account,
        "Make an account, with its welcome credit.",
        scope=OPERATE,
        body=AccountBody,
        reply=AccountEntry,
    ),
    _route("GET", "/v1/accounts/{name}", admin.one_account, "One account.", scope=OPERATE, reply=AccountEntry),
    _route(
        "PATCH",
        "/v1/accounts/{name}",
        admin.change_account,
        "Rename an account, suspend it, or change what its requests may do.",
        scope=OPERATE,
        body=AccountChangeBody,
        reply=AccountEntry,
    ),
    _route(
        "POST",
        "/v1/accounts/{name}/credit",
        admin.credit_account,
        "Add money to an account, once for each `reference`.",
        scope=OPERATE,
        body=CreditBody,
        reply=CreditReply,
    ),
    _route("GET", "/v1/providers", admin.all_providers, "All providers.", scope=OPERATE, reply=ProviderList),
    _route(
        "POST",
        "/v1/providers",
        admin.save_provider,
        "Add a provider, or replace the one of its slug.",
        scope=OPERATE,
        body=ProviderBody,
        reply=ProviderEntry,
    ),
    _route(
        "GET",
        "/v1/providers/{slug}",
        admin.one_provider,
        "One provider, with its prices and how its models are doing.",
        scope=OPERATE,
        reply=ProviderEntry,
    ),
    _route(
        "PATCH",
        "/v1/providers/{slug}",
        admin.switch_provider,
        "Ask a provider, or ask it no more; until the next start, where it is the configuration's.",
        scope=OPERATE,
        body=ProviderChangeBody,
        reply=ProviderEntry,
    ),
    _route(
        "DELETE",
        "/v1/providers/{slug}",
        admin.remove_provider,
        "Take a provider out; its prices stay, since usage names them.",
        scope=OPERATE,
        reply=DeletedReply,
    ),
    _route(
        "POST",
        "/v1/providers/{slug}/prices",
        admin.add_price,
        "Add a price, from when it says.",
        scope=OPERATE,
        body=NewPriceBody,
        reply=PriceReply,
    ),
    _route("GET", "/v1/audit", admin.audit_page, "Who changed what.", scope=OPERATE, reply=AuditPage),
    _route(
        "GET",
        "/v1/reconcile",
        admin.reconcile,
        "Whether the numbers in accounts are what their entries and holds come to.",
        scope=OPERATE,
        reply=ReconcileReply,
    ),
)
