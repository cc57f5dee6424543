"""Limits: windows of the calendar, and never more in one than it takes, whoever asks at the same time."""

import multiprocessing
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.support.books import (
    NOW,
    balance_of,
    counter_of,
    hold,
    hold_of,
    new_account,
    reconcile,
    rows_of,
    settle,
    void,
)

from quernel.errors import InsufficientCreditError, LimitExceededError, QuernelError, SettingsError
from quernel.gateway import schema
from quernel.gateway.database import Database
from quernel.gateway.limits import DAY_MS, MINUTE_MS, Limit, Meter, Period, parse_limits, show_limits, window_of
from quernel.gateway.money import MOST_PICOS


def milliseconds(*moment):
    return int(datetime(*moment, tzinfo=UTC).timestamp() * 1000)


def meter(subject="key:k", period=Period.MINUTE, **most):
    return Meter(subject, Limit(period=period, **most), "This key")


@pytest.mark.parametrize(
    ("year", "month", "days"),
    [(2027, 1, 31), (2027, 2, 28), (2028, 2, 29), (2100, 2, 28), (2000, 2, 29), (2027, 4, 30), (2027, 12, 31)],
)
def test_a_month_begins_on_its_first_day_and_ends_with_its_last(year, month, days):
    start = milliseconds(year, month, 1)
    for now in (start, start + 14 * DAY_MS, start + days * DAY_MS - 1):
        window = window_of(Period.MONTH, now)
        assert (window.start, window.end) == (start, start + days * DAY_MS)
    assert window_of(Period.MONTH, start - 1).end == start
    assert window_of(Period.MONTH, start + days * DAY_MS).start == start + days * DAY_MS


moments = st.integers(0, milliseconds(2200, 1, 1))


@given(moments, st.sampled_from(Period))
def test_every_moment_lies_in_one_window_and_the_next_begins_where_it_ends(now, period):
    window = window_of(period, now)
    assert window.start <= now < window.end
    assert window_of(period, window.start) == window_of(period, window.end - 1) == window
    assert window_of(period, window.end).start == window.end


@given(moments)
def test_windows_are_those_of_the_calendar(now):
    moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(milliseconds=now)
    assert window_of(Period.DAY, now).start == milliseconds(moment.year, moment.month, moment.day)
    assert window_of(Period.MONTH, now).start == milliseconds(moment.year, moment.month, 1)
    assert window_of(Period.MINUTE, now).start == now // MINUTE_MS * MINUTE_MS


amounts = st.none() | st.integers(0, MOST_PICOS)
limits = st.builds(
    lambda mosts: tuple(
        Limit(period=period, **dict(zip(("requests", "tokens", "spend"), most, strict=True)))
        for period, most in mosts.items()
    ),
    st.dictionaries(st.sampled_from(Period), st.tuples(amounts, amounts, amounts)),
)


@given(limits)
def test_limits_that_are_shown_are_read_back(most):
    assert parse_limits(show_limits(most), place="limits") == most


@pytest.mark.parametrize(
    "table",
    [
        {"week": {"requests": 1}},
        {"minute": 5},
        {"minute": {"requets": 1}},
        {"minute": {"requests": -1}},
        {"minute": {"tokens": True}},
        {"minute": {"tokens": 1.5}},
        {"minute": {"tokens": None}},
        {"day": {"usd": 0.5}},
        {"day": {"usd": "-0.5"}},
    ],
)
def test_what_is_no_limit_is_refused(table):
    with pytest.raises(SettingsError):
        parse_limits(table, place="limits")


@pytest.mark.parametrize(
    ("most", "refusal", "message"),
    [
        ({"requests": 3}, LimitExceededError, "3 requests a minute; 3 are used, and this request has 1"),
        ({"tokens": 35}, LimitExceededError, "35 tokens a minute; 30 are used, and this request has 10"),
        ({"spend": 15}, InsufficientCreditError, "are spent or reserved"),
    ],
)
def test_a_window_takes_its_limit_to_the_last_and_no_more(database, most, refusal, message):
    account = new_account(database, 1000)
    wanted = [hold_of(account, 5, tokens=10, meters=(meter(**most),)) for _ in range(4)]
    for one in wanted[:3]:
        hold(database, one)
    with pytest.raises(refusal, match=message):
        hold(database, wanted[3])
    assert counter_of(database, "key:k") == (3, 30, 15)
    assert balance_of(database, account).held == 15


def test_a_refusal_says_when_the_window_ends(database):
    account = new_account(database)
    hold(database, hold_of(account, 0, meters=(meter(requests=1),)), now=NOW)
    with pytest.raises(LimitExceededError) as caught:
        hold(database, hold_of(account, 0, meters=(meter(requests=1),)), now=NOW + 45_500)
    assert caught.value.retry_after == 14.5
    hold(database, hold_of(account, 0, meters=(meter(requests=1),)), now=NOW + MINUTE_MS)


def test_one_limit_that_refuses_leaves_all_others_as_they_were(database):
    account = new_account(database)
    meters = (meter("key:k", requests=9), meter("account:a", Period.DAY, tokens=9), meter("key:k", Period.MONTH))
    with pytest.raises(LimitExceededError):
        hold(database, hold_of(account, 0, tokens=10, meters=meters))
    assert rows_of(database, schema.counters) == []
    hold(database, hold_of(account, 0, tokens=9, meters=meters))
    assert counter_of(database, "key:k") == (2, 18, 0), "the minute and the month"
    assert counter_of(database, "account:a") == (1, 9, 0)


