"""Managing a gateway over HTTP: who may do what, what is written down of it, and what is never shown."""

import asyncio
import csv
import io
import json
import os
import time
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from functools import reduce

import httpx
import pytest
import sqlalchemy as sa
from tests.support.canaries import no_canaries

from quernel.gateway import schema
from quernel.gateway.accounts import create_account, find_account
from quernel.gateway.admin_routes import ADMIN
from quernel.gateway.app import create_gateway_app
from quernel.gateway.audit import note_change
from quernel.gateway.config import GatewayConfig
from quernel.gateway.database import Database
from quernel.gateway.ids import now_ms
from quernel.gateway.keys import KEY
from quernel.gateway.limits import DAY_MS
from quernel.gateway.oidc import Identity
from quernel.gateway.opening import Tables, open_gateway
from quernel.gateway.principals import Principals
from quernel.gateway.upkeep import Upkeep
from quernel.gateway.usage import Usage, record
from quernel.protocols.gateway_admin import format_time
from quernel.server.openapi import build_openapi
from quernel.server.serve import running
from quernel.testing import FakeEmbeddingModel, FakeRerankModel

EMBEDDING, RERANKER = "fake/embedding", "fake/reranker"

PROVIDERS = [
    {
        "slug": "local",
        "format": "local",
        "zdr": True,
        "models": [
            {"model": EMBEDDING, "prices": [{"usd_per_million_tokens": "1000"}]},
            {"model": RERANKER, "prices": [{"usd_per_thousand_documents": "2"}]},
        ],
    },
    {
        "slug": "away",
        "format": "openai",
        "base_url": "https://away.example.com/v1",
        "byok": True,
        "enabled": False,
        "models": [{"model": EMBEDDING, "prices": [{"usd_per_million_tokens": "3000"}]}],
    },
]

SCOPES = {
    ("GET", "/v1/key"): None,
    ("GET", "/v1/keys"): "read",
    ("POST", "/v1/keys"): "manage",
    ("GET", "/v1/keys/{id}"): "read",
    ("PATCH", "/v1/keys/{id}"): "manage",
    ("DELETE", "/v1/keys/{id}"): "manage",
    ("POST", "/v1/keys/{id}/rotate"): "manage",
    ("GET", "/v1/account"): "read",
    ("PATCH", "/v1/account"): "manage",
    ("GET", "/v1/members"): "read",
    ("PUT", "/v1/members"): "manage",
    ("DELETE", "/v1/members"): "manage",
    ("GET", "/v1/ledger"): "read",
    ("GET", "/v1/usage"): "read",
    ("GET", "/v1/usage/report"): "read",
    ("GET", "/v1/credentials"): "read",
    ("PUT", "/v1/credentials/{provider}"): "manage",
    ("DELETE", "/v1/credentials/{provider}"): "manage",
    ("GET", "/v1/accounts"): "operate",
    ("POST", "/v1/accounts"): "operate",
    ("GET", "/v1/accounts/{name}"): "operate",
    ("PATCH", "/v1/accounts/{name}"): "operate",
    ("POST", "/v1/accounts/{name}/credit"): "operate",
    ("GET", "/v1/providers"): "operate",
    ("POST", "/v1/providers"): "operate",
    ("GET", "/v1/providers/{slug}"): "operate",
    ("PATCH", "/v1/providers/{slug}"): "operate",
    ("DELETE", "/v1/providers/{slug}"): "operate",
    ("DELETE", "/v1/canaries/{model:path}"): "operate",
    ("POST", "/v1/providers/{slug}/prices"): "operate",
    ("GET", "/v1/audit"): "operate",
    ("GET", "/v1/reconcile"): "operate",
}
"""Route to the scope that it takes."""

IMPLIED = {
    "infer": {"infer"},
    "read": {"read"},
    "manage": {"read", "manage"},
    "metrics": {"metrics"},
    "operate": {"infer", "read", "manage", "metrics", "operate"},
}


@dataclass
class Client:
    """Somebody with a key."""

    http: httpx.Client
    key: str | None

    def __call__(self, method, path, body=None, **params):
        headers = {} if self.key is None else {"authorization": f"Bearer {self.key}"}
        content = None if body is None else json.dumps(body)
        return self.http.request(method, path, content=content, params=params, headers=headers)

    def ok(self, method, path, body=None, **params):
        """The reply, which must be a good one."""
        reply = self(method, path, body, **params)
        assert reply.status_code == 200, reply.text
        return reply.json()

    def refused(self, method, path, body=None, **params):
        """The status and code of the reply, which must not be a good one."""
        reply = self(method, path, body, **params)
        assert reply.status_code >= 400, reply.text
        return reply.status_code, reply.json()["error"]["code"]

    def embed(self, text="hello world", **fields):
        return self("POST", "/v1/embeddings", {"model": EMBEDDING, "input": text, **fields})


@dataclass
class Site:
    """A gateway that runs."""

    url: str
    http: httpx.Client
    parts: object

    def as_(self, key):
        return Client(self.http, key)

    @property
    def operator(self):
        return self.as_(self.parts.first_key)

    def key(self, *scopes, account="acme", **fields):
        """Somebody with a new key of these scopes."""
        body = {"name": "-".join(scopes), "account": account, "scopes": list(scopes), **fields}
        return self.as_(self.operator.ok("POST", "/v1/keys", body)["key"])


@pytest.fixture
def opened(database_url, tmp_path):
    """Opens the gateway of one database, as often as one likes."""
    secret = tmp_path / "secret"
    secret.write_bytes(os.urandom(32))
    secret.chmod(0o600)

    @contextmanager
    def open_site(change=lambda parts: parts, **settings):
        parts = open_gateway(
            GatewayConfig(secret_file=secret, **settings),
            database=database_url,
            tables=Tables(providers=PROVIDERS),
            local={EMBEDDING: FakeEmbeddingModel(), RERANKER: FakeRerankModel()},
        )
        parts = change(parts)
        with no_canaries(), running(create_gateway_app(parts)) as url, httpx.Client(base_url=url) as http:
            yield Site(url, http, parts)

    return open_site


@pytest.fixture
def site(opened):
    """A gateway with the accounts `operator` and `acme`."""
    with opened() as site:
        site.operator.ok("POST", "/v1/accounts", {"slug": "acme", "welcome": "10"})
        yield site


def rows_of(site, table):
    with site.parts.database.engine.connect() as connection:
        return [dict(row) for row in connection.execute(sa.select(table).order_by(sa.text("1"))).mappings()]


