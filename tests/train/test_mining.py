import numpy as np
import pytest

from quernel.errors import SettingsError
from quernel.train.examples import Example
from quernel.train.mining import MiningSettings, mine

ANGLES = {"right": 0, "also right": 5, "near": 30, "less near": 45, "far": 80}


def unit(degrees):
    radians = np.deg2rad(np.asarray(degrees, dtype=np.float64))
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def found(rows, queries, **settings):
    documents = unit(list(ANGLES.values()))
    return list(mine(rows, list(ANGLES), unit(queries), documents, MiningSettings(**settings)))


def test_the_nearest_that_are_no_likely_answers_are_taken():
    [mined] = found([Example(query="q", positives=("right",), instruction="i", label="l")], [0], count=2)
    assert mined.row.negatives == ("near", "less near")  # "also right" scores .996 of the positive's 1
    assert mined.num_likely == 1
    assert (mined.row.instruction, mined.row.label) == ("i", "l")


def test_a_range_is_passed_over_and_a_share_decides():
    row = Example(query="q", positives=("right",))
    assert found([row], [0], share=1.0, count=1)[0].row.negatives == ("also right",)
    assert found([row], [0], first=2, count=9)[0].row.negatives == ("less near", "far")
    assert found([row], [0], last=2, count=9)[0].row.negatives == ("near",)


def test_answers_to_the_same_query_are_no_negatives():
    rows = [Example(query="q", positives=("right",)), Example(query="q", positives=("near",))]
    first, second = found(rows, [0, 0], share=2.0, count=9)
    assert "near" not in first.row.negatives
    assert "right" not in second.row.negatives


def test_draws_are_repeatable():
    rows = [Example(query=str(number), positives=("right",)) for number in range(20)]
    drawn = [found(rows, [0] * 20, count=1, at_random=True, seed=seed) for seed in (1, 1, 2)]
    negatives = [[mined.row.negatives for mined in one] for one in drawn]
    assert negatives[0] == negatives[1] != negatives[2]
    assert {text for texts in negatives[0] for text in texts} == {"near", "less near", "far"}


def test_an_empty_range_is_refused():
    with pytest.raises(SettingsError, match="from 5 to 5"):
        MiningSettings(first=5, last=5)
