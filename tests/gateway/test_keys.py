"""Keys: known again by their digest alone, and good for as long as they should be."""

import re
import threading
import time
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.books import NOW, new_account, rows_of

from quernel.errors import ConflictError, InvalidRequestError, NotFoundError, SettingsError
from quernel.gateway import schema
from quernel.gateway.ids import ALPHABET, base32, new_id
from quernel.gateway.keys import (
    CHECKSUM_LETTERS,
    KEY,
    Key,
    KeyMint,
    KeySettings,
    Scope,
    change_key,
    create_key,
    find_key,
    find_minted,
    key_id_of,
    list_keys,
    note_use,
    revoke_key,
    rotate_key,
    verify_key,
)
from quernel.gateway.limits import Limit, Period
from quernel.gateway.marks import read_mark
from quernel.protocols.gateway_admin import LAST_MOMENT, LONGEST_GRACE_SECONDS

MINT = KeyMint(bytes(range(32)))
OTHER_MINT = KeyMint(bytes(range(1, 33)))

SETTINGS = KeySettings(
    scopes=frozenset({Scope.INFER, Scope.READ}),
    models=("a/b",),
    providers=("p",),
    limits=(Limit(period=Period.DAY, requests=5, spend=10),),
    zdr=True,
    tags=("t",),
)


def make(database, account, *, expires=None, key_settings=SETTINGS, now=NOW):
    minted = MINT.new()
    key = database.write_now(
        lambda connection: create_key(
            connection, minted, account, "mine", key_settings, created_by="me", now=now, expires=expires
        )
    )
    return key, minted.text


def rotate(database, key_id, account, *, grace_seconds=60, now=NOW):
    minted = MINT.new(key_id)
    key = change(database, rotate_key, minted, account, grace_seconds=grace_seconds, now=now)
    return key, minted.text


def verify(database, text, *, now=NOW, mint=MINT):
    return database.read_now(lambda connection: verify_key(connection, mint, text, now=now))


def change(database, operation, *arguments, **options):
    return database.write_now(lambda connection: operation(connection, *arguments, **options))


@pytest.fixture
def account(database):
    return new_account(database)


def test_a_key_has_a_prefix_an_id_a_secret_and_a_checksum():
    key_id, text, digest = MINT.new()
    assert re.fullmatch(r"quernel_[0-9a-z]{10}_[0-9a-z]{59}", text)
    assert key_id_of(text) == key_id
    assert digest == MINT.digest(text) != OTHER_MINT.digest(text)
    assert len(digest) == 32
    assert set(text.removeprefix("quernel_")) <= {*ALPHABET, "_"}


def test_no_two_keys_are_alike():
    texts = {MINT.new()[1] for _ in range(500)}
    assert len(texts) == len({text[:18] for text in texts}) == 500
    assert MINT.new("0123456789")[0] == "0123456789"


@given(st.integers(len("quernel_"), len(MINT.new()[1]) - 1), st.integers(1, len(ALPHABET) - 1))
def test_a_key_with_one_wrong_letter_is_none(place, shift):
    _, text, _ = MINT.new()
    letter = ALPHABET[(ALPHABET.find(text[place]) + shift) % len(ALPHABET)]
    assert key_id_of(text[:place] + letter + text[place + 1 :]) is None


def test_a_key_with_two_letters_changed_round_is_none():
    _, text, _ = MINT.new()
    for place in range(len("quernel_"), len(text) - 1):
        turned = text[:place] + text[place + 1] + text[place] + text[place + 2 :]
        assert turned == text or key_id_of(turned) is None


@pytest.mark.parametrize(
    "change", [str.upper, lambda text: text + "\n", lambda text: f" {text}", lambda text: text[:-1]]
)
def test_what_only_looks_like_a_key_is_none(change):
    assert key_id_of(change(MINT.new()[1])) is None


@given(st.text())
def test_other_texts_are_no_keys_and_have_a_digest_all_the_same(text):
    assert key_id_of(text) is None
    assert len(MINT.digest(text)) == 32


def test_a_secret_of_less_than_256_bits_is_not_taken():
    with pytest.raises(AssertionError):
        KeyMint(b"short")


def test_a_new_key_is_known_again_with_all_that_it_may(database, account):
    key, text = make(database, account)
    assert verify(database, text) == key
    assert key == Key(id=key.id, account=account, name="mine", settings=SETTINGS, created=NOW, created_by="me")
    assert text.startswith(f"{key.prefix}_")
    assert key.settings.permissions == {Scope.INFER, Scope.READ}


def test_a_key_of_another_secret_or_of_nobody_is_not_known(database, account):
    _, text = make(database, account)
    assert verify(database, text, mint=OTHER_MINT) is None
    assert verify(database, MINT.new()[1]) is None
    forged = KEY.fullmatch(text)["id"]
    assert verify(database, MINT.new(forged)[1]) is None