def audited(site):
    return [(row["action"], row["target"]) for row in rows_of(site, schema.audit)]


def test_every_route_takes_the_scope_that_is_written_here(site):
    assert {(endpoint.method, endpoint.path) for endpoint in ADMIN} == set(SCOPES)
    holders = {scope: (site.key(scope), IMPLIED[scope]) for scope in IMPLIED}
    holders["none"] = (site.as_(None), set())
    for (method, path), scope in SCOPES.items():
        concrete = path.replace("{id}", "0000000000").replace("{", "").replace("}", "")
        for name, (client, permissions) in holders.items():
            reply = client(method, concrete, None if method in ("GET", "DELETE") else {"surely_not": 1})
            if name == "none":
                assert reply.status_code == 401, (method, path)
            elif scope is None or scope in permissions:
                assert reply.status_code in (200, 400, 404), (method, path, name, reply.text)
            else:
                assert reply.status_code == 403, (method, path, name, reply.text)
                assert scope in reply.json()["error"]["message"]
    assert [action for action, _ in audited(site)] == ["account.create", *["key.create"] * len(IMPLIED)]


def test_another_account_is_not_there(site):
    manager = site.key("infer", "manage")
    (first,) = site.operator.ok("GET", "/v1/keys")["data"]
    missing = (404, "not_found")
    for method, path, body in (
        ("GET", f"/v1/keys/{first['id']}", None),
        ("PATCH", f"/v1/keys/{first['id']}", {"name": "mine"}),
        ("DELETE", f"/v1/keys/{first['id']}", None),
        ("POST", f"/v1/keys/{first['id']}/rotate", {}),
    ):
        assert manager.refused(method, path, body) == missing
    for path in ("keys", "account", "members", "ledger", "usage", "usage/report", "credentials"):
        there = manager("GET", f"/v1/{path}", account="operator")
        nowhere = manager("GET", f"/v1/{path}", account="nowhere")
        assert there.status_code == nowhere.status_code == 404
        assert there.text == nowhere.text.replace("nowhere", "operator")
        assert manager.refused("GET", f"/v1/{path}", account="*") == missing
        assert manager.ok("GET", f"/v1/{path}", account="acme")
    body = {"name": "x", "account": "operator"}
    assert manager.refused("POST", "/v1/keys", body) == missing
    assert manager.refused("PATCH", "/v1/account", {"name": "x"}, account="operator") == missing
    assert manager.refused("PUT", "/v1/members", {"subject": "a|b", "role": "owner"}, account="operator") == missing
    assert manager.refused("DELETE", "/v1/members", subject="a|b", account="operator") == missing
    assert manager.refused("PUT", "/v1/credentials/away", {"key": "sk-1"}, account="operator") == missing
    assert site.operator.ok("GET", f"/v1/keys/{first['id']}") == first


def test_operators_see_one_account_or_all(site):
    site.key("infer").embed()
    site.operator.embed()
    operator = site.operator
    assert {key["name"] for key in operator.ok("GET", "/v1/keys")["data"]} == {"first key"}
    assert {key["name"] for key in operator.ok("GET", "/v1/keys", account="acme")["data"]} == {"infer"}
    assert {key["name"] for key in operator.ok("GET", "/v1/keys", account="*")["data"]} == {"first key", "infer"}
    for name, count in (("operator", 1), ("acme", 1), ("*", 2)):
        assert len(operator.ok("GET", "/v1/usage", account=name)["data"]) == count
    by_account = operator.ok("GET", "/v1/usage/report", by="account", account="*")["data"]
    assert [line["requests"] for line in by_account] == [1, 1]
    assert operator.refused("GET", "/v1/account", account="*") == (400, "invalid_request")
    assert [one["slug"] for one in operator.ok("GET", "/v1/accounts")["data"]] == ["acme", "operator"]


def test_the_own_key_says_what_is_left(site):
    limits = {"minute": {"requests": 5, "tokens": 1000}, "month": {"usd": "1.5"}}
    client = site.key("infer", limits=limits, tags=["team"], models=[EMBEDDING], expires="2999-01-01")
    spent = client.embed().headers["x-quernel-cost"]
    own = client.ok("GET", "/v1/key")
    assert (own["label"], own["credential"], own["scopes"]) == ("infer", "api-key", ["infer"])
    assert (own["account_slug"], own["tags"], own["models"]) == ("acme", ["team"], [EMBEDDING])
    assert own["expires"] == "2999-01-01T00:00:00.000Z"
    assert client.key.startswith(own["prefix"])
    minute, month = own["limits"]
    assert minute["requests"] == {"limit": 5, "used": 1, "left": 4}
    assert minute["tokens"]["used"] == 1000 - minute["tokens"]["left"] > 0
    assert "usd" not in minute
    assert month["usd"]["limit"] == "1.50"
    assert month["usd"]["used"] == spent == own["balance"]["spent"]
    assert float(own["balance"]["available"]) == pytest.approx(10 - float(spent))


class OneIdentity:
    """Takes every token for the same."""

    def __init__(self, *, is_by_claim=False):
        self.is_by_claim = is_by_claim

    async def verify(self, token):
        return Identity(
            issuer="idp",
            subject="ada",
            account="acme",
            is_by_claim=self.is_by_claim,
            user="ada",
            tags=(),
            project=None,
            scopes=("infer",),
            auto_provision=False,
            expires_at=time.time() + 60,
            digest="d" * 64,
        )


def test_an_account_that_a_claim_names_must_want_the_issuer(opened):
    def with_verifier(parts):
        return replace(parts, principals=Principals(parts.database, parts.mint, OneIdentity(is_by_claim=True)))

    with opened(with_verifier) as site:
        ada = site.as_("eyJhbGciOiJub25lIn0.e30.c2ln")
        site.operator.ok("POST", "/v1/accounts", {"slug": "acme"})
        assert ada.refused("GET", "/v1/key") == (403, "permission_denied")
        site.operator.ok("PATCH", "/v1/accounts/acme", {"issuers": ["idp"]})
        assert ada.ok("GET", "/v1/key")["credential"] == "oidc"


