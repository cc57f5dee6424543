"""`quernel rerank`."""

import json

import pytest

from tests.cli.conftest import FakeReranker, Run

DOCUMENTS = ["xyz", "abc", "ab", "a"]


def test_a_table_best_first(run: Run, reranker: FakeReranker):
    result = run("rerank", "abc", *DOCUMENTS)
    assert result.exit_code == 0, result.stderr
    assert result.stdout.splitlines() == [
        "RANK   SCORE  INDEX  DOCUMENT",
        "   1  0.9526      1  abc",
        "   2  0.8808      2  ab",
        "   3  0.7311      3  a",
        "   4  0.5000      0  xyz",
    ]


def test_json_has_a_line_for_each_document(run: Run, reranker: FakeReranker):
    result = run("rerank", "abc", "--json", "--top-n", 1, *DOCUMENTS)
    (line,) = [json.loads(line) for line in result.stdout.splitlines()]
    score = pytest.approx(0.9526, abs=1e-4)
    assert line == {"rank": 1, "index": 1, "relevance_score": score, "logit": 3.0, "document": "abc"}


@pytest.mark.parametrize("top_n", [None, 1, 3, 100])
@pytest.mark.parametrize("size", [1, 2, 3, 100])
def test_documents_scored_in_chunks_rank_as_if_scored_at_once(run: Run, reranker: FakeReranker, top_n, size):
    arguments = [] if top_n is None else ["-n", top_n]
    documents = ["ca", "ab", "abc", "x", "bca", "b", "y"]
    whole = run("rerank", "abc", "--json", *arguments, *documents)
    parts = run("rerank", "abc", "--json", *arguments, "--batch-size", size, *documents)
    assert parts.stdout == whole.stdout
    assert max(len(request.documents) for request in reranker.requests[1:]) <= size


def test_documents_of_a_file_with_their_columns(run: Run, reranker: FakeReranker, tmp_path):
    path = tmp_path / "docs.csv"
    path.write_text("id,body\n1,x\n2,abc\n")
    result = run("rerank", "abc", "--documents", path, "--column", "body", "--keep", "id", "--json")
    assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == ["2", "1"]


def test_documents_from_standard_input(run: Run, reranker: FakeReranker):
    run("rerank", "abc", "--instruction", "Say", "--truncate", "start", input="one\ntwo\n")
    (request,) = reranker.requests
    assert (request.documents, request.instruction, request.truncate) == (["one", "two"], "Say", "start")


def test_many_queries_from_a_file(run: Run, reranker: FakeReranker, tmp_path):
    path = tmp_path / "queries.jsonl"
    rows = [{"query": "a", "documents": ["b", "a"]}, {"query": "b", "documents": ["b", "a"]}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    result = run("rerank", "--input", path, "--json", "-n", 1)
    found = [json.loads(line) for line in result.stdout.splitlines()]
    assert [(line["query_index"], line["index"]) for line in found] == [(0, 1), (1, 0)]
    assert run("rerank", "--input", path).stdout.count("RANK") == 2


def test_text_cannot_command_the_terminal(run: Run, reranker: FakeReranker):
    result = run("rerank", "q", "red \x1b[31m\ralert\n" + "x" * 500)
    assert "\x1b" not in result.stdout
    assert "\r" not in result.stdout
    assert len(result.stdout.splitlines()) == 2
    assert max(map(len, result.stdout.splitlines())) <= 80


BROKEN = {
    "no documents": ('{"query": "a"}\n', "line 1: not a query with its documents"),
    "empty documents": ('{"query": "a", "documents": []}\n', "line 1 holds no texts"),
    "numbers": ('{"query": "a", "documents": [1]}\n', "line 1: not a query with its documents"),
    "empty": ("", "holds no queries"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_file_of_queries_is_named(run: Run, reranker: FakeReranker, tmp_path, case):
    content, message = BROKEN[case]
    (tmp_path / "in.jsonl").write_text(content)
    result = run("rerank", "--input", tmp_path / "in.jsonl")
    assert result.exit_code == 1
    assert "in.jsonl" in result.stderr
    assert message in result.stderr
    assert result.stdout == ""


MISUSE = {
    "nothing": ([], "There is no QUERY"),
    "two documents": (["q", "d", "--documents", "-"], "documents on the command line and --documents"),
    "query and input": (["q", "--input", "-"], "--input brings its own"),
    "keep in a table": (["q", "d", "--keep", "id"], "--keep has no place in the table"),
    "reserved column": (["q", "d", "--json", "--keep", "index"], "has a column 'index'"),
    "top_n": (["q", "d", "-n", "0"], "'--top-n'"),
}


@pytest.mark.parametrize("case", MISUSE)
def test_wrong_usage_exits_with_2_and_says_why(run: Run, reranker: FakeReranker, case):
    arguments, message = MISUSE[case]
    result = run("rerank", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_no_documents_at_all(run: Run, reranker: FakeReranker):
    result = run("rerank", "q", input="")
    assert result.exit_code == 1
    assert "standard input holds no texts" in result.stderr
