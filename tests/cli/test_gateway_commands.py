"""`quernel keys`, `accounts`, `usage` and `providers`: on the database of a gateway that has run once."""

import asyncio
import csv
import io
import json
import subprocess
import sys
from importlib import import_module

import pytest
import sqlalchemy as sa

from quernel.gateway import schema
from quernel.gateway.config import GatewayConfig
from quernel.gateway.database import Database
from quernel.gateway.ids import new_id, now_ms
from quernel.gateway.keys import KEY, KeyMint, verify_key
from quernel.gateway.limits import DAY_MS
from quernel.gateway.opening import KEY_PURPOSE, Tables, open_gateway, read_secret
from quernel.gateway.usage import Usage, record
from quernel.gateway.vault import derive
from quernel.testing import FakeEmbeddingModel

MODEL = "fake/embedding"
GROUPS = ("keys", "accounts", "usage", "providers")
HEAVY = (
    "torch",
    "numpy",
    "starlette",
    "orjson",
    "sqlalchemy",
    "alembic",
    "cryptography",
    "aiohappyeyeballs",
    "msgspec",
)

PROVIDERS = """
[[providers]]
slug = "other"
format = "openai"
base_url = "https://other.example.com/v1"
api_key = "file:/run/secrets/other"
zdr = true

    [[providers.models]]
    model = "fake/embedding"
    prices = [{ usd_per_million_tokens = "0.02", from = 2025-06-05 }]
"""


@pytest.fixture
def url(tmp_path, monkeypatch):
    """The URL of a database in which a gateway has run, for all commands to find."""
    url = f"sqlite:///{tmp_path}/gateway.db"
    table = {
        "slug": "local",
        "format": "local",
        "models": [{"model": MODEL, "prices": [{"usd_per_million_tokens": "1"}]}],
    }
    parts = open_gateway(
        GatewayConfig(), database=url, tables=Tables(providers=[table]), local={MODEL: FakeEmbeddingModel()}
    )
    asyncio.run(parts.close())
    monkeypatch.setenv("QUERNEL_DATABASE", url)
    return url


@pytest.fixture
def books(url):
    """Opens that database."""
    engine = sa.create_engine(url)
    yield engine
    engine.dispose()


@pytest.fixture
def ok(run, url):
    """Runs a command that must succeed, and gives what it prints on stdout."""

    def call(*arguments):
        result = run(*arguments)
        assert result.exit_code == 0, result.stderr
        return result.stdout

    return call


@pytest.fixture
def lines(ok):
    """Runs a command with `--json`, and gives its lines."""
    return lambda *arguments: [json.loads(line) for line in ok(*arguments, "--json").splitlines()]


def audited(books):
    with books.connect() as connection:
        return [(row.actor, row.action) for row in connection.execute(sa.select(schema.audit).order_by("id"))]


def commands():
    for name in GROUPS:
        group = import_module(f"quernel.cli.{name}").command
        yield from ((name, child) for child in group.commands)


