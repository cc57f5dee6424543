"""Idempotency keys: one request each, for a day."""

import pytest
from tests.support.books import NOW, new_account, rows_of

from quernel.errors import ConflictError, InvalidRequestError
from quernel.gateway import schema
from quernel.gateway.replays import KEPT_MS, claim

SAME, OTHER = b"s" * 32, b"o" * 32


@pytest.fixture
def account(database):
    return new_account(database)


def take(database, account, generation, *, key="once", fingerprint=SAME, now=NOW):
    return database.write_now(lambda connection: claim(connection, account, key, fingerprint, generation, now=now))


def test_a_key_stands_for_the_request_that_came_with_it_first(database, account):
    assert take(database, account, "gen_1") == "gen_1"
    assert take(database, account, "gen_2", now=NOW + KEPT_MS) == "gen_1"
    assert len(rows_of(database, schema.replays)) == 1


def test_a_key_that_comes_with_another_request_is_refused(database, account):
    take(database, account, "gen_1")
    with pytest.raises(ConflictError, match="another request"):
        take(database, account, "gen_2", fingerprint=OTHER)
    assert take(database, account, "gen_3") == "gen_1"


def test_a_key_is_one_accounts(database, account):
    take(database, account, "gen_1")
    assert take(database, new_account(database), "gen_2", fingerprint=OTHER) == "gen_2"
    assert take(database, account, "gen_3", key="twice", fingerprint=OTHER) == "gen_3"


def test_after_a_day_a_key_may_be_used_again_even_if_nobody_has_tidied_up(database, account):
    take(database, account, "gen_1")
    later = NOW + KEPT_MS + 1
    assert take(database, account, "gen_2", fingerprint=OTHER, now=later) == "gen_2"
    assert take(database, account, "gen_3", fingerprint=OTHER, now=later) == "gen_2"


@pytest.mark.parametrize("key", ["k" * 201, "nul\0", "line\n", "\udc80"])
def test_a_key_that_no_database_holds_is_refused(database, account, key):
    with pytest.raises(InvalidRequestError, match="idempotency key"):
        take(database, account, "gen_1", key=key)
    assert take(database, account, "gen_1", key="k" * 200) == "gen_1"
