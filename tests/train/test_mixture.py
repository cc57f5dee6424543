import pytest

from quernel.train.mixture import Mixture, Source


def mixture(**options):
    sources = [Source("a", list(range(10)), 3.0), Source("b", list(range(100, 107)), 1.0)]
    return Mixture(sources, **({"steps": 400, "batch_size": 3, "seed": 5} | options))


def test_a_step_is_decided_by_seed_and_number():
    one, other = mixture(), mixture()
    assert one[317] == other[317]
    assert [one[step] for step in range(20)] == [other[step] for step in range(20)]
    assert any(one[step] != mixture(seed=6)[step] for step in range(20))


def test_shares_are_those_of_the_weights():
    assert mixture().shares == pytest.approx({"a": 0.75, "b": 0.25}, abs=0.07)


@pytest.mark.parametrize("batches", [1, 4])
def test_a_source_is_gone_through_before_it_begins_anew(batches):
    drawn = mixture(batches=batches, batch_size=3 * batches)
    batches = [batch for step in range(60) for batch in drawn[step] if batch.source == "a"]
    for start in range(0, 12, 3):  # ten rows hold three batches of three
        seen = [row for batch in batches[start : start + 3] for row in batch.rows]
        assert len(set(seen)) == 9
    assert [batch.rows for batch in batches[:3]] != [batch.rows for batch in batches[3:6]]


def test_a_small_source_gives_small_batches():
    assert {len(mixture(batch_size=50)[step][0].rows) for step in range(30)} == {10, 7}


def test_every_step_has_its_own_seed():
    assert len({batch.seed for step in range(50) for batch in mixture(batches=2)[step]}) == 100
