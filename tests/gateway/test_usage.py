"""Usage: hours are their rows, a report counts each request once, and forgetting changes no sum."""

import threading
from collections import defaultdict
from dataclasses import asdict, replace
from datetime import UTC, datetime
from functools import partial

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.support.books import (
    NOW,
    balance_of,
    entries_of,
    grant,
    hold,
    hold_of,
    new_account,
    reconcile,
    rows_of,
    settle,
)

from quernel.errors import InvalidRequestError, NotFoundError
from quernel.gateway import audit, ledger, schema, usage
from quernel.gateway.audit import forget_changes, note_change
from quernel.gateway.limits import DAY_MS, MINUTE_MS, Limit, Meter, Period
from quernel.gateway.listings import Wanted, list_requests
from quernel.gateway.marks import read_mark
from quernel.gateway.usage import (
    FOLDED,
    FORGOTTEN,
    HOUR_MS,
    MEASURES,
    ROLLED,
    SETTLING_MS,
    Grouping,
    Report,
    Usage,
    clipped,
    close_days,
    find_usage,
    fold_hours,
    forget,
    forget_sums,
    join_tags,
    record,
    report,
    roll_up,
)

START = NOW - NOW % DAY_MS
"""The midnight before."""

SLOW = settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)


def row_of(account, number=0, **values):
    filled = {"time": NOW, "key": "key", "operation": "embed", "model": "a/b", "provider": "acme", "tokens": 10}
    return Usage(**{"id": f"gen_{number:04}", "account": account, **filled, **values})


def write(database, *rows):
    def operation(connection):
        for row in rows:
            record(connection, row)

    database.write_now(operation)


def reported(database, **wanted):
    wanted = Report(**{"start": START - 40 * DAY_MS, "end": START + 2 * DAY_MS, **wanted})
    return database.read_now(lambda connection: report(connection, wanted))


def tidy(database, operation, now, **options):
    return database.write_now(lambda connection: operation(connection, now, **options))


def mark(database, name=ROLLED):
    return database.read_now(lambda connection: read_mark(connection, name))


def clear(database):
    def operation(connection):
        for table in (schema.usage, schema.rollups, schema.marks):
            connection.execute(sa.delete(table))

    database.write_now(operation)


@pytest.fixture
def account(database):
    return new_account(database)


def test_a_request_is_found_as_it_was_written_down(database, account):
    row = row_of(
        account,
        user="u",
        tags="a,b",
        status=502,
        code="provider_failed",
        items=1,
        output_tokens=2,
        documents=3,
        cost=4,
        upstream_cost=5,
        price=6,
        milliseconds=1.5,
        upstream_milliseconds=0.5,
        attempts=[{"provider": "acme", "status": 502}],
        byok=True,
        credential="oidc",
    )
    write(database, row)
    assert database.read_now(lambda connection: find_usage(connection, row.id)) == row
    assert database.read_now(lambda connection: find_usage(connection, row.id, account)) == row
    for name, owner in ((row.id, "acc_other"), ("gen_none", None)):
        with pytest.raises(NotFoundError, match="no generation"):
            database.read_now(lambda connection, name=name, owner=owner: find_usage(connection, name, owner))


def test_a_request_that_is_written_down_again_stays_as_it_was(database, account):
    write(database, row_of(account, cost=5))
    write(database, row_of(account, cost=0), row_of(account, 1))
    assert [row.cost for row in rows_of(database, schema.usage)] == [5, 0]


def test_the_latest_requests_come_first_and_a_list_goes_on_after_its_last(database, account):
    other = new_account(database)
    write(database, *(row_of(account, number) for number in range(5)), row_of(other, 9))
    listed = partial(list_requests, wanted=Wanted(account=account), most=2)
    first = database.read_now(listed)
    assert [row.id for row in first] == ["gen_0004", "gen_0003"]
    rest = database.read_now(lambda connection: listed(connection, before=first[-1].id))
    assert [row.id for row in rest] == ["gen_0002", "gen_0001"]
    assert len(database.read_now(partial(list_requests, wanted=Wanted(), most=10))) == 6


