"""Changes to the books: what no column holds is refused before the database is asked, and each may be done twice."""

import os

import pytest
from tests.support.books import NOW, balance_of, new_account, rows_of

from quernel.errors import InvalidRequestError, SettingsError
from quernel.gateway import schema
from quernel.gateway.accounts import Role
from quernel.gateway.editor import Editor
from quernel.gateway.ids import new_id
from quernel.gateway.keys import KeyMint, KeySettings, verify_key
from quernel.gateway.ledger import EntryKind
from quernel.gateway.limits import DAY_MS
from quernel.gateway.money import Price
from quernel.protocols.gateway_admin import MOST_LABEL, MOST_NAME

MINT = KeyMint(os.urandom(32))

FULL_LETTERS = len("@full")


def changed(database, operation, *, actor="cli:ada", now=NOW):
    """What a change comes to."""
    return database.write_now(lambda connection: operation(Editor(connection=connection, actor=actor, now=now)))


def audited(database):
    return [(row.action, row.target) for row in rows_of(database, schema.audit)]


def table_of(slug, model):
    """A provider."""
    prices = [{"usd_per_million_tokens": "1"}]
    models = [{"model": model, "prices": prices}]
    return {"slug": slug, "format": "openai", "base_url": "https://other.example.com/v1", "models": models}


@pytest.fixture
def account(database):
    return new_account(database)


def add_key(editor, account, **said):
    settings = KeySettings(tags=said.pop("tags", ()))
    return editor.create_key(MINT.new(), account, **{"name": "x", **said}, settings=settings)


def rename_key(editor, account, **said):
    return editor.change_key(add_key(editor, account).id, account, **said)


def retag_key(editor, account, tags):
    return rename_key(editor, account, rules={"tags": tags})


def add_account(editor, account, slug="new", name=""):
    return editor.create_account(slug, account_id=new_id("acc"), name=name)


def credit(editor, account, reference="r", note=None):
    return editor.credit(account, EntryKind.GRANT, 1, reference=reference, note=note)


def set_member(editor, account, subject="idp|ada", email=None):
    return editor.set_member(account, subject, Role.VIEWER, email=email)


def save_provider(editor, account, slug="other", model="a/b"):
    editor.save_provider(table_of(slug, model))
    return editor.add_price(slug, model, Price(token=5, valid_from=NOW))


TEXTS = [
    (add_key, "name", MOST_LABEL),
    (rename_key, "name", MOST_LABEL),
    (add_account, "slug", MOST_NAME),
    (add_account, "name", MOST_LABEL),
    (lambda editor, account, name: editor.change_account(account, name=name), "name", MOST_LABEL),
    (credit, "reference", MOST_LABEL),
    (credit, "note", MOST_LABEL),
    (set_member, "subject", MOST_LABEL),
    (set_member, "email", MOST_LABEL),
    (save_provider, "slug", MOST_NAME),
    (save_provider, "model", MOST_LABEL - FULL_LETTERS),
]
"""Change, text of it, and how many letters that may have."""


@pytest.mark.parametrize(("change", "name", "most"), TEXTS, ids=lambda value: getattr(value, "__name__", str(value)))
def test_a_text_fills_its_column_and_one_that_is_longer_is_refused_by_name(database, account, change, name, most):
    def said(length):
        text = "x|".ljust(length, "x") if name == "subject" else "x" * length
        return changed(database, lambda editor: change(editor, account, **{name: text}))

    said(most)
    before = audited(database)
    with pytest.raises((InvalidRequestError, SettingsError)) as refusal:
        said(most + 1)
    assert refusal.value.param == name
    assert refusal.value.status == 400
    assert str(most) in str(refusal.value) or str(most + FULL_LETTERS - 1) in str(refusal.value)
    assert refusal.value.hint
    assert audited(database) == before


@pytest.mark.parametrize("change", [add_key, retag_key])
def test_tags_of_a_key_fit_together_into_the_column_of_a_request(database, account, change):
    half = MOST_LABEL // 2
    changed(database, lambda editor: change(editor, account, tags=["x" * half, "y" * (half - 1), "x" * half, " "]))
    with pytest.raises(InvalidRequestError, match=f"tags has {MOST_LABEL + 1} letters, more than {MOST_LABEL}"):
        changed(database, lambda editor: change(editor, account, tags=["x" * half, "y" * half]))


