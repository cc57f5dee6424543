import gzip
import json

import pytest

from quernel.errors import SettingsError
from quernel.train.examples import Example, JudgedPair, parse_row, read_examples


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        ({"query": "q", "pos": "p"}, Example(query="q", positives=("p",))),
        (
            {"query": "q", "pos": ["p", "r"], "neg": ["n"], "prompt": "find", "pos_scores": [1, 2], "neg_scores": [0]},
            Example(query="q", positives=("p", "r"), negatives=("n",), instruction="find", scores=(1.0, 2.0, 0.0)),
        ),
        (
            {"anchor": "q", "positive": "p", "negative": "n", "negative_2": "m"},
            Example(query="q", positives=("p",), negatives=("n", "m")),
        ),
        ({"question": "q", "answer": "a"}, Example(query="q", positives=("a",))),
        (
            {"task": "t", "query": "q", "pos": "p", "lang": "en", "label": 3},
            Example(query="q", positives=("p",), instruction="t", label="3"),
        ),
        ({"sentence1": "a", "sentence2": "b", "score": 4}, JudgedPair(first="a", second="b", score=4.0)),
        ({"type": "sts", "s1": "a", "s2": "b", "score": 0.5}, JudgedPair(first="a", second="b", score=0.5)),
        ({"sentence1": "a", "sentence2": "b", "label": 1}, JudgedPair(first="a", second="b", score=1.0)),
    ],
)
def test_every_spelling(raw, expected):
    assert parse_row(raw, "here") == expected


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ({"pos": "p"}, "none of the columns query, anchor"),
        ({"query": "q"}, "no document that answers"),
        ({"query": 7, "pos": "p"}, "query is 7, which is no text"),
        ({"query": "q", "pos": [1]}, "neither a text nor a list"),
        ({"query": "q", "pos": "p", "pos_scores": [1, 2]}, "2 scores for 1 documents"),
        ({"query": "q", "pos": "p", "neg": "n", "pos_scores": 1}, "pos_scores is not a list"),
        ({"sentence1": "a", "sentence2": "b"}, "score is None"),
    ],
)
def test_what_is_wrong_is_named_with_its_place(raw, message):
    with pytest.raises(SettingsError, match=message) as refusal:
        parse_row(raw, "file, row 3")
    assert "file, row 3" in str(refusal.value)


ROWS = [{"query": "q", "pos": "p"}, {"query": "r", "pos": ["s"]}]


def test_files_of_each_kind(tmp_path):
    lines = "\n".join(map(json.dumps, ROWS)) + "\n"
    (tmp_path / "a.jsonl").write_text(lines)
    with gzip.open(tmp_path / "b.jsonl.gz", "wt") as file:
        file.write(lines)
    parquet = pytest.importorskip("pyarrow.parquet")
    import pyarrow

    parquet.write_table(pyarrow.Table.from_pylist([{"anchor": "q", "positive": "p"}]), tmp_path / "c.parquet")
    expected = [Example(query="q", positives=("p",)), Example(query="r", positives=("s",))]
    assert read_examples(tmp_path / "a.jsonl") == read_examples(tmp_path / "b.jsonl.gz") == expected
    assert read_examples(tmp_path / "c.parquet") == expected[:1]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no rows"),
        ("{", "cannot be read"),
        ("[1]", "line 1 is no object"),
        ('{"query": "q", "pos": "p"}\n{"sentence1": "a", "sentence2": "b", "score": 1}', "several kinds"),
    ],
)
def test_broken_files_are_refused(tmp_path, text, message):
    (tmp_path / "a.jsonl").write_text(text)
    with pytest.raises(SettingsError, match=message):
        read_examples(tmp_path / "a.jsonl")
