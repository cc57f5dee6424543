"""Accounts and their members: one for each slug, and never without an owner by accident."""

import threading
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.books import NOW, balance_of, entries_of, hold, hold_of, reconcile

from quernel.errors import ConflictError, InvalidRequestError, NotFoundError, QuernelError, SettingsError
from quernel.gateway import ledger
from quernel.gateway.accounts import (
    PERMISSIONS,
    AccountKind,
    AccountSettings,
    AccountStatus,
    Role,
    change_account,
    create_account,
    find_account,
    list_accounts,
    list_members,
    memberships,
    remove_member,
    set_member,
)
from quernel.gateway.keys import Scope
from quernel.gateway.ledger import Balance
from quernel.gateway.limits import Limit, Period
from quernel.gateway.marks import read_mark

SETTINGS = AccountSettings(
    limits=(Limit(period=Period.MONTH, spend=5),), zdr=True, models=("a/b",), regions=("eu",), capture=True
)


def do(database, operation, *arguments, **options):
    return database.write_now(lambda connection: operation(connection, *arguments, **options))


def create(database, slug="acme", **options):
    return do(database, create_account, slug, now=NOW, **options)


def revision(database):
    return database.read_now(read_mark)


def test_a_new_account_is_found_by_its_id_and_by_its_slug(database):
    account = create(database, settings=SETTINGS, kind=AccountKind.PERSON, name="Acme")
    assert account == find_account_now(database, account.id) == find_account_now(database, "acme")
    assert (account.slug, account.name, account.kind, account.settings) == (
        "acme",
        "Acme",
        AccountKind.PERSON,
        SETTINGS,
    )
    assert (account.status, account.created) == (AccountStatus.ACTIVE, NOW)


def find_account_now(database, name):
    return database.read_now(lambda connection: find_account(connection, name))


def test_a_welcome_is_an_entry_and_what_an_account_shows_is_its_ledger(database):
    account = create(database, welcome=25)
    assert entries_of(database, account.id) == [("grant", 25)]
    hold(database, hold_of(account.id, 10))
    shown = find_account_now(database, "acme")
    assert Balance(balance=shown.balance, held=shown.held, spent=shown.spent) == balance_of(database, account.id)
    assert reconcile(database) == []


def test_a_slug_is_one_accounts(database):
    create(database)
    with pytest.raises(ConflictError, match="already"):
        create(database, welcome=5)
    assert len(listed(database)) == 1


def test_of_many_that_make_one_account_at_once_one_does(database):
    outcomes, barrier = [], threading.Barrier(4, timeout=20)

    def make():
        barrier.wait()
        try:
            outcomes.append(create(database, welcome=25).balance)
        except QuernelError as error:
            outcomes.append(type(error))

    threads = [threading.Thread(target=make) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes, key=str) == [25, *[ConflictError] * 3]


@pytest.mark.parametrize("slug", ["", "Acme", "a b", "-a", "ä", "a\n", "a" * 65, "a/b"])
def test_what_is_no_slug_is_refused(database, slug):
    with pytest.raises(InvalidRequestError, match="no name of an account"):
        create(database, slug)


def listed(database, *, most=10, after=None):
    return database.read_now(lambda connection: list_accounts(connection, most=most, after=after))


def test_accounts_are_listed_by_slug_page_by_page(database):
    for slug in ("b", "a", "d", "c"):
        create(database, slug)
    assert [account.slug for account in listed(database)] == ["a", "b", "c", "d"]
    assert [account.slug for account in listed(database, most=2)] == ["a", "b"]
    assert [account.slug for account in listed(database, most=3, after="b")] == ["c", "d"]
    assert listed(database, after="d") == []


def test_no_slug_is_the_id_of_another_account(database):
    account = create(database)
    with pytest.raises(ConflictError, match=account.id):
        create(database, account.id)
    assert find_account_now(database, account.id) == account


def test_a_changed_account_keeps_its_money_and_every_gateway_hears_of_it(database):
    account = create(database, welcome=25)
    before = revision(database)
    changed = do(database, change_account, "acme", title="New", status=AccountStatus.SUSPENDED, settings=SETTINGS)
    assert (changed.name, changed.status, changed.settings) == ("New", AccountStatus.SUSPENDED, SETTINGS)
    assert (changed.id, changed.balance, changed.slug) == (account.id, 25, "acme")
    assert do(database, change_account, "acme") == changed
    assert revision(database) == before + 1
    with pytest.raises(NotFoundError):
        do(database, change_account, "none", title="New")


