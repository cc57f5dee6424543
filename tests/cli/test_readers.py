"""Files keep every text as it is, whatever is in it."""

import csv
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from quernel.cli.readers import STDIN, SUFFIXES, Selection, read_chunks, resolve_format
from quernel.cli.writers import open_writer, whole_file

ODD = st.text(
    st.sampled_from('",\r\n\u2028\x0b\x85\ufeff\0 aß文🦆') | st.characters(exclude_categories=["Cs"]), max_size=12
)
TEXTS = st.lists(ODD, min_size=1, max_size=8)
quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def texts_of(path, format, size=3):
    return [text for chunk in read_chunks(path, format, Selection(), size) for text in chunk.texts]


@quick
@given(texts=TEXTS)
def test_jsonl_is_read_as_written(tmp_path, texts):
    path = tmp_path / "texts.jsonl"
    path.write_bytes(b"".join(json.dumps({"text": text}).encode() + b"\n" for text in texts))
    assert texts_of(path, "jsonl") == texts
    path.write_bytes(b"\n".join(json.dumps({"text": text}, ensure_ascii=False).encode() for text in texts))
    assert texts_of(path, "jsonl") == texts


@quick
@given(texts=TEXTS)
def test_csv_is_read_as_written(tmp_path, texts):
    path = tmp_path / "texts.csv"
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["id", "text"], *enumerate(texts)])
    assert texts_of(path, "csv") == texts


def test_a_long_csv_field_is_read(tmp_path):
    path = tmp_path / "texts.csv"
    path.write_text("text\n" + "x" * 200_000)
    assert texts_of(path, "csv") == ["x" * 200_000]


@quick
@given(texts=TEXTS)
def test_parquet_is_read_as_written(tmp_path, texts):
    pq.write_table(pa.table({"text": texts}), tmp_path / "texts.parquet")
    assert texts_of(tmp_path / "texts.parquet", "parquet") == texts


@quick
@given(texts=st.lists(ODD.map(lambda text: text.replace("\n", "").replace("\r", "").replace("\ufeff", "")), min_size=1))
def test_text_lines_are_read_as_written(tmp_path, texts):
    path = tmp_path / "texts.txt"
    path.write_bytes("".join(text + "\n" for text in texts).encode())
    assert texts_of(path, "text") == texts


def test_chunks_say_where_they_begin_and_how_far_the_input_is_read(tmp_path):
    (tmp_path / "texts.txt").write_text("a\nb\nc\nd\ne\n")
    chunks = list(read_chunks(tmp_path / "texts.txt", "text", Selection(), 2))
    assert [(chunk.start, len(chunk.texts), chunk.share) for chunk in chunks] == [(0, 2, 0.4), (2, 2, 0.8), (4, 1, 1.0)]


@pytest.mark.parametrize(("name", "format"), [("a.TXT", "text"), ("a.ndjson", "jsonl"), ("a", "text"), ("-", "text")])
def test_auto_goes_by_the_name(tmp_path, name, format):
    path = STDIN if name == "-" else tmp_path / name
    assert resolve_format("auto", path, SUFFIXES, flag="--format") == format
    assert resolve_format("csv", path, SUFFIXES, flag="--format") == "csv"


def test_a_file_appears_when_it_is_whole_and_not_before(tmp_path):
    path = tmp_path / "out"
    with whole_file(path) as stream:
        stream.write(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"
    assert list(tmp_path.iterdir()) == [path]


def test_a_link_stays_a_link(tmp_path):
    (tmp_path / "real").write_bytes(b"old")
    (tmp_path / "link").symlink_to("real")
    with whole_file(tmp_path / "link") as stream:
        stream.write(b"new")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_bytes() == b"new"


def test_interrupting_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), open_writer(tmp_path / "out.npy", "npy"):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []
