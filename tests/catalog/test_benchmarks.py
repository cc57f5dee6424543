"""What is measured of the built-in pair is read from its READMEs."""

import re

import pytest

from quernel.catalog.benchmarks import benchmark_tables, parse_measured
from quernel.catalog.catalog import builtin_folder, load_builtin_cards

README = """# small

**Not a result**

| a |
| --- |
| 1 |

## How good it is

`measure --data DIR`, on
a CPU.

More of it.

**Retrieval, nDCG@10**

| set | queries | BM25 | small | + small | 64 | gain |
| --- | ---: | ---: | ---: | ---: | ---: | ---: |
| cranfield | 25 | 0.344 | 0.300 (0.280 to 0.320) | 0.31 | 0.1 | +0.010 (-0.010 to +0.030) |
| npl | 25 | 1.000 | 0.302 (0.282 to 0.322) | 0.32 |  | +0.018 (-0.002 to +0.038) |

**Similarity, Spearman**

| en | de |
| ---: | ---: |
| 0.717 | 0.635 |

**Similarity next to another, Spearman**

| model | en | de |
| --- | ---: | ---: |
| small | 0.717 | 0.635 |
| large | 0.817 | 0.735 |

## Training

**Neither is this**

| b |
| --- |
| 2 |
"""


def test_data_sets_become_measures_and_columns_become_models():
    retrieval, similarity, beside = parse_measured(README, "small")
    assert (retrieval.title, retrieval.measures) == ("Retrieval, nDCG@10", ("cranfield", "npl"))
    assert [(row.model, row.scores, row.is_this) for row in retrieval.rows] == [
        ("BM25", (34.4, 100.0), False),
        ("small", (30.0, 30.2), True),
        ("+ small", (31.0, 32.0), True),
        ("64 dimensions", (10.0, None), False),
    ]
    assert (similarity.measures, similarity.rows[0].model, similarity.rows[0].scores) == (
        ("en", "de"),
        "small",
        (71.7, 63.5),
    )
    assert beside.measures == ("en", "de")
    assert [(row.model, row.scores, row.is_this) for row in beside.rows] == [
        ("small", (71.7, 63.5), True),
        ("large", (81.7, 73.5), False),
    ]
    assert {table.note for table in (retrieval, similarity)} == {"`measure --data DIR`, on a CPU."}
    assert retrieval.id != similarity.id


@pytest.mark.parametrize("readme", ["", "# small\n\nNothing was measured.\n", "## How good it is\n\nGood.\n"])
def test_where_nothing_was_measured_there_is_no_table(readme):
    assert list(parse_measured(readme, "small")) == []


def test_a_model_without_numbers_has_no_table():
    assert benchmark_tables("openai/text-embedding-3-small") == ()


@pytest.mark.parametrize("card", load_builtin_cards(), ids=lambda card: card.name)
def test_every_table_of_a_built_in_model_is_shown(card):
    text = (builtin_folder(card.name) / "README.md").read_text(encoding="utf-8")
    measured = text.partition("## How good it is")[2].partition("\n## ")[0]
    tables = benchmark_tables(card.name)
    assert [table.title for table in tables] == re.findall(r"^\*\*(.+)\*\*$", measured, re.MULTILINE)
    assert any(row.is_this for row in tables[0].rows)
    scores = [score for table in tables for row in table.rows for score in row.scores]
    cells = re.findall(r"\| (\d\.\d{3})(?: \([^|]*\))?(?= \|)", measured)
    shown = [score for score in scores if score is not None]
    assert sorted(shown) == sorted(round(float(cell) * 100, 2) for cell in cells)
