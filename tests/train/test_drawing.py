"""How rows are read in a step."""

from collections import Counter

import pytest

from quernel.train.drawing import BARE, Form, Prompt, draw_rows
from quernel.train.examples import Example, JudgedPair, Passage

ROW = Example(
    query="q", positives=("p1", "p2"), negatives=("n1", "n2", "n3"), instruction="find", scores=(1, 2, 3, 4, 5)
)
OWN, GENERIC = Prompt(asks=True, instruction="find"), Prompt(asks=True)


def test_a_row_gives_one_positive_and_some_negatives_with_their_scores():
    seen = Counter()
    for seed in range(200):
        (drawn,) = draw_rows([ROW], Form(), 2, seed)
        positive, *negatives = drawn.documents
        assert positive in ROW.positives
        assert len(set(negatives)) == 2
        assert set(negatives) < set(ROW.negatives)
        texts = (*ROW.positives, *ROW.negatives)
        assert drawn.scores == tuple(float(texts.index(text) + 1) for text in drawn.documents)
        assert (drawn.prompt, drawn.document_prompt) == (OWN, BARE)
        seen.update(drawn.documents)
    assert set(seen) == {*ROW.positives, *ROW.negatives}


def test_the_seed_decides():
    form = Form(bare=0.3, generic=0.5)
    assert draw_rows([ROW] * 20, form, 2, 7) == draw_rows([ROW] * 20, form, 2, 7)
    assert draw_rows([ROW] * 20, form, 2, 7) != draw_rows([ROW] * 20, form, 2, 8)


def test_shares_of_instructions():
    prompts = Counter(row.prompt for row in draw_rows([ROW] * 4000, Form(bare=0.3, generic=0.5), 0, 0))
    assert prompts[BARE] / 4000 == pytest.approx(0.3, abs=0.03)
    assert prompts[GENERIC] / 4000 == pytest.approx(0.35, abs=0.03)
    assert prompts[OWN] / 4000 == pytest.approx(0.35, abs=0.03)


def test_both_sides_of_symmetric_rows_carry_the_same():
    for row in draw_rows([ROW] * 50, Form(bare=0.5, symmetric=True), 1, 0):
        assert row.document_prompt == row.prompt


@pytest.mark.parametrize("text", ["one two three four five six seven " * 20, "\u4e00\u4e8c\u4e09\u56db" * 60])
def test_crops_are_two_spans_that_do_not_overlap(text):
    text = "".join(f"{number}{character}" if character == " " else character for number, character in enumerate(text))
    for seed in range(50):
        rows = [Passage(text=text), Example(query="never read", positives=(text,))]
        for drawn in draw_rows(rows, Form(crops=True), 3, seed):
            (longer,) = drawn.documents
            assert drawn.query in text
            assert longer in text
            assert len(drawn.query) + len(longer) <= len(text)
            assert 10 <= len(drawn.query) <= 160
            assert drawn.label == text


def test_what_is_too_short_for_two_spans_or_no_pair_is_left_out():
    assert draw_rows([Passage(text="short")], Form(crops=True), 0, 0) == []
    assert draw_rows([Passage(text="a" * 500)], Form(), 0, 0) == []
    assert draw_rows([JudgedPair(first="a" * 500, second="b" * 500, score=1.0)], Form(crops=True), 0, 0) == []