def test_a_key_is_nowhere_in_the_database(database, account, tmp_path):
    key, text = make(database, account)
    _, rotated = rotate(database, key.id, None)
    secrets = [one.rsplit("_", 1)[1][:-CHECKSUM_LETTERS] for one in (text, rotated)]
    row = rows_of(database, schema.keys)[0]
    assert {row.digest, row.old_digest} == {MINT.digest(text), MINT.digest(rotated)}
    assert not [secret for secret in secrets if secret in repr(row)]
    if database.is_sqlite:
        files = list(tmp_path.glob("books.db*"))
        content = b"".join(file.read_bytes() for file in files)
        assert key.id.encode() in content, "it is looked for where it would be"
        assert not [secret for secret in secrets if secret.encode() in content]


def test_a_key_is_good_until_it_expires(database, account):
    key, text = make(database, account, expires=NOW + 1000)
    assert verify(database, text, now=NOW + 999) == key
    assert verify(database, text, now=NOW + 1000) is None


def test_a_key_that_would_have_expired_is_not_made(database, account):
    with pytest.raises(InvalidRequestError, match="in the past"):
        make(database, account, expires=NOW)


def test_a_revoked_key_opens_nothing_for_good(database, account):
    key, text = make(database, account)
    assert change(database, revoke_key, key.id, account, now=NOW + 5).revoked == NOW + 5
    assert change(database, revoke_key, key.id, account, now=NOW + 9).revoked == NOW + 5
    assert verify(database, text) is None
    with pytest.raises(ConflictError, match="no longer good"):
        rotate(database, key.id, account)


def test_after_a_rotation_the_old_key_is_good_for_its_grace_and_no_longer(database, account):
    key, old = make(database, account)
    rotated, new = rotate(database, key.id, account)
    assert key_id_of(new) == key.id
    assert rotated == replace(key, rotating_until=NOW + 60_000)
    assert [verify(database, text, now=NOW + 59_999) for text in (old, new)] == [rotated, rotated]
    assert [verify(database, text, now=NOW + 60_000) for text in (old, new)] == [None, rotated]


def test_without_grace_the_old_key_ends_with_its_rotation(database, account):
    key, old = make(database, account)
    rotate(database, key.id, account, grace_seconds=0)
    assert verify(database, old) is None


@pytest.mark.parametrize("grace_seconds", [-1, LONGEST_GRACE_SECONDS + 1])
def test_an_old_secret_is_good_for_a_month_at_most(database, account, grace_seconds):
    key, text = make(database, account)
    with pytest.raises(InvalidRequestError, match=f"grace is {grace_seconds} .*{LONGEST_GRACE_SECONDS}"):
        rotate(database, key.id, account, grace_seconds=grace_seconds)
    assert verify(database, text) == key


def test_two_that_rotate_at_once_leave_both_of_their_keys_good(database, account):
    key, _ = make(database, account)
    read, texts, first = threading.Event(), [], MINT.new(key.id)

    def rotate_slowly(connection):
        rotate_key(connection, first, account, grace_seconds=60, now=NOW)
        texts.append(first.text)
        read.set()
        time.sleep(0.05)  # the other begins now, and should wait

    def rotate_meanwhile():
        assert read.wait(20)
        texts.append(rotate(database, key.id, account)[1])

    other = threading.Thread(target=rotate_meanwhile)
    other.start()
    database.write_now(rotate_slowly)
    other.join()
    assert [verify(database, text) is None for text in texts] == [False, False]


@pytest.mark.parametrize(("operation", "options"), [(find_key, {}), (change_key, {"now": NOW})])
def test_a_key_of_another_account_is_not_found(database, account, operation, options):
    key, _ = make(database, account)
    other = new_account(database)
    for key_id, owner in ((key.id, other), ("0000000000", None)):
        with pytest.raises(NotFoundError, match="no key"):
            change(database, operation, key_id, owner, **options)
    assert change(database, operation, key.id, None, **options) == key


def test_a_changed_key_may_what_it_is_told_and_every_gateway_hears_of_it(database, account):
    key, text = make(database, account)
    before = database.read_now(read_mark)
    less = KeySettings(scopes=frozenset({Scope.READ}))
    changed = change(database, change_key, key.id, account, now=NOW, name="other", settings=less)
    assert changed == replace(key, name="other", settings=less) == verify(database, text)
    assert database.read_now(read_mark) == before + 1
    change(database, change_key, key.id, account, now=NOW)
    assert database.read_now(read_mark) == before + 1, "nothing was changed"
    rotate(database, key.id, account)
    change(database, revoke_key, key.id, account, now=NOW)
    assert database.read_now(read_mark) == before + 3