def test_a_token_has_a_key_too_and_what_its_membership_gives(opened):
    def with_verifier(parts):
        return replace(parts, principals=Principals(parts.database, parts.mint, OneIdentity()))

    with opened(with_verifier) as site:
        ada = site.as_("eyJhbGciOiJub25lIn0.e30.c2ln")
        assert ada.refused("GET", "/v1/key") == (403, "permission_denied")
        site.operator.ok("POST", "/v1/accounts", {"slug": "acme"})
        own = ada.ok("GET", "/v1/key")
        assert (own["credential"], own["prefix"], own["label"]) == ("oidc", None, "idp|ada")
        assert ada.refused("GET", "/v1/keys") == (403, "permission_denied")
        site.operator.ok("PUT", "/v1/members", {"subject": "idp|ada", "role": "admin"}, account="acme")
        made = ada.ok("POST", "/v1/keys", {"name": "by ada"})
        assert made["created_by"].startswith("oidc:")
        assert ada.refused("DELETE", "/v1/members", subject="idp|eve") == (404, "not_found")
        ada.ok("PUT", "/v1/members", {"subject": "idp|ada", "role": "owner"})
        assert ada.refused("DELETE", "/v1/members", subject="idp|ada") == (409, "conflict")


def test_nobody_gives_a_scope_that_they_lack(site):
    denied = (403, "permission_denied")
    manager, both = site.key("manage"), site.key("manage", "infer")
    for client, *scopes in ((manager, "infer"), (manager, "operate"), (both, "operate"), (both, "read", "operate")):
        assert client.refused("POST", "/v1/keys", {"name": "x", "scopes": scopes}) == denied
    assert manager.refused("POST", "/v1/keys", {"name": "x"}) == denied
    assert both.ok("POST", "/v1/keys", {"name": "x"})["scopes"] == ["infer"]
    own = manager.ok("GET", "/v1/key")["id"]
    assert manager.refused("PATCH", f"/v1/keys/{own}", {"scopes": ["manage", "operate"]}) == denied
    assert manager.ok("GET", "/v1/key")["scopes"] == ["manage", "read"]
    # A new secret would give what the key may do.
    strong = site.operator.ok("POST", "/v1/keys", {"name": "strong", "account": "acme", "scopes": ["operate"]})["id"]
    assert both.refused("POST", f"/v1/keys/{strong}/rotate") == denied
    assert both.refused("PATCH", f"/v1/keys/{strong}", {"name": "mine"}) == denied
    assert both.ok("PATCH", f"/v1/keys/{strong}", {"scopes": ["read"]})["scopes"] == ["read"]
    assert manager.refused("PUT", "/v1/members", {"subject": "a|b", "role": "member"}) == denied
    assert manager.ok("PUT", "/v1/members", {"subject": "a|b", "role": "viewer"})["role"] == "viewer"
    assert site.operator.refused("POST", "/v1/keys", {"name": "x", "scopes": ["fly"]}) == (400, "invalid_request")


def test_members_of_an_account_do_not_loosen_what_the_operator_set(site):
    site.operator.ok("PATCH", "/v1/accounts/acme", {"limits": {"day": {"usd": "1"}}, "regions": ["eu"]})
    manager = site.key("infer", "manage")
    for field, value in (
        ("limits", {}),
        ("models", []),
        ("providers", ["away"]),
        ("regions", []),
        ("status", "active"),
    ):
        body = {"zdr": True, field: value}
        assert manager.refused("PATCH", "/v1/account", body) == (403, "permission_denied")
    changed = manager.ok("PATCH", "/v1/account", {"name": "Acme", "zdr": True, "no_training": True, "capture": True})
    assert changed["limits"] == {"day": {"usd": "1.00"}}
    assert (changed["name"], changed["zdr"], changed["regions"], changed["slug"]) == ("Acme", True, ["eu"], "acme")
    assert manager.ok("GET", "/v1/account") == changed


def test_a_revoked_key_is_refused_at_once_here_and_within_a_second_elsewhere(opened):
    with opened() as here, opened() as there:
        key = here.operator.ok("POST", "/v1/keys", {"name": "x"})
        elsewhere = there.as_(key["key"])
        elsewhere.ok("GET", "/v1/key")
        here.as_(key["key"]).ok("GET", "/v1/key")
        revoked = time.monotonic()
        assert here.operator.ok("DELETE", f"/v1/keys/{key['id']}")["revoked"] is not None
        assert here.as_(key["key"]).refused("GET", "/v1/key") == (401, "invalid_api_key")
        while elsewhere("GET", "/v1/key").status_code == 200:
            assert time.monotonic() - revoked < 1
            time.sleep(0.02)
        assert elsewhere.refused("GET", "/v1/key") == (401, "invalid_api_key")


def test_a_rotated_key_has_two_secrets_for_a_while_or_one(site):
    made = site.operator.ok("POST", "/v1/keys", {"name": "x"})
    rotated = site.operator.ok("POST", f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 600})
    assert rotated["rotating_until"] is not None
    for key in (made["key"], rotated["key"]):
        assert site.as_(key).ok("GET", "/v1/key")["id"] == made["id"]
    last = site.operator.ok("POST", f"/v1/keys/{made['id']}/rotate")
    for key in (made["key"], rotated["key"]):
        assert site.as_(key).refused("GET", "/v1/key") == (401, "invalid_api_key")
    site.as_(last["key"]).ok("GET", "/v1/key")


def test_the_end_of_a_key_is_moved_and_taken_away_at_once(site):
    client = site.key("infer", expires="2999-01-01")
    own = f"/v1/keys/{client.ok('GET', '/v1/key')['id']}"
    assert site.operator.ok("PATCH", own, {"expires": "2998-01-01"})["expires"] == "2998-01-01T00:00:00.000Z"
    assert client.ok("GET", "/v1/key")["expires"] == "2998-01-01T00:00:00.000Z"
    assert site.operator.ok("PATCH", own, {"name": "other"})["expires"] == "2998-01-01T00:00:00.000Z"
    assert site.operator.ok("PATCH", own, {"expires": None})["expires"] is None
    soon = (datetime.now(UTC) + timedelta(seconds=0.5)).isoformat()
    site.operator.ok("PATCH", own, {"expires": soon})
    client.ok("GET", "/v1/key")
    until_refused(client)
    assert client.refused("GET", "/v1/key") == (401, "invalid_api_key")
    details = [row["detail"] for row in rows_of(site, schema.audit) if row["action"] == "key.change"]
    assert [detail.get("expires", "unsaid") for detail in details][:3] == ["2998-01-01T00:00:00.000Z", "unsaid", None]
    before = audited(site)
    for wrong in ("2020-01-01", "soon", 5, "9999-12-31T23:00:00-05:00"):
        assert site.operator.refused("PATCH", own, {"expires": wrong}) == (400, "invalid_request")
    assert audited(site) == before


def until_refused(client, seconds=5.0):
    """Ask until the key is good no longer."""
    begun = time.monotonic()
    while client("GET", "/v1/key").status_code == 200:
        assert time.monotonic() - begun < seconds
        time.sleep(0.02)


def test_a_change_whose_commit_was_lost_is_done_again_and_answered_as_the_first_time(site, monkeypatch):
    database = site.parts.database
    write = database.write

    async def write_twice(operation, **options):
        await write(operation, **options)
        return await write(operation, **options)

    before = audited(site)
    monkeypatch.setattr(database, "write", write_twice)
    made = site.operator.ok("POST", "/v1/keys", {"name": "x"})
    rotated = site.operator.ok("POST", f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 600})
    account = site.operator.ok("POST", "/v1/accounts", {"slug": "new", "welcome": "3"})
    assert account["balance"]["balance"] == "3.00"
    for key in (made["key"], rotated["key"]):
        assert site.as_(key).ok("GET", "/v1/key")["id"] == made["id"]
    assert audited(site)[len(before) :] == [
        ("key.create", made["id"]),
        ("key.rotate", made["id"]),
        ("account.create", account["id"]),
    ]


def test_the_first_key_is_given_out_though_its_commit_was_lost(opened, monkeypatch):
    write_now = Database.write_now

    def write_twice(database, operation):
        write_now(database, operation)
        return write_now(database, operation)

    with monkeypatch.context() as patched:
        patched.setattr(Database, "write_now", write_twice)
        with opened() as site:
            assert site.operator.ok("GET", "/v1/key")["label"] == "first key"
    with opened() as site:
        assert site.parts.first_key is None


def test_a_suspended_account_is_refused_at_once(site):
    client = site.key("infer")
    assert client.embed().status_code == 200
    site.operator.ok("PATCH", "/v1/accounts/acme", {"status": "suspended"})
    assert client.embed().status_code == 403
    site.operator.ok("PATCH", "/v1/accounts/acme", {"status": "active"})
    assert client.embed().status_code == 200
    assert site.operator.refused("PATCH", "/v1/accounts/operator", {"status": "closed"}) == (409, "conflict")


def change_everything(site):
    """Every kind of change once, in order; gives the texts of keys, and what else must stay secret."""
    operator = site.operator
    made = operator.ok("POST", "/v1/keys", {"name": "x", "account": "acme"})
    operator.ok("PATCH", f"/v1/keys/{made['id']}", {"name": "y", "limits": {"day": {"usd": "1"}}})
    rotated = operator.ok("POST", f"/v1/keys/{made['id']}/rotate", {"grace_seconds": 1})
    operator.ok("DELETE", f"/v1/keys/{made['id']}")
    operator.ok("PATCH", "/v1/account", {"name": "Us"})
    operator.ok("PUT", "/v1/members", {"subject": "idp|ada", "role": "viewer"}, account="acme")
    operator.ok("DELETE", "/v1/members", subject="idp|ada", account="acme")
    operator.ok("POST", "/v1/accounts/acme/credit", {"amount": "5", "reference": "r1"})
    operator.ok("PUT", "/v1/credentials/away", {"key": "sk-very-secret"}, account="acme")
    operator.ok("DELETE", "/v1/credentials/away", account="acme")
    provider = {
        "slug": "other",
        "format": "openai",
        "base_url": "https://ada:hidden@other.example.com/v1",
        "api_key": "env:OTHER_API_KEY",
        "headers": {"x-team": "hidden-too"},
        "models": [{"model": EMBEDDING, "prices": [{"usd_per_million_tokens": "5"}]}],
    }
    operator.ok("POST", "/v1/providers", provider)
    operator.ok("PATCH", "/v1/providers/other", {"enabled": False})
    operator.ok(
        "POST",
        "/v1/providers/other/prices",
        {"model": EMBEDDING, "from": "2030-01-01", "usd_per_million_tokens": "6"},
    )
    operator.ok("DELETE", "/v1/providers/other")
    return made, [made["key"], rotated["key"], "sk-very-secret", "hidden", "hidden-too"]


def test_every_change_is_one_line_of_the_audit_and_none_has_a_secret(site):
    acme = site.operator.ok("GET", "/v1/accounts/acme")["id"]
    own = site.operator.ok("GET", "/v1/account")["id"]
    made, secrets = change_everything(site)
    assert audited(site) == [
        ("account.create", acme),
        ("key.create", made["id"]),
        ("key.change", made["id"]),
        ("key.rotate", made["id"]),
        ("key.revoke", made["id"]),
        ("account.change", own),
        ("member.set", acme),
        ("member.remove", acme),
        ("account.credit", acme),
        ("credential.store", acme),
        ("credential.drop", acme),
        ("provider.save", "other"),
        ("provider.switch", "other"),
        ("price.add", "other"),
        ("provider.remove", "other"),
    ]
    shown = site.operator.ok("GET", "/v1/audit")["data"]
    actor = f"api-key:{site.operator.ok('GET', '/v1/key')['id']}"
    assert [(row["actor"], row["target"]) for row in shown[::-1]] == [(actor, target) for _, target in audited(site)]
    for secret in secrets:
        assert secret not in json.dumps(rows_of(site, schema.audit))
    assert [row["action"] for row in site.operator.ok("GET", "/v1/audit", target="other", limit=2)["data"]] == [
        "provider.remove",
        "price.add",
    ]


def test_a_refused_change_leaves_nothing_behind(site):
    before = {table.name: rows_of(site, table) for table in (schema.audit, schema.prices, schema.providers)}
    provider = {
        "slug": "other",
        "format": "openai",
        "base_url": "https://other.example.com/v1",
        "models": [{"model": EMBEDDING, "prices": [{"from": "2020-01-01", "usd_per_million_tokens": "5"}]}],
    }
    site.operator.ok("POST", "/v1/providers", provider)
    saved = rows_of(site, schema.prices)
    provider["models"][0]["prices"] = [
        {"from": "2019-01-01", "usd_per_million_tokens": "4"},
        {"from": "2020-01-01", "usd_per_million_tokens": "6"},
    ]
    assert site.operator.refused("POST", "/v1/providers", provider) == (409, "conflict")
    assert rows_of(site, schema.prices) == saved
    assert len(rows_of(site, schema.audit)) == len(before["audit"]) + 1
    assert site.operator.refused("POST", "/v1/accounts", {"slug": "acme"}) == (409, "conflict")
    assert site.operator.refused("DELETE", "/v1/providers/local") == (409, "conflict")
    assert len(rows_of(site, schema.audit)) == len(before["audit"]) + 1


