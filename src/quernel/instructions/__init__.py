"""Instructions by name: the sentences that the family was evaluated with, one for each task of MTEB and BRIGHT.

A request may say `prompt_name: "NFCorpus"` where a model's own files know no such prompt; the sentence then stands
before the text as an `instruction` would. Their spelling mistakes are kept: other words give other vectors.

Source: `task_prompts.json` here says where each comes from (instruction tables in mteb, Apache-2.0, which were copied
from the prompt file of the Qwen3-Embedding evaluation).
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files


@dataclass(frozen=True, slots=True)
class NamedInstruction:
    """What a name stands for.

    Attributes:
        query: The sentence before texts that ask, and before every text of a task that has only one side.
        document: The sentence before texts that answer; `None` for none, as nearly all tasks have it.
    """

    query: str
    document: str | None = None


@cache
def named_instructions() -> Mapping[str, NamedInstruction]:
    """The instructions by name, in the order of their source."""
    text = files(__package__).joinpath("task_prompts.json").read_text(encoding="utf-8")
    return {name: _parse(entry) for name, entry in json.loads(text)["tasks"].items()}


def find_instruction(name: str) -> NamedInstruction | None:
    """The instruction of that name, in any letter case."""
    return _by_folded_name().get(name.casefold())


@cache
def _by_folded_name() -> Mapping[str, NamedInstruction]:
    return {name.casefold(): instruction for name, instruction in named_instructions().items()}


def _parse(entry: str | Mapping[str, str]) -> NamedInstruction:
    return NamedInstruction(entry) if isinstance(entry, str) else NamedInstruction(entry["query"], entry["passage"])
