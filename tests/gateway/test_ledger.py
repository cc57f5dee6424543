"""The ledger: what is not there cannot be held, and nothing is paid for twice."""

from dataclasses import replace

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test
from tests.support.books import (
    balance_of,
    counter_of,
    entries_of,
    grant,
    hold,
    hold_of,
    new_account,
    reconcile,
    rows_of,
    settle,
    void,
)

from quernel.errors import (
    ConflictError,
    InsufficientCreditError,
    InvalidRequestError,
    LimitExceededError,
    NotFoundError,
)
from quernel.gateway import ledger, schema
from quernel.gateway.ids import new_id
from quernel.gateway.ledger import Admission, Balance, Discrepancy, EntryKind
from quernel.gateway.limits import Limit, Meter, Period
from quernel.gateway.money import MOST_PICOS


def meter(subject="key:k", **most):
    return (Meter(subject, Limit(period=Period.DAY, **most), "This key"),)


def test_a_hold_takes_from_what_is_available_and_leaves_the_balance(database):
    account = new_account(database, 100)
    admission = hold(database, hold_of(account, 30))
    assert admission == Admission(available=70)
    assert balance_of(database, account) == Balance(balance=100, held=30, spent=0)
    assert balance_of(database, account).available == 70


def test_a_settled_hold_is_one_charge(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30)
    hold(database, wanted)
    assert settle(database, wanted) == 30
    assert balance_of(database, account) == Balance(balance=70, held=0, spent=30)
    assert entries_of(database, account) == [("grant", 100), ("charge", -30)]
    assert reconcile(database) == []


def test_a_request_that_came_to_less_pays_less(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30, tokens=3, meters=meter(spend=50, tokens=50))
    hold(database, wanted)
    assert settle(database, wanted, cost=10, tokens=1) == 10
    assert balance_of(database, account) == Balance(balance=90, held=0, spent=10)
    assert counter_of(database, "key:k") == (1, 1, 10)


def test_a_request_that_came_to_more_pays_more_if_it_is_there(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30)
    hold(database, wanted)
    assert settle(database, wanted, cost=100) == 100
    assert balance_of(database, account) == Balance(balance=0, held=0, spent=100)


def test_a_request_that_came_to_more_than_there_is_is_refused_and_keeps_its_hold(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30)
    hold(database, wanted)
    hold(database, hold_of(account, 60))
    with pytest.raises(InsufficientCreditError, match="came to"):
        settle(database, wanted, cost=41)
    assert balance_of(database, account) == Balance(balance=100, held=90, spent=0)
    assert settle(database, wanted, cost=40) == 40


def test_a_voided_hold_costs_nothing_but_was_a_request(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30, tokens=3, meters=meter(spend=50))
    hold(database, wanted)
    assert void(database, wanted)
    assert balance_of(database, account) == Balance(balance=100, held=0, spent=0)
    assert counter_of(database, "key:k") == (1, 0, 0)
    assert entries_of(database, account) == [("grant", 100)]


def test_what_is_not_available_cannot_be_held(database):
    account = new_account(database, 100)
    hold(database, hold_of(account, 60))
    with pytest.raises(InsufficientCreditError, match=r"\$0\.00000000004 available"):
        hold(database, hold_of(account, 41, meters=meter(spend=1000)))
    assert balance_of(database, account).held == 60
    assert counter_of(database, "key:k") == (0, 0, 0), "a refusal counts nothing"
    hold(database, hold_of(account, 40))


def test_an_account_that_is_overdrawn_may_ask_what_costs_nothing(database):
    account = new_account(database, 10)
    grant(database, account, -20, kind=EntryKind.ADJUSTMENT)
    assert hold(database, hold_of(account, 0)).available == -10
    with pytest.raises(InsufficientCreditError, match=r"\$0\.00 available"):
        hold(database, hold_of(account, 1))


def test_each_operation_done_again_does_nothing(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30, tokens=3, meters=meter(spend=50))
    assert [hold(database, wanted).available for _ in range(3)] == [70, 70, 70]
    assert counter_of(database, "key:k") == (1, 3, 30)
    assert [settle(database, wanted, cost=20) for _ in range(3)] == [20, 20, 20], "it is told what it paid"
    assert counter_of(database, "key:k") == (1, 3, 20)
    assert [void(database, wanted) for _ in range(2)] == [False, False]
    assert balance_of(database, account) == Balance(balance=80, held=0, spent=20)

    other = hold_of(account, 30, tokens=3, meters=meter(spend=50))
    hold(database, other)
    assert [void(database, other) for _ in range(3)] == [True, False, False]
    assert counter_of(database, "key:k") == (2, 3, 20)
    assert reconcile(database) == []


def test_what_was_paid_for_is_neither_held_nor_charged_again(database):
    account = new_account(database, 100)
    first = hold_of(account, 30, meters=meter(spend=30))
    hold(database, first)
    settle(database, first)
    again = replace(first, asker=new_id("gen"))
    assert hold(database, again).available == 70
    assert settle(database, again) == 0
    assert settle(database, first) == 30
    assert entries_of(database, account) == [("grant", 100), ("charge", -30)]
    assert counter_of(database, "key:k") == (2, 0, 30), "that it was asked for counts"