def test_the_text_of_a_key_is_in_the_reply_that_makes_it_and_nowhere_else(site):
    made, secrets = change_everything(site)
    pages = [f"/v1/keys/{made['id']}", "/v1/accounts/acme"]
    pages += [path for method, path in SCOPES if method == "GET" and "{" not in path]
    for path in pages:
        text = site.operator("GET", path, **({"account": "*"} if path in ("/v1/keys", "/v1/ledger") else {})).text
        assert KEY.search(text) is None, path
        for secret in secrets[:3]:
            assert secret not in text, path
    assert "key" not in site.operator.ok("GET", f"/v1/keys/{made['id']}")
    for table in schema.metadata.sorted_tables:
        for row in rows_of(site, table):
            assert KEY.search(repr(row)) is None, table.name
            assert "sk-very-secret" not in repr(row), table.name


TOO_LONG = [
    ("POST", "/v1/keys", {"name": "x"}, "name", 200),
    ("POST", "/v1/keys", {"name": "x"}, "account", 200),
    ("PATCH", "/v1/keys/{key}", {}, "name", 200),
    ("PATCH", "/v1/account", {}, "name", 200),
    ("PATCH", "/v1/accounts/acme", {}, "name", 200),
    ("POST", "/v1/accounts", {"slug": "new"}, "slug", 64),
    ("POST", "/v1/accounts", {"slug": "new"}, "name", 200),
    ("POST", "/v1/accounts/acme/credit", {"amount": "1", "reference": "r"}, "reference", 200),
    ("POST", "/v1/accounts/acme/credit", {"amount": "1", "reference": "r"}, "note", 200),
    ("PUT", "/v1/members", {"subject": "a|b", "role": "viewer"}, "subject", 200),
    ("PUT", "/v1/members", {"subject": "a|b", "role": "viewer"}, "email", 200),
    ("PUT", "/v1/credentials/away", {"key": "sk-1"}, "key", 4096),
    ("POST", "/v1/providers", {"slug": "other", "format": "openai", "base_url": "https://o.example.com"}, "slug", 64),
    ("POST", "/v1/providers", {"slug": "other", "format": "openai", "base_url": "https://o.example.com"}, "name", 200),
    ("POST", "/v1/providers/away/prices", {"model": EMBEDDING}, "model", 200),
]
"""Method, route, body, text of it, and how many letters that may have."""


def test_texts_longer_than_their_columns_are_refused_by_name_with_their_limit(site):
    made = site.operator.ok("POST", "/v1/keys", {"name": "x"})["id"]
    before = audited(site)
    for method, path, body, name, most in TOO_LONG:
        reply = site.operator(method, path.format(key=made), body | {name: "x" * (most + 1)})
        error = reply.json()["error"]
        assert (reply.status_code, error["param"]) == (400, name), (path, reply.text)
        assert str(most) in error["message"], path
    for tags in (["x" * 201], ["x" * 150, "y" * 50]):
        reply = site.operator("PATCH", f"/v1/keys/{made}", {"tags": tags})
        assert reply.status_code == 400
        assert "200" in reply.json()["error"]["message"]
    assert audited(site) == before
    for method, path, body, name, most in TOO_LONG:
        fitting = "x|".ljust(most, "x") if name == "subject" else "x" * most
        reply = site.operator(method, path.format(key=made), body | {name: fitting})
        assert reply.status_code == 200 or reply.json()["error"]["code"] == "not_found", (path, name, reply.text)


VALID = {
    ("POST", "/v1/keys"): {"name": "x"},
    ("PUT", "/v1/members"): {"subject": "a|b", "role": "viewer"},
    ("PUT", "/v1/credentials/{provider}"): {"key": "sk-1"},
    ("POST", "/v1/accounts"): {"slug": "new"},
    ("POST", "/v1/accounts/{name}/credit"): {"amount": "1", "reference": "r"},
    ("POST", "/v1/providers"): {"slug": "other", "format": "openai", "base_url": "https://other.example.com/v1"},
    ("PATCH", "/v1/providers/{slug}"): {"enabled": False},
    ("POST", "/v1/providers/{slug}/prices"): {"model": EMBEDDING, "from": "2030-01-01"},
}
"""Route to the least that it takes."""

IN_NO_YEAR = "9999-12-31T23:00:00-05:00"
HUGE = 10**30

WEIRD = [None, True, 5, 1.5, HUGE, "", "a\0b", "x" * 5000, IN_NO_YEAR, [], [5], ["a\0b"], {}, {"a": 5}]
WEIRD += [{"day": {"requests": HUGE}}, [{"model": "m", "max_tokens": HUGE}]]
WEIRD += [[{"model": "m", "prices": [{"from": moment}]}] for moment in (IN_NO_YEAR, "0001-01-01T00:00:00+05:00")]
"""Values that hardly any field takes."""

WEIRD_QUERIES = ["", "a\0b", "\uffff", "'", "x" * 300, "9" * 5000, "-1", "1e3", "*", IN_NO_YEAR]


def bodies(endpoint):
    """What no route takes, and each of its fields with what it may not be."""
    yield from (b"", b"null", b"[]", b'"x"', b"{", b"\xff", b'{"surely_not": 1}')
    least = VALID.get((endpoint.method, endpoint.path), {})
    for shape in endpoint.body:
        for field in shape.__struct_encode_fields__:
            yield from (json.dumps({**least, field: value}).encode() for value in WEIRD)


def queries(endpoint):
    """Parameters that no route takes, and each of its own with what it may not be."""
    yield {"surely_not": "x"}
    for field in () if endpoint.query is None else endpoint.query.__struct_encode_fields__:
        yield from ({field: value} for value in WEIRD_QUERIES)


def test_nothing_that_is_sent_to_any_route_is_the_servers_fault(site):
    key = site.operator.ok("POST", "/v1/keys", {"name": "x"})["id"]
    names = {"id": key, "name": "acme", "slug": "away", "provider": "away", "model:path": EMBEDDING}
    for endpoint in ADMIN:
        path = reduce(lambda path, name: path.replace(f"{{{name}}}", names[name]), names, endpoint.path)
        asked = [{"content": content} for content in bodies(endpoint)] if endpoint.body else []
        asked += [{"params": query, "content": b"{}" if endpoint.body else None} for query in queries(endpoint)]
        for said in asked:
            headers = {"authorization": f"Bearer {site.parts.first_key}"}
            reply = site.http.request(endpoint.method, path, headers=headers, **said)
            assert reply.status_code < 500, (endpoint.method, endpoint.path, said, reply.text)
            if "surely_not" in str(said) or said.get("content") in (b"null", b"[]", b'"x"', b"{", b"\xff"):
                assert reply.status_code == 400, (endpoint.method, endpoint.path, said, reply.text)
    for path in ("keys", "accounts", "providers", "members", "usage/report", "audit"):
        site.operator.ok("GET", f"/v1/{path}")


