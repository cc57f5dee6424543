"""Fields that several wire formats share: how a cut is asked for, how tokens are reported, what is ignored."""

from collections.abc import Sequence
from typing import Annotated, Any

from msgspec import Meta, Struct

from quernel.errors import InvalidRequestError
from quernel.types import Truncate

Ignored = Annotated[Any, Meta(description="Accepted because clients send it; changes nothing.")]

ModelName = Annotated[
    str | None,
    Meta(
        description="A name of `/v1/models`, in any letter case, or its last part alone. `default`, or nothing: the "
        "first model of the right kind.",
        examples=["default"],
    ),
]
TruncateField = Annotated[
    Truncate | bool | None,
    Meta(
        description="What happens to a text that is longer than the model reads: refuse it (`error`, the default; "
        "`false`), drop its end (`end`; `true`) or its start (`start`)."
    ),
]
TruncateAlias = Annotated[Truncate | bool | None, Meta(description="Another name of `truncate`.")]


class RequestBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the bodies of embedding and rerank requests share. A field that is not declared is an error, not ignored."""

    model: ModelName = None
    instruction: Annotated[
        str | None,
        Meta(description="The task as one sentence, best in English; what it says is put before every query."),
    ] = None
    truncate: TruncateField = None
    truncate_sequence: TruncateAlias = None
    user: Ignored = None
    metadata: Ignored = None
    priority: Ignored = None
    request_id: Ignored = None


class Usage(Struct, kw_only=True, frozen=True):
    """Tokens that the model read: prompts, texts and end tokens."""

    prompt_tokens: int = 0
    total_tokens: int = 0


TokensPerInput = Annotated[
    list[int] | None, Meta(description="Tokens read for each text of the request, in its order.")
]
CutInputs = Annotated[list[int], Meta(description="Positions of the texts that were cut; absent if none was.")]


def decode_truncate(**spellings: Truncate | bool | None) -> Truncate:
    """What to do with long texts, from the field and its other names; `ERROR` where none is given.

    Raises:
        InvalidRequestError: Two names say different things.
    """
    meanings = {name: _meaning(value) for name, value in spellings.items() if value is not None}
    if len(set(meanings.values())) > 1:
        said = " but ".join(f"{name} says {meaning}" for name, meaning in meanings.items())
        raise InvalidRequestError(f"{said}.", param=next(reversed(meanings)), hint="Send one of them.")
    return next(iter(meanings.values()), Truncate.ERROR)


def _meaning(value: Truncate | bool) -> Truncate:
    if isinstance(value, bool):
        return Truncate.END if value else Truncate.ERROR
    return value


def encode_tokens(num_tokens: Sequence[int], truncated: Sequence[bool]) -> dict[str, Any]:
    """The fields of a reply that say what was read: `usage`, `num_tokens` and, if anything was cut, `truncated`."""
    total = sum(num_tokens)
    fields: dict[str, Any] = {
        "usage": {"prompt_tokens": total, "total_tokens": total},
        "num_tokens": list(num_tokens),
    }
    cut = [index for index, was_cut in enumerate(truncated) if was_cut]
    return fields | {"truncated": cut} if cut else fields


def decode_tokens(
    usage: Usage, num_tokens: Sequence[int] | None, truncated: Sequence[int], count: int
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Tokens of each of `count` texts, and whether each was cut.

    A server that only reports a total has it spread evenly, so that the sum is right and the shares are a guess.
    """
    if num_tokens is None:
        share, rest = divmod(usage.total_tokens, count) if count else (0, 0)
        num_tokens = [share + (index < rest) for index in range(count)]
    return tuple(num_tokens), tuple(index in truncated for index in range(count))
