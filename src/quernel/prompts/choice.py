"""Which prompt stands before the texts of an embedding request, by the rules that `EmbeddingRequest` documents."""

from collections.abc import Mapping
from typing import TypeVar

from quernel.errors import InvalidRequestError
from quernel.instructions import find_instruction
from quernel.prompts.templates import DEFAULT_INSTRUCTION, QUERY_PROMPT
from quernel.types import EmbeddingRequest, InputType

P = TypeVar("P", str, str | None)
"""A prompt; `None` for one of which only the name is known."""

FAMILY_PROMPTS: Mapping[str, str] = {
    InputType.QUERY.value: QUERY_PROMPT.format(instruction=DEFAULT_INSTRUCTION),
    InputType.DOCUMENT.value: "",
}
"""The prompts of the official models' files."""


def choose_prompt(request: EmbeddingRequest, prompts: Mapping[str, P], *, default: P = "") -> P:
    """What stands in front of every text of a request.

    Args:
        request: The request.
        prompts: Those of the model's own files, by name. `query` and `document` are those of the input types of these
            names; without them queries have the family's prompt and documents none.
        default: The prompt for texts of which the request says nothing.

    Raises:
        InvalidRequestError: Neither the model nor a task has a prompt of that name.
    """
    name, input_type = request.prompt_name, request.input_type
    if request.instruction is not None:
        return QUERY_PROMPT.format(instruction=request.instruction)
    if name is not None and name not in prompts:
        instruction = _find_sentence(name, input_type, prompts)
        if instruction is not None:
            return QUERY_PROMPT.format(instruction=instruction)
    if input_type is not None:
        return prompts.get(input_type, FAMILY_PROMPTS[input_type])
    return default if name is None else prompts[name]


def _find_sentence(name: str, input_type: InputType | None, prompts: Mapping[str, object]) -> str | None:
    """The instruction that a task of `quernel.instructions` puts before a text; `None` for documents without one."""
    task = find_instruction(name)
    if task is None:
        names = ", ".join(map(repr, prompts)) or "none"
        raise InvalidRequestError(
            f"prompt_name is {name!r}, but the model's prompts are {names}, and no task has that name.",
            param="prompt_name",
            hint="Use one of those names or a task of /v1/instructions, or send an instruction.",
        )
    return task.document if input_type is InputType.DOCUMENT else task.query