def test_the_end_of_a_key_is_moved_taken_away_and_set_under_the_rules_of_a_new_one(database, account):
    key, text = make(database, account, expires=NOW + 1000)
    before = database.read_now(read_mark)
    for expires in (NOW + 5000, None, NOW + 2000):
        moved = change(database, change_key, key.id, account, now=NOW + 1500, expires=expires)
        assert moved == replace(key, expires=expires) == verify(database, text, now=NOW + 1999)
    assert verify(database, text, now=NOW + 2000) is None
    assert database.read_now(read_mark) == before + 3
    for wrong in ({"now": NOW, "expires": NOW}, {"now": NOW, "expires": LAST_MOMENT + 1}):
        with pytest.raises(InvalidRequestError, match=r"expires is .*(in the past|after the year 9999)"):
            change(database, change_key, key.id, account, **wrong)
        with pytest.raises(InvalidRequestError, match=r"expires is .*(in the past|after the year 9999)"):
            make(database, account, **wrong)
    assert find_key_now(database, key.id) == moved


def test_a_secret_is_found_by_an_operation_that_is_repeated_and_by_no_other(database, account):
    minted, other = MINT.new(), MINT.new()

    def found(one):
        return database.read_now(lambda connection: find_minted(connection, one))

    assert found(minted) is None
    key = change(database, create_key, minted, account, "x", SETTINGS, created_by="me", now=NOW)
    assert found(minted) == key
    assert found(other._replace(id=minted.id)) is None
    rotated, _ = rotate(database, key.id, account)
    assert found(minted) == rotated, "the secret of before is its own, too"
    rotate(database, key.id, account)
    assert found(minted) is None


def listed(database, account, most):
    """All keys, in pages of so many."""
    pages, before = [], None
    while not pages or pages[-1]:
        place = None if before is None else before.place
        pages.append(
            database.read_now(lambda connection, place=place: list_keys(connection, account, most=most, before=place))
        )
        before = pages[-1][-1] if pages[-1] else None
    return [key for page in pages for key in page]


def test_keys_are_listed_the_newest_first_and_page_by_page(database, account):
    moments = [NOW, NOW + 1, NOW + 1, NOW + 1, NOW + 3]
    made = [make(database, account, now=moment)[0] for moment in moments]
    foreign, _ = make(database, new_account(database), now=NOW + 2)
    expected = sorted(made, key=lambda key: key.place, reverse=True)
    for most in (1, 2, 3, 10):
        assert listed(database, account, most) == expected
        assert listed(database, None, most) == [expected[0], foreign, *expected[1:]]


def test_last_uses_are_written_for_many_keys(database, account):
    keys = [make(database, account)[0] for _ in range(2)]
    change(database, note_use, [(keys[0].id, NOW + 7), ("0000000000", NOW)])
    used = [find_key_now(database, key.id).last_used for key in keys]
    assert used == [NOW + 7, None]


def find_key_now(database, key_id):
    return database.read_now(lambda connection: find_key(connection, key_id))


settings_of_keys = st.builds(
    KeySettings,
    scopes=st.frozensets(st.sampled_from(Scope)),
    models=st.lists(st.text(), max_size=2).map(tuple),
    providers=st.lists(st.text(), max_size=2).map(tuple),
    zdr=st.booleans(),
    no_training=st.booleans(),
    tags=st.lists(st.text(), max_size=2).map(tuple),
)


@given(settings_of_keys)
def test_settings_that_are_shown_are_read_back(key_settings):
    assert KeySettings.parse(key_settings.shown()) == key_settings


def test_settings_with_a_scope_or_limit_that_is_none_are_refused():
    with pytest.raises(InvalidRequestError, match="no scope 'root'"):
        KeySettings.parse({"scopes": ["root"]})
    with pytest.raises(SettingsError):
        KeySettings.parse({"limits": {"year": {}}})


def test_scopes_imply_others():
    def permissions(*scopes):
        return KeySettings(scopes=frozenset(scopes)).permissions

    assert permissions() == frozenset()
    assert permissions(Scope.MANAGE) == {Scope.MANAGE, Scope.READ}
    assert permissions(Scope.OPERATE) == set(Scope)
    assert KeySettings().permissions == {Scope.INFER}


@given(st.integers(0, 2**130 - 1))
def test_base32_keeps_the_order_of_numbers(number):
    text = base32(number, 26)
    assert len(text) == 26
    assert base32(number + 1, 26) > text or number == 2**130 - 1
    assert sum(ALPHABET.index(letter) << 5 * place for place, letter in enumerate(reversed(text))) == number


def test_ids_sort_by_their_time(monkeypatch):
    names = []
    for moment in (1, 10**9, 2 * 10**18, 2 * 10**18 + 10**6):
        monkeypatch.setattr("quernel.gateway.ids.time.time_ns", lambda moment=moment: moment)
        names += [new_id("gen") for _ in range(3)]
    groups = [sorted(names[start : start + 3]) for start in range(0, 12, 3)]
    assert sorted(names) == [name for group in groups for name in group]
    assert len(set(names)) == 12
    assert all(re.fullmatch(r"gen_[0-9a-z]{26}", name) for name in names)