def test_help_of_each_imports_nothing_heavy():
    named = [[*arguments, "--help"] for arguments in commands()]
    code = (
        "import contextlib, sys\n"
        "from quernel.cli.main import cli\n"
        f"for arguments in {named}:\n"
        "    with contextlib.suppress(SystemExit):\n"
        "        cli(arguments, 'quernel')\n"
        f"print([name for name in {HEAVY} if name in sys.modules], file=sys.stderr)\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for group, name in commands():
        assert f"Usage: quernel {group} {name}" in result.stdout
    assert result.stderr == "[]\n"


def test_options_of_each_are_unambiguous():
    for group, name in commands():
        command = import_module(f"quernel.cli.{group}").command.commands[name]
        flags = [flag for parameter in command.params for flag in (*parameter.opts, *parameter.secondary_opts)]
        assert len(flags) == len(set(flags))


@pytest.mark.parametrize("name", ["keys", "accounts", "providers"])
def test_a_group_alone_prints_its_help(run, name):
    assert run(name).exit_code == 0
    assert run(name).stdout == run(name, "--help").stdout
    result = run(name, "lst")
    assert result.exit_code == 2
    assert result.stderr == f"error: No such command 'lst'. Did you mean 'list'?\nhint: See 'quernel {name} --help'.\n"


def test_a_database_that_is_not_there_is_not_made(run, tmp_path):
    missing = tmp_path / "missing.db"
    result = run("keys", "list", "--database", f"sqlite:///{missing}")
    assert result.exit_code == 2
    assert result.stderr.startswith(f"error: There is no gateway at sqlite:///{missing}.\nhint: Start quernel gateway")
    assert not missing.exists()
    assert run("keys", "list", "--database", "mysql://host/name").exit_code == 2


def test_the_database_may_stand_in_the_gateways_file(run, url, tmp_path, monkeypatch):
    monkeypatch.delenv("QUERNEL_DATABASE")
    file = tmp_path / "gateway.toml"
    file.write_text(f'[gateway]\ndatabase = "{url}"\nwelcome_usd = "7"\n')
    result = run("accounts", "create", "acme", "--config", file)
    assert (result.exit_code, result.stderr) == (0, "acme has $7.00.\n")


def test_a_key_alone_is_printed_and_opens_the_gateway(run, url, books):
    result = run("keys", "create", "my service", "--scope", "read", "--expires", "90d", "--limit", "month:usd=10")
    assert result.exit_code == 0, result.stderr
    assert result.stderr == "This key is not shown again.\n"
    text = result.stdout.strip()
    assert KEY.fullmatch(text)
    mint = KeyMint(derive(read_secret(GatewayConfig(), url), KEY_PURPOSE))
    with books.connect() as connection:
        key = verify_key(connection, mint, text, now=now_ms())
        assert key.settings.scopes == {"read"}
        assert verify_key(connection, mint, text, now=now_ms() + 91 * DAY_MS) is None
    ((actor, action),) = audited(books)
    assert actor.startswith("cli")
    assert action == "key.create"


def test_without_the_gateways_secret_no_key_is_made(run, url, tmp_path, books):
    (tmp_path / "gateway.db.secret").rename(tmp_path / "elsewhere")
    result = run("keys", "create", "x")
    assert result.exit_code == 2
    assert not (tmp_path / "gateway.db.secret").exists()
    assert audited(books) == []
    assert run("keys", "create", "x", "--secret-file", tmp_path / "elsewhere").exit_code == 0


def test_keys_are_listed_shown_limited_rotated_and_revoked(lines, ok, run):
    (made,) = lines("keys", "create", "x", "--limit", "minute:requests=60", "--limit", "minute:tokens=9", "--zdr")
    assert made["limits"] == {"minute": {"requests": 60, "tokens": 9}}
    assert (made["zdr"], made["scopes"]) == (True, ["infer"])
    (shown,) = lines("keys", "show", made["id"])
    assert shown == {field: value for field, value in made.items() if field != "key"}
    assert lines("keys", "show", made["prefix"]) == lines("keys", "show", made["key"]) == [shown]
    assert "minute:requests=60 minute:tokens=9" in ok("keys", "show", made["id"])
    assert [key["name"] for key in lines("keys", "list", "--account", "operator")] == ["x", "first key"]
    header, first, *_ = ok("keys", "list").splitlines()
    assert header.split()[:3] == ["ID", "NAME", "ACCOUNT"]
    assert first.split()[:4] == [made["id"], "x", "operator", "infer"]
    (limited,) = lines("keys", "limit", made["id"], "day:usd=0.50")
    assert limited["limits"] == {"day": {"usd": "0.50"}}
    assert lines("keys", "limit", made["id"], "--none")[0]["limits"] == {}
    assert run("keys", "limit", made["id"]).exit_code == 2
    (rotated,) = lines("keys", "rotate", made["id"], "--grace", "1h")
    assert rotated["key"] != made["key"]
    assert rotated["rotating_until"] is not None
    assert KEY.fullmatch(ok("keys", "rotate", made["id"]).strip())
    (revoked,) = lines("keys", "revoke", made["id"])
    assert revoked["revoked"] is not None
    assert "revoked" in ok("keys", "list")
    result = run("keys", "show", "nothing")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (1, "error: There is no key nothing.")


def test_a_key_is_renamed_and_its_end_moved_and_taken_away(lines, ok, run, books):
    (made,) = lines("keys", "create", "x", "--expires", "10d")
    (moved,) = lines("keys", "change", made["id"], "--expires", "2999-01-31")
    assert moved == {field: value for field, value in made.items() if field != "key"} | {
        "expires": "2999-01-31T00:00:00.000Z"
    }
    assert lines("keys", "change", made["key"], "--name", "y") == [moved | {"name": "y"}]
    assert lines("keys", "change", made["id"], "--expires", "never") == [moved | {"name": "y", "expires": None}]
    (soon,) = lines("keys", "change", made["id"], "--expires", "1d", "--name", "z")
    assert (soon["name"], soon["expires"] < made["expires"]) == ("z", True)
    assert "expires" in ok("keys", "change", made["id"], "--expires", "1d")
    assert [action for _, action in audited(books)] == ["key.create", *["key.change"] * 5]
    result = run("keys", "change", made["id"], "--expires", "2020-01-01")
    assert result.exit_code == 1
    assert "2020-01-01T00:00:00.000Z, which is in the past" in result.stderr
    for words in ((), ("--expires", "soon")):
        assert run("keys", "change", made["id"], *words).exit_code == 2
    assert lines("keys", "show", made["id"])[0]["expires"] == lines("keys", "list")[0]["expires"]


def test_lists_go_through_all_pages(lines, ok, books, monkeypatch):
    monkeypatch.setattr("quernel.protocols.gateway_admin.MOST_LISTED", 2)
    made = [lines("keys", "create", f"key {number}")[0]["id"] for number in range(5)]
    slugs = [lines("accounts", "create", f"a{number}", "--welcome", "0")[0]["slug"] for number in range(4)]
    listed = lines("keys", "list")
    assert {key["id"] for key in listed[:-1]} == set(made)
    assert listed == sorted(listed, key=lambda key: (key["created"], key["id"]), reverse=True)
    assert [one["slug"] for one in lines("accounts", "list")] == [*slugs, "operator"]
    assert len(ok("keys", "list", "--account", "operator").splitlines()) == 7
    assert len(ok("accounts", "list").splitlines()) == 6


TOO_LONG = [
    (("keys", "create", "{}"), "name", 200),
    (("keys", "create", "x", "--tag", "{}"), "tags", 200),
    (("accounts", "create", "{}"), "slug", 64),
    (("accounts", "create", "acme", "--name", "{}"), "name", 200),
    (("accounts", "credit", "operator", "1", "--reference", "{}"), "reference", 200),
    (("accounts", "credit", "operator", "1", "--reference", "r", "--note", "{}"), "note", 200),
    (("accounts", "members", "operator", "--add", "{}"), "subject", 200),
    (("accounts", "members", "operator", "--add", "idp|ada", "--email", "{}"), "email", 200),
]
"""Command with the place of a text, its name, and how many letters it may have."""


def test_texts_longer_than_their_columns_are_refused_by_name_with_their_limit(run, url, books):
    for words, name, most in TOO_LONG:
        result = run(*(word.format("x" * (most + 1)) for word in words))
        assert result.exit_code == 1
        assert f"{name} has {most + 1} letters, more than {most}." in result.stderr
    assert audited(books) == []
    for words, name, most in TOO_LONG:
        fitting = "x|".ljust(most, "x") if name == "subject" else "x" * most
        assert run(*(word.format(fitting) for word in words)).exit_code == 0, words


def test_a_file_of_providers_with_names_longer_than_their_columns_is_refused(run, url, books, tmp_path):
    file = tmp_path / "long.toml"
    for old, new, limit in (('"other"', "x" * 65, "64"), (f'"{MODEL}"', "x" * 200, "199")):
        file.write_text(PROVIDERS.replace(old, f'"{new}"'))
        result = run("providers", "add", file)
        assert result.exit_code == 2
        assert limit in result.stderr
    assert audited(books) == []


@pytest.mark.parametrize(
    "words",
    [("keys", "show"), ("keys", "rotate"), ("accounts", "show"), ("providers", "enable"), ("usage", "--account")],
    ids=" ".join,
)
def test_an_argument_that_is_no_text_is_wrong_usage(run, url, words):
    result = run(*words, "\udcff")
    assert result.exit_code == 2
    assert result.stderr.splitlines()[0] == r"error: '\udcff' is no text."


def test_whoever_has_a_name_that_the_audit_cannot_hold_changes_nothing(run, url, books, monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: "x" * 300)
    result = run("keys", "create", "x")
    assert result.exit_code == 1
    assert "actor has 304 letters, more than 200." in result.stderr
    assert audited(books) == []


def test_a_change_whose_commit_was_lost_is_done_again_and_prints_what_opens(run, url, books, monkeypatch):
    write_now = Database.write_now

    def write_twice(database, operation):
        write_now(database, operation)
        return write_now(database, operation)

    monkeypatch.setattr(Database, "write_now", write_twice)
    mint = KeyMint(derive(read_secret(GatewayConfig(), url), KEY_PURPOSE))
    made = run("keys", "create", "x").stdout.strip()
    rotated = run("keys", "rotate", made, "--grace", "1h").stdout.strip()
    assert run("accounts", "create", "acme").exit_code == 0
    with books.connect() as connection:
        for text in (made, rotated):
            assert verify_key(connection, mint, text, now=now_ms()).name == "x"
    assert [action for _, action in audited(books)] == ["key.create", "key.rotate", "account.create"]


@pytest.mark.parametrize(
    "arguments",
    [
        ("keys", "create", "x", "--limit", "minute=60"),
        ("keys", "create", "x", "--limit", "week:usd=60"),
        ("keys", "create", "x", "--limit", "day:requests=many"),
        ("keys", "create", "x", "--limit", "day:usd=many"),
        ("keys", "create", "x", "--expires", "soon"),
        ("keys", "create", "x", "--expires", "9" * 7 + "d"),
        ("keys", "create", "x", "--limit", f"day:requests={10**30}"),
        ("keys", "rotate", "x", "--grace", "long"),
        ("accounts", "create", "acme", "--welcome", "-1"),
        ("accounts", "credit", "operator", "much", "--reference", "r"),
        ("accounts", "credit", "operator", "5"),
        ("providers", "price", "local", MODEL),
        ("providers", "price", "local", MODEL, "--per-request", "little"),
        ("usage", "--since", "yesterday"),
        ("usage", "--csv", "requests"),
    ],
    ids=" ".join,
)
def test_wrong_words_are_wrong_usage_and_change_nothing(run, url, books, arguments):
    result = run(*arguments)
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert result.stdout == ""
    assert audited(books) == []


def test_accounts_are_made_credited_suspended_and_listed(lines, ok, run):
    (made,) = lines("accounts", "create", "acme", "--name", "Acme, Inc.", "--welcome", "10")
    assert (made["name"], made["balance"]["balance"]) == ("Acme, Inc.", "10.00")
    credit = ("accounts", "credit", "acme", "2.50", "--reference", "invoice-1")
    assert lines(*credit)[0]["balance"]["balance"] == lines(*credit)[0]["balance"]["balance"] == "12.50"
    assert "was entered before" in run(*credit).stderr
    result = run("accounts", "credit", "acme", "3", "--reference", "invoice-1")
    assert (result.exit_code, result.stderr.splitlines()[0]) == (
        1,
        "error: The reference 'invoice-1' stands for $2.50 already.",
    )
    back = ("accounts", "credit", "--kind", "adjustment", "--reference", "a", "acme", "--", "-1")
    assert run(*back).stderr == "acme has $11.50.\n"
    assert lines("accounts", "suspend", "acme")[0]["status"] == "suspended"
    assert lines("accounts", "show", "acme")[0]["status"] == "suspended"
    assert run("accounts", "activate", "acme").stderr == "acme is active.\n"
    header, first, second = ok("accounts", "list").splitlines()
    assert header.startswith("SLUG")
    assert first.split() == ["acme", "Acme,", "Inc.", "organisation", "active", "11.50", "0.00", "0.00"]
    assert second.split()[0] == "operator"
    assert "balance      $11.50" in ok("accounts", "show", made["id"])
    assert run("accounts", "create", "acme").exit_code == 1
    assert run("accounts", "show", "nobody").exit_code == 1


def test_members_are_added_and_removed(lines, ok, run):
    add = ("accounts", "members", "operator", "--role", "owner", "--add")
    (ada,) = lines(*add, "idp|ada", "--email", "ada@example.com")
    assert (ada["subject"], ada["role"], ada["email"]) == ("idp|ada", "owner", "ada@example.com")
    assert ok("accounts", "members", "operator").splitlines()[1].split()[-2:] == ["ada@example.com", "idp|ada"]
    assert run("accounts", "members", "operator", "--remove", "idp|ada").exit_code == 1
    lines(*add, "idp|eve")
    assert [one["subject"] for one in lines("accounts", "members", "operator", "--remove", "idp|ada")] == ["idp|eve"]


def test_check_finds_books_that_do_not_agree(run, ok, lines, books):
    result = run("accounts", "check")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "The books agree. Accounts: 1.\n")
    with books.begin() as connection:
        connection.execute(sa.update(schema.accounts).values(balance=0))
    result = run("accounts", "check")
    assert result.exit_code == 1
    assert result.stdout.splitlines()[1].split() == ["operator", "balance", "0.00", "25.00"]
    assert json.loads(run("accounts", "check", "--json").stdout)["what"] == "balance"


