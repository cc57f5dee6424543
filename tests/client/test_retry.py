"""When requests are sent again."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from quernel.client.retry import RETRIED, RetryPolicy, retry_after

NOW = 1_800_000_000.0


@given(st.integers(1, 20), st.integers(1, 20), st.sampled_from([None, *sorted(RETRIED)]))
def test_waits_grow_within_their_bounds_and_end(attempt, most, status):
    policy = RetryPolicy(max_attempts=most, first_seconds=0.5, max_seconds=8)
    seconds = policy.wait(attempt, status, {}, NOW)
    if attempt >= most:
        assert seconds is None
    else:
        assert 0 <= seconds <= min(0.5 * 2 ** (attempt - 1), 8)


@pytest.mark.parametrize("status", [400, 401, 404, 413, 422, 501])
def test_what_cannot_succeed_is_not_sent_again(status):
    assert RetryPolicy().wait(1, status, {"retry-after": "1"}, NOW) is None


def test_the_server_is_waited_for_as_long_as_it_asks_but_not_for_ever():
    policy = RetryPolicy(first_seconds=0.5, max_seconds=30)
    assert 7 <= policy.wait(1, 429, {"retry-after": "7"}, NOW) <= 7.5
    assert policy.wait(1, 429, {"retry-after": "31"}, NOW) is None


def test_those_that_are_sent_away_together_do_not_come_back_together():
    waits = {RetryPolicy().wait(3, 503, {"retry-after": "2"}, NOW) for _ in range(50)}
    assert len(waits) == 50


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("3", 3), ("0.5", 0.5), ("-2", 0), ("Fri, 15 Jan 2027 08:00:05 GMT", 5), ("soon", None), ("", None)],
)
def test_both_forms_of_retry_after_are_read(said, seconds):
    assert retry_after({"retry-after": said}, NOW) == seconds


def test_no_header_asks_for_nothing():
    assert retry_after({}, NOW) is None