def test_what_costs_nothing_passes_a_budget_that_was_lowered(database):
    account = new_account(database, 100)
    hold(database, hold_of(account, 10, meters=(meter(spend=10),)))
    hold(database, hold_of(account, 0, meters=(meter(spend=5),)))
    with pytest.raises(InsufficientCreditError):
        hold(database, hold_of(account, 1, meters=(meter(spend=5),)))


def test_a_request_is_told_the_tightest_rest_of_its_minute(database):
    account = new_account(database)
    meters = (
        meter("key:k", requests=10, tokens=100),
        meter("account:a", requests=5),
        meter("account:a", Period.DAY, requests=2),
    )
    remaining = hold(database, hold_of(account, 0, tokens=30, meters=meters)).remaining
    assert (remaining["requests"].limit, remaining["requests"].remaining) == (5, 4)
    assert (remaining["tokens"].limit, remaining["tokens"].remaining) == (100, 70)
    assert remaining["tokens"].resets == NOW + MINUTE_MS


def test_what_is_settled_or_voided_later_changes_the_window_in_which_it_was_held(database):
    account = new_account(database, 100)
    meters = (meter(spend=100), meter("key:k", Period.MONTH, spend=100))
    end = milliseconds(2027, 2, 1)
    first = hold_of(account, 10, tokens=10, meters=meters)
    second = hold_of(account, 20, tokens=20, meters=meters)
    for one in (first, second):
        hold(database, one, now=end - 1)
    settle(database, first, cost=4, tokens=3, now=end + 1)
    void(database, second)
    assert {row.start for row in rows_of(database, schema.counters)} == {end - MINUTE_MS, milliseconds(2027, 1, 1)}
    assert counter_of(database, "key:k", period="month") == (2, 3, 4)
    assert counter_of(database, "key:k", period="minute") == (2, 3, 4)


holds = st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["settle", "less", "void", "wait"])), max_size=12)


@pytest.fixture(scope="module")
def one_file(migrated_file, tmp_path_factory):
    file = tmp_path_factory.mktemp("limits") / "books.db"
    file.write_bytes(migrated_file.read_bytes())
    opened = Database(f"sqlite:///{file}")
    yield opened
    opened.close()


@given(holds)
def test_a_counter_is_what_was_settled_and_what_is_held(one_file, asked):
    account = new_account(one_file, 100)
    subject, most = f"key:{account}", 30
    used = requests = 0
    for size, then in asked:
        wanted = hold_of(account, size, tokens=size, meters=(meter(subject, spend=most, tokens=most),))
        if used + size > most:
            with pytest.raises(QuernelError):
                hold(one_file, wanted)
            continue
        hold(one_file, wanted)
        requests += 1
        if then == "void":
            void(one_file, wanted)
        elif then == "less":
            used += settle(one_file, wanted, cost=size // 2, tokens=size // 2)
        else:
            used += size
            if then == "settle":
                settle(one_file, wanted)
    assert counter_of(one_file, subject) == (requests, used, used)


def admit_all(database, account, name, count, barrier):
    """How many of so many requests are let in, that all begin with those of others."""
    admitted = 0
    barrier.wait()
    for number in range(count):
        meters = (meter("key:shared", Period.DAY, requests=40, spend=100), meter(f"account:{account}", Period.DAY))
        try:
            hold(database, hold_of(account, 2, name=f"gen_{name}_{number}", meters=meters))
            admitted += 1
        except QuernelError:
            pass
    return admitted


@pytest.mark.parametrize(("credit", "most"), [(1000, 40), (50, 25)], ids=["requests", "credit"])
def test_threads_that_ask_at_once_never_get_more_than_the_limit(database, credit, most):
    account = new_account(database, credit)
    barrier = threading.Barrier(8)
    with ThreadPoolExecutor(8) as pool:
        admitted = list(pool.map(lambda name: admit_all(database, account, name, 8, barrier), range(8)))
    assert sum(admitted) == most
    assert counter_of(database, "key:shared") == (most, 0, 2 * most)
    assert balance_of(database, account).held == 2 * most
    assert reconcile(database) == []


def admit_elsewhere(url, account, name, barrier, admitted):
    database = Database(url)
    try:
        admitted.put(admit_all(database, account, name, 20, barrier))
    finally:
        database.close()


def test_processes_that_ask_at_once_never_get_more_than_the_limit(database, database_url):
    account = new_account(database, 1000)
    context = multiprocessing.get_context("spawn")
    barrier, admitted = context.Barrier(3), context.Queue()
    arguments = ((database_url, account, name, barrier, admitted) for name in range(3))
    processes = [context.Process(target=admit_elsewhere, args=each) for each in arguments]
    for process in processes:
        process.start()
    counts = [admitted.get(timeout=60) for _ in processes]
    for process in processes:
        process.join()
    assert sum(counts) == 40
    assert counter_of(database, "key:shared") == (40, 0, 80)
    assert balance_of(database, account).held == 80
    assert len(rows_of(database, schema.holds)) == 40
    assert reconcile(database) == []
