import json

from quernel.evaluate.report import render_markdown, write_report
from quernel.evaluate.run import Settings, evaluate_embedding
from quernel.evaluate.tasks import find_tasks, read_task
from quernel.protocols.vectors import OutputDtype
from tests.evaluate.conftest import WordModel


def results_of(retrieval, *models):
    task = read_task(find_tasks(retrieval)[0])
    settings = Settings(dimensions=(16, 4), dtypes=(OutputDtype.FLOAT, OutputDtype.INT8))
    return [result for model in models for result in evaluate_embedding(model, task, settings)[0]]


def test_a_report_says_all_and_compares_with_the_first(retrieval):
    text = render_markdown(results_of(retrieval, WordModel(), WordModel("other", 500.0)), command="quernel evaluate x")
    assert "## pets" in text
    assert "| words | 16 | float |" in text
    assert "| other | 4 | int8 |" in text
    assert "other against words, nDCG@10:" in text
    assert "which may be chance" in text  # of two queries nothing can be said
    assert "`quernel evaluate x`" in text


def test_files_are_written(retrieval, tmp_path):
    results = results_of(retrieval, WordModel(), WordModel("other", 500.0))
    written = write_report(tmp_path / "report", results, command="quernel evaluate", plots=True)
    assert {path.name for path in written} == {
        "report.md", "results.json", "quality-by-dimension.svg", "quality-by-speed.svg",
    }  # fmt: skip
    assert all(path.stat().st_size > 100 for path in written)
    assert "](quality-by-dimension.svg)" in written[0].read_text()
    data = json.loads((tmp_path / "report/results.json").read_text())
    assert data["results"][0]["figures"][0]["items"] == {"a": 1.0, "b": 0.6309297535714575}


def test_one_point_is_no_picture(retrieval, tmp_path):
    task = read_task(find_tasks(retrieval)[0])
    results, _ = evaluate_embedding(WordModel(), task, Settings())
    assert len(write_report(tmp_path, results, command="", plots=True)) == 2