def use(books, **fields):
    with books.begin() as connection:
        account = connection.execute(sa.select(schema.accounts.c.id)).scalar_one()
        row = {
            "id": new_id("gen"),
            "time": now_ms(),
            "account": account,
            "key": "k1",
            "operation": "embed",
            "model": MODEL,
        }
        record(connection, Usage(**(row | fields)))


def test_usage_is_reported_as_table_json_and_csv(lines, ok, run, books):
    use(books, tokens=7, cost=5 * 10**11)
    use(books, tokens=1, status=429, time=now_ms() - 3 * DAY_MS)
    use(books, tokens=9, time=now_ms() - 90 * DAY_MS)
    (today,) = lines("usage", "--since", "1d")[-1:]
    assert (today["tokens"], today["cost"]) == (7, "0.50")
    (line,) = lines("usage", "--by", "account,model")
    assert (line["requests"], line["errors"], line["tokens"]) == (2, 1, 8)
    header, row = ok("usage", "--by", "account,model").splitlines()
    assert header.split()[:2] == ["ACCOUNT", "MODEL"]
    assert row.split()[:5] == ["operator", MODEL, "2", "1", "8"]
    (row,) = csv.DictReader(io.StringIO(ok("usage", "--by", "model", "--csv")))
    assert (row["model"], row["cost_usd"]) == (MODEL, "0.50")
    assert lines("usage", "--since", "2020-01-01", "--by", "model")[0]["requests"] == 3
    assert lines("usage", "--since", "2020-01-01", "--until", "2020-01-02") == []
    assert run("usage", "--by", "weather").exit_code == 1
    assert run("usage", "--account", "nobody").exit_code == 1


def test_requests_are_listed_the_newest_first(lines, ok, books):
    use(books, tokens=1, time=now_ms() - 1000)
    use(books, tokens=2, user="ada", provider="local")
    assert [row["tokens"] for row in lines("usage", "requests")] == [2, 1]
    assert [row["tokens"] for row in lines("usage", "requests", "--last", 1)] == [2]
    assert [row["tokens"] for row in lines("usage", "requests", "--user", "ada", "--account", "operator")] == [2]
    header, first, _ = ok("usage", "requests", "--since", "1h").splitlines()
    assert header.split()[:3] == ["TIME", "GENERATION", "ACCOUNT"]
    assert first.split()[2:7] == ["operator", "k1", MODEL, "local", "200"]


def test_providers_are_added_priced_switched_and_removed(lines, ok, run, tmp_path, books):
    file = tmp_path / "other.toml"
    file.write_text(PROVIDERS)
    (added,) = lines("providers", "add", file)
    assert (added["source"], added["api_key"], added["zdr"]) == ("api", "file:/run/secrets/other", True)
    assert [one["slug"] for one in lines("providers", "list")] == ["local", "other"]
    assert [row.split()[0] for row in ok("providers", "list").splitlines()] == ["SLUG", "local", "other"]
    price = ("providers", "price", "other", MODEL, "--from", "2030-01-31")
    (later,) = lines(*price, "--per-million-tokens", "0.01")
    assert (later["from"], later["usd_per_million_tokens"]) == ("2030-01-31T00:00:00.000Z", "0.01")
    assert run(*price, "--per-million-tokens", "0.03").exit_code == 1
    assert [one["usd_per_million_tokens"] for one in lines("providers", "prices", "other")] == ["0.02", "0.01"]
    assert len(ok("providers", "prices", "other", MODEL.upper()).splitlines()) == 3
    assert ok("providers", "show", "other").splitlines()[-1].split() == [MODEL, "full", "0.02", "0.00", "0.00", "0.00"]
    assert run("providers", "disable", "other").stderr == "other is not asked from now on.\n"
    assert lines("providers", "show", "other")[0]["enabled"] is False
    assert lines("providers", "enable", "other")[0]["enabled"] is True
    assert run("providers", "remove", "other").stderr == "other is removed.\n"
    assert run("providers", "show", "other").exit_code == 1
    assert run("providers", "remove", "local").exit_code == 1
    assert [action for _, action in audited(books)] == [
        "provider.save",
        "price.add",
        "provider.switch",
        "provider.switch",
        "provider.remove",
    ]


def test_a_file_of_providers_is_added_whole_or_not_at_all(run, url, tmp_path, lines):
    file = tmp_path / "two.toml"
    file.write_text(PROVIDERS + PROVIDERS.replace('"other"', '"another"').replace('"openai"', '"pigeon"'))
    result = run("providers", "add", file)
    assert (result.exit_code, result.stderr.splitlines()[0]) == (2, "error: format is 'pigeon'.")
    assert [one["slug"] for one in lines("providers", "list")] == ["local"]
    file.write_text("[gateway]\n")
    assert run("providers", "add", file).exit_code == 2


@pytest.mark.parametrize("arguments", [("gateway", "-p", "0"), ("keys", "list")])
def test_without_its_packages_the_gateway_says_what_to_install(arguments):
    code = f"""
import importlib.util, sys
find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: None if name == "joserfc" else find(name, *rest)
sys.argv = ["quernel", *{arguments!r}]
from quernel.cli.main import main
main()
"""
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 2
    assert "needs joserfc" in ran.stderr
    assert "quernel[gateway]" in ran.stderr
