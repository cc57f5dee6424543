"""The instructions by name."""

import json
from pathlib import Path

import pytest

from quernel.instructions import find_instruction, named_instructions

SOURCE = Path(__file__).parents[2] / "shared/qwen3/task_prompts.json"


def test_a_name_is_found_in_any_case():
    found = find_instruction("nfcorpus")
    assert found is find_instruction("NFCorpus")
    assert found.query == "Given a question, retrieve relevant documents that best answer the question"
    assert found.document is None
    assert find_instruction("no such task") is None


def test_few_tasks_instruct_their_documents():
    assert find_instruction("ArguAna").document == find_instruction("ArguAna").query
    assert sum(task.document is not None for task in named_instructions().values()) == 3


def test_every_instruction_is_a_sentence_and_no_name_means_two():
    for name, task in named_instructions().items():
        assert task.query.strip()
        assert find_instruction(name).query == task.query


@pytest.mark.skipif(not SOURCE.exists(), reason="the published prompts are not beside the project")
def test_they_are_the_published_ones():
    published = json.loads(SOURCE.read_text(encoding="utf-8"))
    for name, entry in published["tasks"].items():
        query = entry if isinstance(entry, str) else entry["query"]
        assert named_instructions()[name].query == query