def test_what_is_not_there_is_named_with_the_way_out(site):
    for method, path, body in (
        ("GET", "/v1/keys/nothing", None),
        ("PATCH", "/v1/keys/nothing", {"name": "x"}),
        ("DELETE", "/v1/keys/nothing", None),
        ("POST", "/v1/keys/nothing/rotate", {}),
        ("GET", "/v1/keys?account=nothing", None),
        ("GET", "/v1/account?account=nothing", None),
        ("DELETE", "/v1/members?subject=nothing", None),
        ("DELETE", "/v1/credentials/nothing", None),
        ("PUT", "/v1/credentials/nothing", {"key": "sk-1"}),
        ("GET", "/v1/accounts/nothing", None),
        ("PATCH", "/v1/accounts/nothing", {"name": "x"}),
        ("POST", "/v1/accounts/nothing/credit", {"amount": "1", "reference": "r"}),
        ("GET", "/v1/providers/nothing", None),
        ("PATCH", "/v1/providers/nothing", {"enabled": True}),
        ("DELETE", "/v1/providers/nothing", None),
        ("POST", "/v1/providers/nothing/prices", {"model": EMBEDDING}),
        ("POST", "/v1/providers/away/prices", {"model": "nothing"}),
        ("DELETE", "/v1/canaries/nothing", None),
    ):
        content = None if body is None else json.dumps(body)
        headers = {"authorization": f"Bearer {site.parts.first_key}"}
        reply = site.http.request(method, path, content=content, headers=headers)
        assert reply.status_code == 404, (method, path, reply.text)
        message = reply.json()["error"]["message"]
        assert "nothing" in message, (method, path, message)
        assert len(message.rstrip(".").split(". ")) > 1, (method, path, "no way out", message)


def test_a_body_that_changes_nothing_is_refused_with_what_it_may_change(site):
    made = site.operator.ok("POST", "/v1/keys", {"name": "x"})["id"]
    before = audited(site)
    for path in (f"/v1/keys/{made}", "/v1/account", "/v1/accounts/acme"):
        for body in ({}, {"name": None}):
            reply = site.operator("PATCH", path, body)
            assert reply.status_code == 400
            assert "Send one of name, " in reply.json()["error"]["message"]
    assert audited(site) == before


def test_an_account_is_named_once(site):
    body = {"name": "x", "account": "acme"}
    assert site.operator.refused("POST", "/v1/keys", body, account="operator") == (400, "invalid_request")
    assert site.operator.refused("POST", "/v1/keys", body | {"account": ""}) == (404, "not_found")
    assert site.operator.refused("POST", "/v1/keys", body | {"account": "*"}) == (400, "invalid_request")
    assert site.operator.ok("POST", "/v1/keys", body, account="acme")["name"] == "x"


def test_an_unknown_field_is_answered_with_the_nearest(site):
    reply = site.operator("POST", "/v1/keys", {"name": "x", "limit": {}})
    assert reply.status_code == 400
    assert "Did you mean limits?" in reply.json()["error"]["message"]
    reply = site.operator("GET", "/v1/usage", acount="acme")
    assert "Did you mean account?" in reply.json()["error"]["message"]


IMPOSSIBLE = [
    ("/v1/keys", {"name": ""}),
    ("/v1/keys", {"name": "a\nb"}),
    ("/v1/keys", {"name": "a\n"}),
    ("/v1/keys", {"name": "x" * 201}),
    ("/v1/keys", {"name": "x", "expires": "2020-01-01"}),
    ("/v1/keys", {"name": "x", "expires": "soon"}),
    ("/v1/keys", {"name": "x", "limits": {"day": {"requests": -1}}}),
    ("/v1/keys", {"name": "x", "limits": {"day": {"usd": "much"}}}),
    ("/v1/keys", {"name": "x", "limits": {"week": {"usd": "1"}}}),
    ("/v1/accounts", {"slug": "Not A Slug"}),
    ("/v1/accounts", {"slug": "new", "welcome": "-1"}),
    ("/v1/accounts/acme/credit", {"amount": "0", "reference": "r"}),
    ("/v1/accounts/acme/credit", {"amount": "-5", "reference": "r"}),
    ("/v1/accounts/acme/credit", {"amount": "5"}),
    ("/v1/accounts/acme/credit", {"amount": "9223371", "reference": "r"}),
    ("/v1/providers", {"slug": "x", "format": "carrier-pigeon"}),
    ("/v1/providers", {"slug": "x", "format": "openai", "api_key": "file:/etc/hostname"}),
    ("/v1/providers", {"slug": "x", "format": "openai", "api_key": "env:HOME"}),
    ("/v1/providers", {"slug": "x", "format": "openai", "api_key": "sk-secret-itself"}),
]
"""Route and body of requests that nobody can grant."""


def test_what_cannot_be_is_refused_and_not_written(site):
    site.operator.ok("POST", "/v1/accounts/acme/credit", {"amount": "9000000", "reference": "much"})
    before = audited(site)
    for path, body in IMPOSSIBLE:
        reply = site.operator("POST", path, body)
        assert reply.status_code == 400, (path, body, reply.text)
        assert "secret-itself" not in reply.text
    assert audited(site) == before


def test_a_credit_is_entered_once(site):
    body = {"amount": "5.25", "reference": "invoice-1", "note": "paid"}
    first = site.operator.ok("POST", "/v1/accounts/acme/credit", body)
    again = site.operator.ok("POST", "/v1/accounts/acme/credit", body)
    assert (first["entered"], again["entered"]) == (True, False)
    assert first["balance"]["balance"] == again["balance"]["balance"] == "15.25"
    assert site.operator.refused("POST", "/v1/accounts/acme/credit", body | {"amount": "6"}) == (409, "conflict")
    site.operator.ok("POST", "/v1/accounts/acme/credit", {"amount": "-1", "kind": "adjustment", "reference": "a"})
    entries = site.key("read").ok("GET", "/v1/ledger")["data"]
    assert [(entry["kind"], entry["amount"]) for entry in entries] == [
        ("adjustment", "-1.00"),
        ("purchase", "5.25"),
        ("grant", "10.00"),
    ]
    assert entries[1]["note"] == "paid"
    assert site.operator.ok("GET", "/v1/reconcile") == {"agrees": True, "data": []}


def test_books_that_do_not_agree_are_shown(site):
    acme = site.operator.ok("GET", "/v1/accounts/acme")["id"]
    with site.parts.database.engine.begin() as connection:
        connection.execute(sa.update(schema.accounts).filter_by(id=acme).values(balance=7 * 10**12))
    found = site.operator.ok("GET", "/v1/reconcile")
    assert found == {
        "agrees": False,
        "data": [{"account": acme, "what": "balance", "row": "7.00", "sum": "10.00"}],
    }


def listed(client, path, **params):
    """All lines of a list, page by page."""
    found = []
    while True:
        page = client.ok("GET", path, **params)
        assert len(page["data"]) <= params["limit"]
        found += page["data"]
        if page["next_cursor"] is None:
            return found
        params["cursor"] = page["next_cursor"]


def test_keys_and_accounts_are_listed_page_by_page(site):
    operator = site.operator
    made = [operator.ok("POST", "/v1/keys", {"name": f"key {number}", "account": "acme"}) for number in range(5)]
    slugs = [operator.ok("POST", "/v1/accounts", {"slug": f"a-{number}"})["slug"] for number in range(3)]
    expected = sorted(made, key=lambda key: (key["created"], key["id"]), reverse=True)
    for limit in (1, 2, 5, 1000):
        assert [key["id"] for key in listed(operator, "/v1/keys", account="acme", limit=limit)] == [
            key["id"] for key in expected
        ]
        assert len(listed(operator, "/v1/keys", account="*", limit=limit)) == 6
        found = [account["slug"] for account in listed(operator, "/v1/accounts", limit=limit)]
        assert found == [*slugs, "acme", "operator"]
    first = operator.ok("GET", "/v1/keys", account="acme", limit=2)
    operator.ok("POST", "/v1/keys", {"name": "later", "account": "acme"})
    second = operator.ok("GET", "/v1/keys", account="acme", limit=2, cursor=first["next_cursor"])
    assert [key["id"] for key in second["data"]] == [key["id"] for key in expected[2:4]], "a new key moves no page"


def test_without_parameters_keys_and_accounts_are_listed_whole_while_they_are_few(site):
    assert site.operator.ok("GET", "/v1/keys")["next_cursor"] is None
    assert site.operator.ok("GET", "/v1/accounts")["next_cursor"] is None
    for number in range(101):
        site.parts.database.write_now(lambda connection, slug=f"a{number}": create_account(connection, slug, now=1))
    page = site.operator.ok("GET", "/v1/accounts")
    assert (len(page["data"]), page["next_cursor"]) == (100, page["data"][-1]["slug"])


@pytest.mark.parametrize("path", ["keys", "accounts", "usage", "ledger", "audit"])
def test_a_cursor_that_no_page_has_is_refused(site, path):
    for cursor in ("", "x y", ".a", "-1", "A", "é", "x" * 65):
        reply = site.operator("GET", f"/v1/{path}", cursor=cursor)
        assert reply.status_code == 400, (cursor, reply.text)
        assert reply.json()["error"]["param"] == "cursor"
    for limit in ("0", "1001", "x", "9" * 5000):
        assert site.operator.refused("GET", f"/v1/{path}", limit=limit) == (400, "invalid_request")


def test_pages_go_on_where_the_one_before_ended(site):
    client, reader = site.key("infer"), site.key("read")
    ids = [client.embed(f"text {number}").headers["x-quernel-generation-id"] for number in range(5)]
    for path, name in (("/v1/usage", "id"), ("/v1/ledger", "reference")):
        found = [row[name] for row in listed(reader, path, limit=2)]
        assert found == [*ids[::-1], *(["welcome"] if path == "/v1/ledger" else [])]
    assert reader.refused("GET", "/v1/ledger", cursor="x") == (400, "invalid_request")
    assert reader.refused("GET", "/v1/ledger", limit=0) == (400, "invalid_request")
    assert reader.refused("GET", "/v1/usage", account="a\0b") == (400, "invalid_request")
    assert reader.refused("GET", "/v1/keys/a%00b") == (404, "not_found")


def test_requests_are_listed_with_numbers_and_no_texts(site):
    client, reader = site.key("infer", tags=["team"]), site.key("read")
    client.embed("my private text", user="ada")
    (row,) = reader.ok("GET", "/v1/usage")["data"]
    assert (row["user"], row["tags"], row["model"], row["provider"]) == ("ada", ["team"], EMBEDDING, "local")
    assert row["key"] == client.ok("GET", "/v1/key")["id"]
    assert row["cost"] == row["upstream_cost"] != "0.00"
    assert "private" not in json.dumps(row)
    assert len(reader.ok("GET", "/v1/usage", user="ada")["data"]) == 1
    for filters in ({"user": "eve"}, {"model": RERANKER}, {"start": "2999-01-01"}, {"end": "2020-01-01"}):
        assert reader.ok("GET", "/v1/usage", **filters)["data"] == []


def test_a_report_is_divided_by_several_things_as_json_or_csv(site):
    client, reader = site.key("infer"), site.key("read")
    client.embed("one two", user="=ada")
    client.embed("three", user="eve")
    client("POST", "/v1/rerank", {"model": RERANKER, "query": "q", "documents": ["a", "b"], "user": "eve"})
    shown = reader.ok("GET", "/v1/usage/report", by="model,user")
    assert shown["by"] == ["model", "user"]
    assert [(line["group"]["model"], line["group"]["user"], line["requests"]) for line in shown["data"]] == [
        (EMBEDDING, "=ada", 1),
        (EMBEDDING, "eve", 1),
        (RERANKER, "eve", 1),
    ]
    reply = reader("GET", "/v1/usage/report", by="model,user", format="csv")
    assert reply.headers["content-type"] == "text/csv; charset=utf-8"
    lines = list(csv.DictReader(io.StringIO(reply.text)))
    assert [line["user"] for line in lines] == ["'=ada", "eve", "eve"]
    assert [line["cost_usd"] for line in lines] == [line["cost"] for line in shown["data"]]
    assert lines[2]["documents"] == "2"
    total = sum(float(line["cost"]) for line in shown["data"])
    (day,) = reader.ok("GET", "/v1/usage/report")["data"]
    assert float(day["cost"]) == pytest.approx(total)
    assert list(day["group"]) == ["day"]
    assert reader.ok("GET", "/v1/usage/report", end="2020-01-01")["data"] == []
    for wrong in ({"by": "weather"}, {"by": ""}, {"start": "2026-01-01T00:30"}, {"start": "2999-01-01"}):
        assert reader.refused("GET", "/v1/usage/report", **wrong) == (400, "invalid_request")


KEPT_DAYS = {"usage_days": 3, "hourly_days": 10, "report_days": 20, "audit_days": 15}


def test_what_is_old_goes_after_its_days_and_reports_begin_where_sums_are_kept(opened):
    today = now_ms() - now_ms() % DAY_MS
    midday = [today - days * DAY_MS + DAY_MS // 2 for days in (30, 12, 5, 2)]

    def write_old(connection):
        account = find_account(connection, "operator").id
        for number, moment in enumerate(midday):
            row = {"id": f"gen_{number}", "time": moment, "account": account, "key": "k", "cost": 10**12}
            record(connection, Usage(**row, operation="embed", model=EMBEDDING))
            said = {"actor": "cli:ada", "action": "key.revoke", "target": f"key {number}", "detail": {}}
            note_change(connection, **said, now=moment)

    with opened(**KEPT_DAYS) as site:
        site.parts.database.write_now(write_old)
        for _ in range(3):
            asyncio.run(Upkeep(site.parts).tidy())
        assert [row["time"] for row in rows_of(site, schema.usage)] == midday[3:]
        expected = [midday[1] - DAY_MS // 2, midday[2], midday[3]]
        assert [row["hour"] for row in rows_of(site, schema.rollups)] == expected
        assert [target for _, target in audited(site)] == ["key 1", "key 2", "key 3"]
        report = site.operator.ok("GET", "/v1/usage/report", start="2020-01-01")
        assert report["start"] == format_time(today - 20 * DAY_MS)
        assert [(line["requests"], line["cost"]) for line in report["data"]] == [(1, "1.00")] * 3
        reply = site.operator("GET", "/v1/usage/report", start="2020-01-01", by="hour")
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "by")
        recent = format_time(today - 9 * DAY_MS)
        assert len(site.operator.ok("GET", "/v1/usage/report", start=recent, by="hour")["data"]) == 2


def test_a_credential_is_stored_and_never_shown(site):
    manager = site.key("manage")
    stored = manager.ok("PUT", "/v1/credentials/away", {"key": "sk-mine"})
    assert manager.ok("GET", "/v1/credentials") == {"data": [stored]}
    assert set(stored) == {"provider", "created"}
    assert site.operator.ok("GET", "/v1/credentials") == {"data": []}
    assert manager.refused("PUT", "/v1/credentials/local", {"key": "sk-mine"}) == (404, "not_found")
    assert manager.refused("PUT", "/v1/credentials/away", {"key": "two words"}) == (400, "invalid_request")
    manager.ok("DELETE", "/v1/credentials/away")
    assert manager.refused("DELETE", "/v1/credentials/away") == (404, "not_found")


def offering(site):
    """Who offers the embedding model."""
    found = site.operator.ok("GET", f"/v1/models/{EMBEDDING}/endpoints")["data"]["endpoints"]
    return [one["provider"] for one in found]


def test_stored_vectors_of_a_model_are_forgotten_once(site):
    row = {"model": f"{EMBEDDING}@full", "number": 0, "vector": b"", "provider": "local", "time": 1}
    site.parts.database.write_now(lambda connection: connection.execute(sa.insert(schema.canaries), row).rowcount)
    assert site.operator.ok("DELETE", f"/v1/canaries/{EMBEDDING}") == {"id": EMBEDDING, "deleted": True}
    assert site.operator.refused("DELETE", f"/v1/canaries/{EMBEDDING}") == (404, "not_found")


def test_a_provider_is_added_priced_switched_and_removed_at_once(site):
    operator = site.operator
    added = operator.ok(
        "POST",
        "/v1/providers",
        {
            "slug": "other",
            "format": "openai",
            "base_url": "https://other.example.com/v1",
            "api_key": "env:SURELY_NOT_SET_API_KEY",
            "headers": {"x-team": "hidden"},
            "models": [{"model": EMBEDDING, "prices": [{"usd_per_million_tokens": "0.02"}]}],
        },
    )
    (offer,) = added["models"]
    assert (added["source"], added["enabled"], added["headers"]) == ("api", True, ["x-team"])
    assert offer["prices"][0]["usd_per_million_tokens"] == "0.02"
    assert "SURELY_NOT_SET_API_KEY is not set" in offer["problem"]
    assert offer["condition"]["state"] == "closed"
    assert "hidden" not in json.dumps(added)
    assert offering(site) == ["local", "other"]
    price = {"model": EMBEDDING, "from": "2030-01-31", "usd_per_million_tokens": "0.01", "usd_per_request": "1"}
    later = operator.ok("POST", "/v1/providers/other/prices", price)
    assert (later["from"], later["usd_per_request"]) == ("2030-01-31T00:00:00.000Z", "1.00")
    assert operator.refused("POST", "/v1/providers/other/prices", price | {"usd_per_request": "2"}) == (409, "conflict")
    operator.ok("PATCH", "/v1/providers/other", {"enabled": False})
    assert offering(site) == ["local"]
    assert [one["slug"] for one in operator.ok("GET", "/v1/providers")["data"]] == ["local", "away", "other"]
    operator.ok("DELETE", "/v1/providers/other")
    assert operator.refused("GET", "/v1/providers/other") == (404, "not_found")


def test_a_providers_condition_is_that_of_its_traffic(site):
    site.operator.embed()
    offers = {offer["model"]: offer for offer in site.operator.ok("GET", "/v1/providers/local")["models"]}
    assert offers[EMBEDDING]["condition"]["uptime"] == 1.0
    assert offers[RERANKER]["condition"]["uptime"] is None
    assert offers[EMBEDDING]["problem"] is None


def test_limits_of_a_key_bind_from_the_next_request_on(site):
    client = site.key("infer")
    assert client.embed().status_code == 200
    own = client.ok("GET", "/v1/key")["id"]
    changed = site.operator.ok("PATCH", f"/v1/keys/{own}", {"limits": {"day": {"requests": 1}}})
    assert changed["limits"] == {"day": {"requests": 1}}
    assert client.embed().status_code == 200
    assert client.embed().status_code == 429
    site.operator.ok("PATCH", f"/v1/keys/{own}", {"limits": {}})
    assert client.embed().status_code == 200


def test_the_routes_are_described():
    validator = pytest.importorskip("openapi_spec_validator")
    document = build_openapi(ADMIN)
    validator.validate(document)
    assert document["paths"]["/v1/keys/{id}"]["patch"]["requestBody"]["required"]
