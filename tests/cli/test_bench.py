import json

from quernel.benchmarking import WORKLOADS
from quernel.cli import bench
from tests.support.checkpoints import make_checkpoint


def test_the_spelled_workloads_are_those_there_are():
    assert tuple(WORKLOADS) == bench.WORKLOADS


def test_own_texts_give_a_line_and_json(run, tmp_path):
    folder = make_checkpoint(tmp_path / "an-embedder")
    texts = tmp_path / "texts.txt"
    texts.write_text("one\nanother\n")
    result = run("bench", folder, "--texts", texts, "--repetitions", "1")
    assert result.exit_code == 0, result.stderr
    assert "TOKENS/S" in result.stdout
    assert "texts.txt" in result.stdout
    result = run("bench", folder, "--texts", texts, "--repetitions", "2", "--json", "--quiet")
    (line,) = result.stdout.splitlines()
    measured = json.loads(line)
    assert measured["num_texts"] == 2
    assert len(measured["seconds"]) == 2
    assert measured["tokens_per_second"] > 0


def test_a_workload_for_the_other_kind_is_refused(run, tmp_path):
    folder = make_checkpoint(tmp_path / "an-embedder")
    result = run("bench", folder, "--workload", "rerank")
    assert result.exit_code == 1
    assert "for a model of kind reranker" in result.stderr
