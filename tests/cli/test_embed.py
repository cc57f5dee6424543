"""`quernel embed`."""

import io
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.cli.conftest import MAX_CHARACTERS, FakeEmbedder, Run, vector_of


def lines(text: str) -> list[dict]:
    return [json.loads(line) for line in text.splitlines()]


def test_each_argument_becomes_one_json_line_and_the_talk_goes_to_stderr(run: Run, embedder: FakeEmbedder):
    result = run("embed", "hello", "world")
    assert result.exit_code == 0
    assert [line["index"] for line in lines(result.stdout)] == [0, 1]
    for line, text in zip(lines(result.stdout), ("hello", "world"), strict=True):
        assert np.array_equal(np.float32(line["embedding"]), vector_of(text))
    assert result.stderr.startswith("2 texts, 10 tokens")
    assert len(result.stderr.splitlines()) == 1, "no progress bar, since this is no terminal"


def test_quiet_says_nothing(run: Run, embedder: FakeEmbedder):
    assert run("embed", "hello", "--quiet").stderr == ""


def test_standard_input_is_one_text_a_line_and_an_empty_line_is_a_text(run: Run, embedder: FakeEmbedder):
    result = run("embed", input="a\n\nb\u2028c\r\nd")
    assert result.exit_code == 0
    assert embedder.requests[0].inputs == ["a", "", "b\u2028c", "d"]


def test_options_become_the_request(run: Run, embedder: FakeEmbedder):
    run("embed", "x", "--query", "--instruction", "Find it", "--dimensions", 4, "--truncate", "end", "--no-normalize")
    (request,) = embedder.requests
    assert (request.input_type, request.instruction, request.dimensions) == ("query", "Find it", 4)
    assert (request.truncate, request.normalize) == ("end", False)


def test_what_is_not_asked_for_is_left_to_the_model(run: Run, embedder: FakeEmbedder):
    run("embed", "x")
    (request,) = embedder.requests
    assert (request.input_type, request.instruction, request.prompt_name, request.normalize) == (None,) * 4


INPUTS = {
    "texts.txt": "one\ntwo\nthree\n",
    "texts.jsonl": '{"text": "one", "id": 7}\n\n{"text": "two", "id": 8}\n"three"\n',
    "texts.csv": 'id,text\n7,one\n8,two\n9,"three"\n',
}


@pytest.mark.parametrize("name", INPUTS)
def test_every_format_is_read_by_its_name(run: Run, embedder: FakeEmbedder, tmp_path: Path, name: str):
    (tmp_path / name).write_text(INPUTS[name])
    assert run("embed", "-i", tmp_path / name).exit_code == 0
    assert embedder.requests[0].inputs == ["one", "two", "three"]


def test_a_byte_order_mark_is_not_text(run: Run, embedder: FakeEmbedder, tmp_path: Path):
    (tmp_path / "texts.csv").write_bytes(b"\xef\xbb\xbftext\none\n")
    assert run("embed", "-i", tmp_path / "texts.csv").exit_code == 0
    assert embedder.requests[0].inputs == ["one"]


def parquet(path: Path, **columns: list) -> Path:
    pq.write_table(pa.table(columns), path)
    return path


def test_parquet_to_parquet_keeps_the_columns_and_adds_lists_of_one_length(
    run: Run, embedder: FakeEmbedder, tmp_path: Path
):
    source = parquet(tmp_path / "in.parquet", id=[1, 2, 3], body=["a", "b", "c"])
    result = run("embed", "-i", source, "--column", "body", "-o", tmp_path / "out.parquet", "--batch-size", 2)
    assert result.exit_code == 0, result.stderr
    assert result.stdout == ""
    table = pq.read_table(tmp_path / "out.parquet")
    assert table.column_names == ["id", "body", "embedding"]
    assert table["id"].to_pylist() == [1, 2, 3]
    assert table.schema.field("embedding").type == pa.list_(pa.float32(), 8)
    assert np.array_equal(np.float32(table["embedding"].to_pylist()), np.stack([vector_of(t) for t in "abc"]))


def test_parquet_of_other_inputs_has_an_index(run: Run, embedder: FakeEmbedder, tmp_path: Path):
    run("embed", "a", "b", "c", "-o", tmp_path / "out.parquet", "--batch-size", 2)
    assert pq.read_table(tmp_path / "out.parquet")["index"].to_pylist() == [0, 1, 2]


def test_npy_has_its_length_in_the_header_whatever_the_number_of_chunks(
    run: Run, embedder: FakeEmbedder, tmp_path: Path
):
    texts = [str(number) for number in range(105)]
    result = run("embed", "-o", tmp_path / "out.npy", "--batch-size", 10, input="\n".join(texts))
    assert result.exit_code == 0, result.stderr
    vectors = np.load(tmp_path / "out.npy")
    assert vectors.dtype == np.float32
    assert np.array_equal(vectors, np.stack([vector_of(text) for text in texts]))


@pytest.mark.parametrize("name", ["in.jsonl", "in.csv", "in.parquet"])
def test_kept_columns_come_along(run: Run, embedder: FakeEmbedder, tmp_path: Path, name: str):
    source = tmp_path / name
    if name == "in.parquet":
        parquet(source, id=["x", "y"], text=["a", "b"])
    else:
        source.write_text(
            '{"id": "x", "text": "a"}\n{"id": "y", "text": "b"}\n' if "json" in name else "id,text\nx,a\ny,b"
        )
    result = run("embed", "-i", source, "--keep", "id")
    assert [line["id"] for line in lines(result.stdout)] == ["x", "y"]


def test_memory_is_bounded_texts_are_read_only_as_they_are_embedded(
    run: Run, embedder: FakeEmbedder, monkeypatch: pytest.MonkeyPatch
):
    """Counts how far the input has been read whenever the model is asked."""
    read = 0

    def endless_input():
        nonlocal read
        for read in range(1, 1001):
            yield f"text {read}\n".encode()

    ahead = []
    monkeypatch.setattr(FakeEmbedder, "embed_sync", _recording(lambda: ahead.append(read)))
    stream = io.BufferedReader(_Lines(endless_input()), buffer_size=16)
    monkeypatch.setattr("quernel.cli.readers.standard_input", lambda: stream)
    result = run("embed", "--batch-size", 10)
    assert result.exit_code == 0, result.stderr
    assert len(ahead) == 100
    # Ten a chunk; a line or two may wait in the buffer.
    assert all(position <= 10 * (number + 1) + 3 for number, position in enumerate(ahead))


def _recording(note):
    original = FakeEmbedder.embed_sync

    def embed_sync(self, request):
        note()
        return original(self, request)

    return embed_sync


class _Lines(io.RawIOBase):
    """A raw stream that makes its lines when they are asked for."""

    def __init__(self, lines):
        self._lines = lines

    def readable(self):
        return True

    def readinto(self, buffer):
        line = next(self._lines, b"")
        buffer[: len(line)] = line
        return len(line)


BROKEN = {
    "bad.txt": (b"fine\nsecond\nb\xffd\n", "line 3: byte 0xff at offset 13 is not UTF-8"),
    "bad.jsonl": (b'{"text": "fine"}\n{"text": \n', "line 2: not JSON"),
    "missing.jsonl": (b'{"text": "fine"}\n{"txt": "x"}\n', "line 2: there is no column 'text'"),
    "number.jsonl": (b'{"text": 5}\n', "line 1: column 'text' is 5, which is not a text"),
    "null.jsonl": (b'{"text": null}\n', "line 1: column 'text' is None, which is not a text"),
    "list.jsonl": (b"[1]\n", "line 1: [1] is neither an object nor a text"),
    "missing.csv": (b"id,body\n1,x\n", "line 2: there is no column 'text'"),
    "short.csv": (b"id,text\n1,x\n2\n", "line 3: the row has 1 fields, the header 2"),
    "quote.csv": (b'id,text\n1,"x\n', "not CSV"),
    "empty.txt": (b"", "holds no texts"),
    "empty.jsonl": (b"\n\n", "holds no texts"),
    "header.csv": (b"id,text\n", "holds no texts"),
    "not.parquet": (b"hello", "is not a Parquet file"),
}


@pytest.mark.parametrize("name", BROKEN)
@pytest.mark.parametrize("batch_size", [1, 100])
def test_a_bad_input_is_named_and_leaves_no_output(
    run: Run, embedder: FakeEmbedder, tmp_path: Path, name: str, batch_size: int
):
    content, message = BROKEN[name]
    folder = tmp_path / "out"
    folder.mkdir()
    (tmp_path / name).write_bytes(content)
    result = run("embed", "-i", tmp_path / name, "-o", folder / "out.jsonl", "--batch-size", batch_size)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: ")
    assert str(tmp_path / name) in result.stderr
    assert message in result.stderr
    assert "Traceback" not in result.stderr
    assert list(folder.iterdir()) == []


@pytest.mark.parametrize("format", ["jsonl", "npy", "parquet"])
def test_a_failure_in_the_middle_leaves_the_old_output_as_it_was(
    run: Run, embedder: FakeEmbedder, tmp_path: Path, format: str
):
    output = tmp_path / f"out.{format}"
    output.write_bytes(b"old")
    source = tmp_path / "in.txt"
    source.write_text("fine\n" * 5 + "x" * (MAX_CHARACTERS + 1) + "\n")
    result = run("embed", "-i", source, "-o", output, "--batch-size", 2)
    assert result.exit_code == 1
    assert f"error: {source}, texts 5 to 6: input 1 has 1001 tokens." in result.stderr
    assert "hint: Set truncate." in result.stderr
    assert output.read_bytes() == b"old"
    assert sorted(tmp_path.iterdir()) == [source, output]


def test_parquet_with_nulls_or_numbers_names_row_and_column(run: Run, embedder: FakeEmbedder, tmp_path: Path):
    result = run("embed", "-i", parquet(tmp_path / "in.parquet", text=["a", "b", None]), "--batch-size", 2)
    assert "in.parquet, row 3: column 'text' is None" in result.stderr
    result = run("embed", "-i", parquet(tmp_path / "in.parquet", text=[1, 2]))
    assert "in.parquet, row 1: column 'text' is 1, which is not a text" in result.stderr
    result = run("embed", "-i", parquet(tmp_path / "in.parquet", body=["a"]))
    assert "there is no column 'text'" in result.stderr
    assert "hint: Columns here: body." in result.stderr


MISUSE = {
    "two inputs": (["x", "--input", "-"], "texts on the command line and an --input"),
    "contradicting types": (["x", "--query", "--input-type", "document"], "--query contradicts"),
    "contradicting formats": (["x", "--json", "--output-format", "npy"], "--json contradicts"),
    "npy to stdout": (["x", "--output-format", "npy"], "npy is written to a file only"),
    "npy with columns": (["x", "--keep", "text", "-o", "out.npy"], "npy holds vectors only"),
    "unknown ending": (["x", "-o", "out.xml"], "The name out.xml does not say its format"),
    "no folder": (["x", "-o", "nowhere/out.npy"], "There is no folder"),
    "parquet from stdin": (["--format", "parquet"], "Parquet cannot be read from standard input"),
    "reserved column": (["x", "--keep", "embedding", "--column", "embedding"], "has a column 'embedding'"),
    "unknown option": (["x", "--dimension", "4"], "No such option '--dimension'"),
    "missing file": (["-i", "nowhere.txt"], "nowhere.txt"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_wrong_usage_exits_with_2_and_says_why(run: Run, embedder: FakeEmbedder, case: str):
    arguments, message = MISUSE[case]
    result = run("embed", *arguments, input="")
    assert result.exit_code == 2, result.stderr
    assert result.stderr.startswith("error: ")
    assert message in result.stderr
    assert result.stdout == ""


def test_without_pyarrow_parquet_says_what_to_install(
    run: Run, embedder: FakeEmbedder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    result = run("embed", "x", "-o", tmp_path / "out.parquet")
    assert result.exit_code == 2
    assert "hint: pip install 'quernel[parquet]'" in result.stderr


def test_a_column_that_changes_its_type_cannot_become_parquet(run: Run, embedder: FakeEmbedder, tmp_path: Path):
    (tmp_path / "in.jsonl").write_text('{"text": "a", "id": 1}\n{"text": "b", "id": "x"}\n')
    for size in (1, 2):
        result = run(
            "embed", "-i", tmp_path / "in.jsonl", "--keep", "id", "-o", tmp_path / "out.parquet", "--batch-size", size
        )
        assert result.exit_code == 1
        assert "Column 'id' holds values of more than one type" in result.stderr
        assert not (tmp_path / "out.parquet").exists()


def test_output_may_be_a_device(run: Run, embedder: FakeEmbedder):
    assert run("embed", "x", "-o", os.devnull, "--json").exit_code == 0
    assert not Path(os.devnull).is_file()