def test_what_is_repeated_for_nothing_still_has_limits(database):
    account = new_account(database, 100)
    first = hold_of(account, 30, meters=meter(requests=2))
    hold(database, first)
    settle(database, first)
    hold(database, replace(first, asker=new_id("gen")))
    with pytest.raises(LimitExceededError):
        hold(database, replace(first, asker=new_id("gen")))


def test_a_request_that_is_under_way_cannot_be_sent_again(database):
    account = new_account(database, 100)
    first = hold_of(account, 30)
    again = replace(first, asker=new_id("gen"))
    hold(database, first)
    with pytest.raises(ConflictError, match="under way"):
        hold(database, again)
    void(database, first)
    hold(database, again)
    assert settle(database, again) == 30
    assert settle(database, again) == 30
    assert settle(database, first) == 0, "another paid for it"
    assert balance_of(database, account).balance == 70


def test_a_hold_that_is_gone_is_held_and_charged_anew(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30, tokens=3, meters=meter(spend=50, tokens=50))
    hold(database, wanted)
    void(database, wanted)
    assert settle(database, wanted) == 30
    assert balance_of(database, account) == Balance(balance=70, held=0, spent=30)
    assert counter_of(database, "key:k") == (2, 3, 30)


def test_a_hold_that_is_gone_is_refused_where_its_money_is_gone_too(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 60)
    hold(database, wanted)
    void(database, wanted)
    hold(database, hold_of(account, 50))
    with pytest.raises(InsufficientCreditError):
        settle(database, wanted)
    assert balance_of(database, account) == Balance(balance=100, held=50, spent=0)


@pytest.mark.parametrize(
    ("most", "refusal"), [({"spend": 50}, InsufficientCreditError), ({"tokens": 5}, LimitExceededError)]
)
def test_a_hold_that_is_gone_is_refused_where_its_limit_is_used_by_others(database, most, refusal):
    account = new_account(database, 1000)
    wanted = hold_of(account, 30, tokens=3, meters=meter(**most))
    hold(database, wanted)
    void(database, wanted)
    hold(database, replace(wanted, id="gen_other", asker="gen_other"))
    with pytest.raises(refusal):
        settle(database, wanted)
    assert entries_of(database, account) == [("grant", 1000)]
    assert reconcile(database) == []


def test_money_is_given_once_for_each_reference(database):
    account = new_account(database)
    assert grant(database, account, 25, reference="invoice 1")
    assert not grant(database, account, 25, reference="invoice 1")
    with pytest.raises(ConflictError, match="stands for"):
        grant(database, account, 26, reference="invoice 1")
    assert grant(database, account, 25, reference="invoice 1", kind=EntryKind.PURCHASE), "of another kind"
    assert grant(database, new_account(database), 25, reference="invoice 1"), "of another account"
    assert balance_of(database, account) == Balance(balance=50, held=0, spent=0)


def test_a_refund_takes_from_what_was_spent(database):
    account = new_account(database, 100)
    wanted = hold_of(account, 30)
    hold(database, wanted)
    settle(database, wanted)
    grant(database, account, 30, kind=EntryKind.REFUND, reference=wanted.id)
    assert balance_of(database, account) == Balance(balance=100, held=0, spent=0)
    assert reconcile(database) == []


def test_more_than_a_column_holds_is_refused_even_in_parts(database):
    account = new_account(database, MOST_PICOS - 10)
    with pytest.raises(InvalidRequestError, match="more than a ledger holds"):
        grant(database, account, 11)
    wanted = hold_of(account, MOST_PICOS - 10)
    hold(database, wanted)
    settle(database, wanted)
    with pytest.raises(InvalidRequestError, match="more than a ledger holds"):
        grant(database, account, 11)
    assert grant(database, account, 10)
    assert balance_of(database, account) == Balance(balance=10, held=0, spent=MOST_PICOS - 10)
    assert reconcile(database) == []


@pytest.mark.parametrize("operation", [hold, settle, void])
def test_an_account_that_there_is_not_is_refused(database, operation):
    with pytest.raises(NotFoundError, match="no account"):
        operation(database, hold_of("acc_none", 1))


def test_a_sweep_lets_go_what_one_gateway_held_and_no_other(database):
    first, second = new_account(database, 100), new_account(database, 100)
    for account in (second, first, second):
        hold(database, hold_of(account, 10, tokens=1, meters=meter(spend=100), instance="dead"))
    hold(database, hold_of(first, 7, instance="alive"))
    assert database.write_now(lambda connection: ledger.sweep(connection, "dead")) == 3
    assert database.write_now(lambda connection: ledger.sweep(connection, "dead")) == 0
    assert [balance_of(database, account).held for account in (first, second)] == [7, 0]
    assert counter_of(database, "key:k") == (3, 0, 0)
    assert reconcile(database) == []