@pytest.mark.parametrize("subject", ["ada", "ada@example.com", "|ada", "idp|", "|"])
def test_a_member_is_somebody_at_an_issuer(database, account, subject):
    with pytest.raises(InvalidRequestError, match="names nobody at an issuer") as refusal:
        changed(database, lambda editor: set_member(editor, account, subject))
    assert (refusal.value.param, audited(database)) == ("subject", [])


def test_an_actor_fits_into_the_audit(database, account):
    changed(database, lambda editor: add_key(editor, account), actor="x" * MOST_LABEL)
    with pytest.raises(InvalidRequestError, match=f"actor has {MOST_LABEL + 1} letters"):
        changed(database, lambda editor: add_key(editor, account), actor="x" * (MOST_LABEL + 1))


@pytest.mark.parametrize("text", ["a\0b", "a\nb", "\udcff", "\x7f"])
def test_a_text_that_a_database_need_not_take_is_refused(database, account, text):
    for change, name, _ in TEXTS:
        with pytest.raises((InvalidRequestError, SettingsError)) as refusal:
            changed(database, lambda editor, change=change, name=name: change(editor, account, **{name: text}))
        assert refusal.value.param == name
    assert audited(database) == []


@pytest.mark.parametrize(
    ("change", "name"),
    [(add_key, "name"), (rename_key, "name"), (credit, "reference"), (set_member, "subject")],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_text_that_must_say_something_is_not_empty(database, account, change, name):
    with pytest.raises(InvalidRequestError, match=f"{name} is empty"):
        changed(database, lambda editor: change(editor, account, **{name: ""}))
    assert audited(database) == []


@pytest.mark.parametrize("name", ["models", "providers", "tags", "regions", "issuers"])
def test_names_in_settings_are_no_longer_than_what_they_name_and_can_be_shown(database, account, name):
    def said(label):
        if name in ("regions", "issuers"):
            return changed(database, lambda editor: editor.change_account(account, rules={name: [label]}))
        return changed(database, lambda editor: rename_key(editor, account, rules={name: [label]}))

    assert getattr(said("x" * MOST_LABEL).settings, name) == ("x" * MOST_LABEL,)
    for wrong in ("x" * (MOST_LABEL + 1), "a\0b", "\udcff"):
        with pytest.raises(InvalidRequestError) as refusal:
            said(wrong)
        assert refusal.value.param == name


def test_limits_of_texts_are_those_of_their_columns():
    assert (schema.NAME.length, schema.LABEL.length) == (MOST_NAME, MOST_LABEL)


def test_a_key_that_is_made_twice_is_one_key_with_one_secret(database, account):
    minted = MINT.new()

    def operation(editor):
        return editor.create_key(minted, account, "x", KeySettings(), expires=NOW + DAY_MS)

    first = changed(database, operation)
    assert changed(database, operation, now=NOW + 1) == first
    assert audited(database) == [("key.create", first.id)]
    assert database.read_now(lambda connection: verify_key(connection, MINT, minted.text, now=NOW)) == first
    assert changed(database, operation, now=NOW + 2 * DAY_MS) == first, "it had not expired when it was made"


def test_a_key_that_is_rotated_twice_by_one_operation_has_its_old_secret_still(database, account):
    made = MINT.new()
    changed(database, lambda editor: editor.create_key(made, account, "x", KeySettings()))
    minted = MINT.new(made.id)

    def operation(editor):
        return editor.rotate_key(minted, account, grace_seconds=60)

    first = changed(database, operation)
    assert changed(database, operation, now=NOW + 5) == first
    assert audited(database) == [("key.create", made.id), ("key.rotate", made.id)]
    for text in (made.text, minted.text):
        assert database.read_now(lambda connection, text=text: verify_key(connection, MINT, text, now=NOW)) == first


def test_an_account_that_is_made_twice_is_one_with_one_welcome(database):
    account_id = new_id("acc")

    def operation(editor):
        return editor.create_account("acme", account_id=account_id, welcome=5)

    first = changed(database, operation)
    assert changed(database, operation, now=NOW + 1) == first
    assert first.id == account_id
    assert audited(database) == [("account.create", account_id)]
    assert balance_of(database, account_id).balance == 5


def test_the_end_of_a_key_is_audited_as_it_was_said(database, account):
    key = changed(database, lambda editor: add_key(editor, account))
    for said in ({"expires": NOW + 1}, {"expires": None}, {"name": "y"}):
        changed(database, lambda editor, said=said: editor.change_key(key.id, account, **said))
    _, *lines = rows_of(database, schema.audit)
    assert [line.detail for line in lines] == [
        {"expires": "2027-01-15T08:00:00.001Z"},
        {"expires": None},
        {"name": "y"},
    ]