def test_what_a_database_cannot_hold_of_a_callers_words_is_left_out(database, account):
    write(database, row_of(account, user="a\0b\udc80" + "c" * 300, tags=join_tags(["x\0y", "\ud800"])))
    (row,) = database.read_now(partial(list_requests, wanted=Wanted(account=account), most=2))
    assert row.user == "ab?" + "c" * 197
    assert row.tags == "?,xy"


@given(st.lists(st.text(max_size=90), max_size=6))
def test_joined_tags_fit_their_column_and_each_is_there_once(tags):
    joined = join_tags(tags)
    assert len(joined) <= 200
    parts = joined.split(",") if joined else []
    assert parts == sorted(set(parts))
    assert join_tags(parts) == joined


hours = st.integers(START // HOUR_MS - 3, START // HOUR_MS + 5)
rows = st.builds(
    dict,
    time=st.builds(lambda hour, rest: hour * HOUR_MS + rest, hours, st.integers(0, HOUR_MS - 1)),
    key=st.sampled_from("kl"),
    user=st.sampled_from(["", "u"]),
    tags=st.sampled_from(["", "a", "a,b", "ab"]),
    model=st.sampled_from("mn"),
    operation=st.sampled_from(["embed", "rerank"]),
    status=st.sampled_from([200, 399, 400, 500]),
    items=st.integers(0, 5),
    tokens=st.integers(0, 2**40),
    output_tokens=st.integers(0, 5),
    documents=st.integers(0, 5),
    cost=st.integers(0, 2**60),
    upstream_cost=st.integers(0, 5),
    milliseconds=st.integers(0, 1000).map(float),
)


reports = st.builds(
    lambda span, **values: Report(start=span[0] * HOUR_MS, end=span[1] * HOUR_MS, **values),
    st.tuples(hours, hours).map(sorted),
    by=st.lists(st.sampled_from(Grouping), max_size=3, unique=True).map(tuple),
    tags=st.sampled_from([(), ("a",), ("b", "ab"), ("%",)]),
    where=st.sampled_from([{}, {"model": "m"}, {"user": ""}]),
)


def summed(found, wanted):
    """A report over rows, in plain Python."""
    sums = defaultdict(lambda: dict.fromkeys(MEASURES, 0))
    for row in found:
        tags = row.tags.split(",")
        if not wanted.start <= row.time < wanted.end or (wanted.tags and not set(tags) & set(wanted.tags)):
            continue
        if any(getattr(row, column) != value for column, value in wanted.where.items()):
            continue
        moment = datetime.fromtimestamp(row.time / 1000, UTC)
        groups = [()]
        for grouping in wanted.by:
            values = {
                Grouping.DAY: lambda moment=moment: [f"{moment:%Y-%m-%d}"],
                Grouping.HOUR: lambda moment=moment: [f"{moment:%Y-%m-%dT%H:00Z}"],
                Grouping.TAG: lambda tags=tags: tags,
            }.get(grouping, lambda row=row, grouping=grouping: [getattr(row, grouping)])()
            groups = [(*group, value) for group in groups for value in values]
        counted = {**asdict(row), "requests": 1, "errors": int(row.status >= 400)}
        for group in groups:
            for measure in MEASURES:
                sums[group][measure] += counted[measure]
    return dict(sums)


@SLOW
@given(
    st.lists(rows, max_size=25),
    reports,
    st.lists(st.tuples(hours, st.integers(0, HOUR_MS - 1)), max_size=3).map(sorted),
)
def test_a_report_is_the_sum_of_its_rows_however_much_is_rolled_up(database, found, wanted, rolls):
    clear(database)
    account = new_account(database)
    found = [row_of(account, number, **values) for number, values in enumerate(found)]
    write(database, *found)
    expected = summed(found, wanted)
    for roll in [None, *rolls]:
        if roll is not None:
            tidy(database, roll_up, roll[0] * HOUR_MS + roll[1])
        lines = database.read_now(lambda connection: report(connection, wanted))
        got = {tuple(line.group.values()): {name: getattr(line, name) for name in MEASURES} for line in lines}
        if not wanted.by:
            got = {group: sums for group, sums in got.items() if sums["requests"]}
        assert got == expected
        assert [tuple(line.group.values()) for line in lines] == sorted(tuple(line.group.values()) for line in lines)


by_days = st.builds(
    lambda span, **values: Report(start=START + span[0] * DAY_MS, end=START + span[1] * DAY_MS, **values),
    st.sampled_from([(-9, 9), (0, 1), (0, 2), (1, 2)]),
    by=st.lists(st.sampled_from([one for one in Grouping if one is not Grouping.HOUR]), max_size=2, unique=True).map(
        tuple
    ),
    tags=st.sampled_from([(), ("a",)]),
    where=st.sampled_from([{}, {"key": "k"}, {"provider": "acme"}]),
)
of_two_days = st.builds(
    dict,
    time=st.integers(START, START + 2 * DAY_MS - 1),
    key=st.sampled_from("kl"),
    tags=st.sampled_from(["a", "a,b"]),
    status=st.sampled_from([200, 500]),
    cost=st.integers(1, 5),
    milliseconds=st.integers(0, 1000).map(float),
)


@SLOW
@given(
    st.lists(of_two_days, min_size=10, max_size=30),
    by_days,
    st.lists(st.tuples(st.sampled_from(["fold", "forget"]), st.integers(0, 5)), max_size=6),
    st.integers(1, 30),
)
def test_a_report_by_days_is_exact_over_all_that_is_kept_however_much_is_folded(
    database, found, wanted, steps, at_once
):
    clear(database)
    account = new_account(database)
    found = [row_of(account, number, **values) for number, values in enumerate(found)]
    write(database, *found)
    tidy(database, roll_up, START + 3 * DAY_MS)
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(usage, "HOURS_AT_ONCE", at_once)
        for what, keep_days in [("fold", 9), *steps]:
            operation = fold_hours if what == "fold" else forget_sums
            tidy(database, operation, START + 3 * DAY_MS, keep_days=keep_days)
            kept = mark(database, FORGOTTEN)
            expected = summed([row for row in found if row.time >= kept], wanted)
            lines = database.read_now(lambda connection: report(connection, wanted))
            got = {tuple(line.group.values()): {name: getattr(line, name) for name in MEASURES} for line in lines}
            if not wanted.by:
                got = {group: sums for group, sums in got.items() if sums["requests"]}
            assert got == expected


def test_hours_that_are_long_over_become_their_days(database, account):
    write(database, *(row_of(account, hour, time=START + hour * HOUR_MS, cost=hour) for hour in range(48)))
    tidy(database, roll_up, START + 3 * DAY_MS)
    later = START + 10 * DAY_MS
    assert tidy(database, fold_hours, later, keep_days=11) == 0
    assert tidy(database, fold_hours, later - 1, keep_days=9) == 0, "the day is not over for so long"
    assert tidy(database, fold_hours, later + HOUR_MS, keep_days=9) == 23
    assert mark(database, FOLDED) == START + DAY_MS
    day, *hours = rows_of(database, schema.rollups)
    assert (day.hour, day.requests, day.cost) == (START, 24, sum(range(24)))
    assert [line.hour for line in hours] == [START + hour * HOUR_MS for hour in range(24, 48)]
    assert tidy(database, fold_hours, later + HOUR_MS, keep_days=9) == 0
    assert tidy(database, fold_hours, later + HOUR_MS, keep_days=11) == 0
    assert mark(database, FOLDED) == START + DAY_MS, "it never goes back"


def test_folding_stops_after_some_hours_or_thousands_of_lines_and_no_report_changes(database, account, monkeypatch):
    times = [START + hour * HOUR_MS for hour in range(0, 48, 2)]
    write(database, *(row_of(account, number, time=time, key=f"{number % 2}") for number, time in enumerate(times)))
    tidy(database, roll_up, START + 3 * DAY_MS)
    before = [reported(database), reported(database, by=(Grouping.KEY, Grouping.DAY))]
    for name, most, expected in (("HOURS_AT_ONCE", 4, 3), ("DELETED_AT_ONCE", 2, 2), ("HOURS_AT_ONCE", 1000, 17)):
        with monkeypatch.context() as patched:
            patched.setattr(usage, name, most)
            assert tidy(database, fold_hours, START + 9 * DAY_MS, keep_days=1) == expected
        assert [reported(database), reported(database, by=(Grouping.KEY, Grouping.DAY))] == before
    assert len(rows_of(database, schema.rollups)) == 4


def test_a_report_that_would_part_a_folded_day_is_refused_with_the_hour_from_which_it_would_not(database, account):
    write(database, *(row_of(account, hour, time=START + hour * HOUR_MS) for hour in range(48)))
    tidy(database, roll_up, START + 3 * DAY_MS)
    tidy(database, fold_hours, START + 2 * DAY_MS, keep_days=1)
    folded = datetime.fromtimestamp(START / 1000 + 86_400, UTC).strftime("%Y-%m-%dT%H:%M")
    for wrong, name in (
        ({"start": START + HOUR_MS}, "start"),
        ({"end": START + HOUR_MS}, "end"),
        ({"by": (Grouping.HOUR,)}, "by"),
    ):
        with pytest.raises(InvalidRequestError, match=f"kept from {folded}") as refusal:
            reported(database, **wrong)
        assert refusal.value.param == name
    hours = reported(database, start=START + DAY_MS, by=(Grouping.HOUR,))
    assert [line.requests for line in hours] == [1] * 24
    assert [line.requests for line in reported(database, start=START + DAY_MS + HOUR_MS)] == [23]


def test_sums_that_are_no_longer_kept_are_in_no_report_whole_or_in_part(database, account, monkeypatch):
    monkeypatch.setattr(usage, "HOURS_AT_ONCE", 5)
    write(database, *(row_of(account, hour, time=START + hour * HOUR_MS) for hour in range(48)))
    assert tidy(database, forget_sums, START + 9 * DAY_MS, keep_days=1) == 0, "what is not rolled up is kept"
    tidy(database, roll_up, START + 3 * DAY_MS)
    assert tidy(database, forget_sums, START + 3 * DAY_MS - 1, keep_days=2) == 0
    deleted = [tidy(database, forget_sums, START + 3 * DAY_MS, keep_days=2)]
    assert [line.requests for line in reported(database)] == [24], "some of the day are there, and are not shown"
    deleted += [tidy(database, forget_sums, START + 3 * DAY_MS, keep_days=2) for _ in range(5)]
    assert deleted == [5, 5, 5, 5, 4, 0]
    kept = database.read_now(lambda connection: clipped(connection, Report(start=0, end=START + 2 * DAY_MS)))
    assert kept.start == START + DAY_MS
    assert reported(database, end=START) == []
    assert len(rows_of(database, schema.rollups)) == 24


def test_gateways_that_fold_at_once_fold_each_hour_once(database, account):
    write(database, *(row_of(account, hour, time=START + hour * HOUR_MS) for hour in range(24)))
    tidy(database, roll_up, START + 2 * DAY_MS)
    barrier, folded = threading.Barrier(4, timeout=20), []

    def work():
        barrier.wait()
        folded.append(tidy(database, fold_hours, START + 9 * DAY_MS, keep_days=1))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(folded) == 23
    assert [line.requests for line in reported(database)] == [24]


def test_lines_of_the_audit_are_kept_for_their_days_and_go_some_at_a_time(database, monkeypatch):
    monkeypatch.setattr(audit, "DELETED_AT_ONCE", 4)

    def note(connection):
        for day in range(10):
            said = {"actor": "cli:ada", "action": "key.revoke", "target": f"key {day}", "detail": {}}
            note_change(connection, **said, now=START + day * DAY_MS)

    database.write_now(note)
    assert tidy(database, forget_changes, START + 2 * DAY_MS, keep_days=2) == 0
    assert [tidy(database, forget_changes, START + 8 * DAY_MS, keep_days=2) for _ in range(3)] == [4, 2, 0]
    assert [row.target for row in rows_of(database, schema.audit)] == [f"key {day}" for day in range(6, 10)]


def test_an_hour_is_rolled_up_when_no_gateway_writes_into_it_any_more(database, account):
    write(database, row_of(account, 1, time=START), row_of(account, 2, time=START + HOUR_MS - 1))
    assert tidy(database, roll_up, START + HOUR_MS + SETTLING_MS - 1) == 0
    assert tidy(database, roll_up, START + HOUR_MS + SETTLING_MS) == 1
    assert tidy(database, roll_up, START + HOUR_MS + SETTLING_MS) == 0
    (made,) = rows_of(database, schema.rollups)
    assert (made.hour, made.requests, made.tokens) == (START, 2, 20)
    assert mark(database) == START + HOUR_MS


def test_what_was_rolled_up_is_counted_once_even_beside_its_rows(database, account):
    write(database, *(row_of(account, number, time=START + number * HOUR_MS) for number in range(4)))
    assert [line.requests for line in reported(database)] == [4]
    tidy(database, roll_up, START + 2 * HOUR_MS + SETTLING_MS)
    assert [line.requests for line in reported(database)] == [4]
    assert [line.requests for line in reported(database, end=START + HOUR_MS)] == [1]
    assert [line.requests for line in reported(database, start=START + 3 * HOUR_MS)] == [1]


def test_gateways_that_roll_up_at_once_make_each_hour_once(database, account):
    write(database, *(row_of(account, number, time=START - number * HOUR_MS) for number in range(8)))
    barrier, made = threading.Barrier(4, timeout=20), []

    def work(number):
        barrier.wait()
        # Their clocks are not the same.
        made.append(tidy(database, roll_up, START + (number % 2) * HOUR_MS + SETTLING_MS))

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(made) == 8
    assert mark(database) == START + HOUR_MS
    assert [line.requests for line in reported(database, by=())] == [8]


def test_a_mark_never_goes_back_even_where_clocks_differ(database, account):
    tidy(database, roll_up, START)
    rolled, before = threading.Event(), START + 5 * HOUR_MS

    def roll_up_slowly(connection):
        roll_up(connection, before)
        rolled.set()
        other.join(0.1)  # it should wait for this one to end

    def roll_up_meanwhile():
        assert rolled.wait(20)
        tidy(database, roll_up, before - 2 * HOUR_MS)

    other = threading.Thread(target=roll_up_meanwhile)
    other.start()
    database.write_now(roll_up_slowly)
    other.join()
    assert mark(database) == before - HOUR_MS


def test_forgetting_rows_changes_no_report(database, account):
    write(database, *(row_of(account, number, time=START - number * DAY_MS, cost=number) for number in range(10)))
    before = reported(database)
    assert tidy(database, forget, START, keep_days=3) == 0, "what is not rolled up is kept"
    tidy(database, roll_up, START + 2 * HOUR_MS)
    assert tidy(database, forget, START, keep_days=3) == 6
    assert [row.id for row in rows_of(database, schema.usage)] == [f"gen_{number:04}" for number in range(4)]
    assert reported(database) == before


def test_forgetting_stops_after_some_thousands_and_goes_on_next_time(database, account, monkeypatch):
    monkeypatch.setattr(usage, "DELETED_AT_ONCE", 4)
    write(database, *(row_of(account, number, time=START - DAY_MS) for number in range(10)))
    tidy(database, roll_up, START)
    assert [tidy(database, forget, START + DAY_MS, keep_days=1) for _ in range(4)] == [4, 4, 2, 0]


def test_counters_are_kept_as_long_as_a_request_may_still_change_them(database, account):
    meters = tuple(Meter("key:k", Limit(period=period, requests=99), "This key") for period in Period)
    month = datetime(2027, 1, 1, tzinfo=UTC).timestamp() * 1000
    for moment in (int(month), NOW):
        hold(database, hold_of(account, 0, meters=meters), now=moment)
    kept = defaultdict(list)
    for moment in (NOW, NOW + DAY_MS + 2 * MINUTE_MS, int(month) + 41 * DAY_MS):
        tidy(database, forget, moment, keep_days=30)
        for row in rows_of(database, schema.counters):
            kept[row.period].append(moment)
    assert kept == {
        "minute": [NOW],
        "day": [NOW] * 2 + [NOW + DAY_MS + 2 * MINUTE_MS] * 2 + [int(month) + 41 * DAY_MS],
        "month": [NOW, NOW + DAY_MS + 2 * MINUTE_MS],
    }


def charge(database, account, amount, *, now):
    wanted = hold_of(account, amount)
    hold(database, wanted, now=now)
    settle(database, wanted, now=now)
    return wanted


def test_closing_days_keeps_what_accounts_have_and_have_spent(database):
    accounts = [new_account(database, 10_000) for _ in range(2)]
    for day in range(4):
        for number in range(3):
            for account in accounts:
                charge(database, account, 10**day + number, now=START - (500 - day) * DAY_MS + number)
    late = charge(database, accounts[0], 7, now=START - DAY_MS)
    grant(database, accounts[0], 5, now=START - 499 * DAY_MS)
    before = [balance_of(database, account) for account in accounts]

    assert tidy(database, close_days, START + 5, keep_days=497) == 3 * 3 * 2
    assert [balance_of(database, account) for account in accounts] == before
    assert reconcile(database) == []
    closed = [row for row in rows_of(database, schema.entries, account=accounts[0]) if row.kind == "closing"]
    assert [row.amount for row in closed] == [-6, -33, -303]
    assert [row.reference for row in closed] == sorted(row.reference for row in closed)
    assert [row.time for row in closed] == [START - (500 - day) * DAY_MS for day in range(3)]
    assert tidy(database, close_days, START + 5, keep_days=497) == 0
    assert settle(database, late) == 7, "what was paid for lately is still known"


def test_a_day_that_is_closed_in_parts_is_one_entry(database, monkeypatch):
    monkeypatch.setattr(usage, "DELETED_AT_ONCE", 4)
    account = new_account(database, 1000)
    for number in range(10):
        charge(database, account, number + 1, now=START - 500 * DAY_MS + number)
    charge(database, account, 100, now=START)
    closed = []
    for _ in range(4):
        closed.append(tidy(database, close_days, START, keep_days=400))
        assert reconcile(database) == []
    assert closed == [4, 4, 2, 0]
    assert entries_of(database, account) == [("grant", 1000), ("charge", -100), ("closing", -55)]


def test_gateways_that_close_days_at_once_close_each_charge_once(database):
    account = new_account(database, 1000)
    for number in range(20):
        charge(database, account, number + 1, now=START - 500 * DAY_MS + number * HOUR_MS)
    barrier, closed = threading.Barrier(4, timeout=20), []

    def work():
        barrier.wait()
        closed.append(tidy(database, close_days, START, keep_days=400))

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(closed) == 20
    assert balance_of(database, account).spent == 210
    assert reconcile(database) == []


def test_a_request_and_its_charge_are_written_in_one_transaction_and_once(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30)
    hold(database, wanted)

    def operation(connection):
        cost = ledger.settle(connection, wanted, cost=20, tokens=2, now=NOW)
        record(connection, replace(row_of(account), id=wanted.asker, cost=cost))

    for _ in range(2):
        database.write_now(operation)
    (row,) = rows_of(database, schema.usage)
    assert (row.id, row.cost) == (wanted.id, 20)