def test_members_have_a_role_each_and_are_found_by_who_they_are(database):
    account, other = create(database).id, create(database, "other").id
    do(database, set_member, account, "idp|1", Role.OWNER, now=NOW, email="a@b.c")
    do(database, set_member, account, "idp|2", Role.VIEWER, now=NOW + 1)
    do(database, set_member, other, "idp|1", Role.MEMBER, now=NOW + 2)
    before = revision(database)
    changed = do(database, set_member, account, "idp|2", Role.ADMIN, now=NOW + 3)
    assert (changed.role, changed.created) == (Role.ADMIN, NOW + 1)
    assert revision(database) == before + 1
    members = database.read_now(lambda connection: list_members(connection, account))
    assert [(member.subject, member.role, member.email) for member in members] == [
        ("idp|1", Role.OWNER, "a@b.c"),
        ("idp|2", Role.ADMIN, None),
    ]
    mine = database.read_now(lambda connection: memberships(connection, "idp|1"))
    assert [(member.account, member.role) for member in mine] == [(account, Role.OWNER), (other, Role.MEMBER)]
    do(database, remove_member, account, "idp|2")
    assert revision(database) == before + 2
    with pytest.raises(NotFoundError, match="no member"):
        do(database, remove_member, account, "idp|2")


def test_a_changed_member_keeps_the_address_that_is_known(database):
    account = create(database).id
    do(database, set_member, account, "idp|1", Role.VIEWER, now=NOW, email="a@b.c")
    assert do(database, set_member, account, "idp|1", Role.OWNER, now=NOW).email == "a@b.c"


def test_the_only_owner_can_neither_leave_nor_become_less(database):
    account = create(database).id
    do(database, set_member, account, "idp|1", Role.OWNER, now=NOW)
    for operation in (
        lambda: do(database, remove_member, account, "idp|1"),
        lambda: do(database, set_member, account, "idp|1", Role.ADMIN, now=NOW),
    ):
        with pytest.raises(ConflictError, match="only owner"):
            operation()
    do(database, set_member, account, "idp|1", Role.OWNER, now=NOW)
    do(database, set_member, account, "idp|2", Role.OWNER, now=NOW)
    do(database, remove_member, account, "idp|1")


def test_of_two_owners_who_leave_at_once_one_stays(database):
    account = create(database).id
    for subject in ("idp|1", "idp|2"):
        do(database, set_member, account, subject, Role.OWNER, now=NOW)
    locked, outcomes = threading.Event(), []

    def leave_meanwhile():
        assert locked.wait(20)
        try:
            do(database, remove_member, account, "idp|2")
        except ConflictError as error:
            outcomes.append(error)

    def leave_slowly(connection):
        remove_member(connection, account, "idp|1")
        locked.set()
        other.join(0.1)  # it should wait for this one to end

    other = threading.Thread(target=leave_meanwhile)
    other.start()
    database.write_now(leave_slowly)
    other.join()
    assert len(outcomes) == 1
    assert [one.subject for one in database.read_now(lambda connection: list_members(connection, account))] == ["idp|2"]


@pytest.mark.parametrize("operation", [set_member, remove_member])
def test_an_account_that_there_is_not_has_no_members(database, operation):
    more = {"role": Role.OWNER, "now": NOW} if operation is set_member else {}
    with pytest.raises(NotFoundError, match="no account"):
        do(database, operation, "acc_none", "idp|1", **more)


def test_who_may_less_may_nothing_that_who_may_more_may_not():
    order = [PERMISSIONS[role] for role in (Role.VIEWER, Role.MEMBER, Role.ADMIN, Role.OWNER)]
    assert all(less <= more for less, more in pairwise(order))
    assert PERMISSIONS[Role.VIEWER] == {Scope.READ}
    assert Scope.MANAGE not in PERMISSIONS[Role.MEMBER]
    assert not any(Scope.OPERATE in permissions for permissions in order)


settings_of_accounts = st.builds(
    AccountSettings,
    zdr=st.booleans(),
    no_training=st.booleans(),
    models=st.lists(st.text(), max_size=2).map(tuple),
    providers=st.lists(st.text(), max_size=2).map(tuple),
    regions=st.lists(st.text(), max_size=2).map(tuple),
    capture=st.booleans(),
)


@given(settings_of_accounts)
def test_settings_that_are_shown_are_read_back(settings):
    assert AccountSettings.parse(settings.shown()) == settings


def test_settings_with_a_limit_that_is_none_are_refused():
    with pytest.raises(SettingsError):
        AccountSettings.parse({"limits": {"day": {"requests": "many"}}})


def test_an_account_is_made_with_its_welcome_or_not_at_all(database):
    with pytest.raises(QuernelError):
        create(database, welcome=2**63)
    assert listed(database) == []
    assert database.read_now(ledger.reconcile) == []