@pytest.mark.parametrize("what", ["balance", "held", "spent"])
def test_reconciling_finds_a_number_that_is_wrong_by_one(database, what):
    account = new_account(database, 100)
    new_account(database, 5)
    wrong = sa.update(schema.accounts).filter_by(id=account).values({what: schema.accounts.c[what] + 1})
    database.write_now(lambda connection: connection.execute(wrong))
    right = {"balance": 100, "held": 0, "spent": 0}[what]
    assert reconcile(database) == [Discrepancy(account=account, what=what, row=right + 1, sum=right)]


class Books(RuleBasedStateMachine):
    """The ledger against a few Python numbers: what is done, in any order and again, comes to the same."""

    database = None

    def __init__(self):
        super().__init__()
        self.account = new_account(self.database)
        self.granted, self.budget = 0, 60
        self.meters = meter(f"key:{self.account}", spend=self.budget, requests=20)
        self.holds, self.paid, self.voided, self.grants = {}, {}, {}, {}
        self.requests = 0

    @property
    def used(self):
        return sum(self.paid.values()) + sum(wanted.amount for wanted in self.holds.values())

    def available(self):
        return self.granted - self.used

    def known(self, draw, names):
        return draw.draw(st.sampled_from(sorted(names)))

    @rule(amount=st.integers(0, 50), again=st.booleans())
    def give(self, amount, again):
        name = f"grant {len(self.grants) - 1 if again and self.grants else len(self.grants)}"
        if self.grants.get(name, amount) != amount:
            with pytest.raises(ConflictError):
                grant(self.database, self.account, amount, reference=name)
            return
        assert grant(self.database, self.account, amount, reference=name) == (name not in self.grants)
        self.granted += amount if name not in self.grants else 0
        self.grants[name] = amount

    def admit(self, wanted):
        """Hold it where the model says that it may be held."""
        if wanted.amount > self.available() and wanted.amount:
            refusal = InsufficientCreditError
        elif self.requests == 20:
            refusal = LimitExceededError
        elif wanted.amount and self.used + wanted.amount > self.budget:
            refusal = InsufficientCreditError
        else:
            assert hold(self.database, wanted).available == self.available() - wanted.amount
            self.holds[wanted.id] = wanted
            self.voided.pop(wanted.id, None)
            self.requests += 1
            return
        with pytest.raises(refusal):
            hold(self.database, wanted)

    @rule(amount=st.integers(0, 30))
    def ask(self, amount):
        self.admit(hold_of(self.account, amount, tokens=amount, meters=self.meters))

    @precondition(lambda self: self.voided)
    @rule(draw=st.data())
    def ask_again_after_a_failure(self, draw):
        before = self.voided[self.known(draw, self.voided)]
        self.admit(replace(before, asker=new_id("gen")))

    @precondition(lambda self: self.holds)
    @rule(draw=st.data(), same=st.booleans())
    def ask_again_meanwhile(self, draw, same):
        wanted = self.holds[self.known(draw, self.holds)]
        if same:
            assert hold(self.database, wanted).available == self.available()
        else:
            with pytest.raises(ConflictError):
                hold(self.database, replace(wanted, asker=new_id("gen")))

    @precondition(lambda self: self.holds)
    @rule(draw=st.data(), part=st.integers(0, 100))
    def pay(self, draw, part):
        wanted = self.holds.pop(self.known(draw, self.holds))
        cost = wanted.amount * part // 100
        assert settle(self.database, wanted, cost=cost, tokens=cost) == cost
        if cost:
            self.paid[wanted.id] = cost

    @precondition(lambda self: self.holds)
    @rule(draw=st.data())
    def fail(self, draw):
        wanted = self.holds.pop(self.known(draw, self.holds))
        assert void(self.database, wanted)
        self.voided[wanted.id] = wanted

    @precondition(lambda self: self.paid)
    @rule(draw=st.data(), how=st.sampled_from(["hold", "settle", "void"]))
    def repeat_what_is_paid_for(self, draw, how):
        again = hold_of(self.account, 5, name=self.known(draw, self.paid), asker=new_id("gen"), meters=self.meters)
        if how == "hold":
            assert hold(self.database, again).available == self.available()
            self.requests += 1
        elif how == "settle":
            assert settle(self.database, again) == 0
        else:
            assert not void(self.database, again)

    @rule()
    def die(self):
        swept = self.database.write_now(lambda connection: ledger.sweep(connection, "here"))
        assert swept == len(self.holds)
        self.voided |= self.holds
        self.holds = {}

    @invariant()
    def the_books_are_right(self):
        assert reconcile(self.database) == []
        money = balance_of(self.database, self.account)
        paid = sum(self.paid.values())
        assert money == Balance(balance=self.granted - paid, held=self.used - paid, spent=paid)
        assert money.available >= 0
        counted = counter_of(self.database, self.meters[0].subject)
        assert counted == (self.requests, self.used, self.used)
        assert counted[2] <= self.budget
        assert len(rows_of(self.database, schema.holds, account=self.account)) == len(self.holds)

    def teardown(self):
        self.database.write_now(lambda connection: ledger.sweep(connection, "here"))


def test_any_order_of_operations_gives_the_numbers_of_a_plain_model(database):
    machine = type("BooksOfOne", (Books,), {"database": database})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )
