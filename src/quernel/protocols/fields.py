"""Fields that several wire formats share: how a cut is asked for, how tokens are reported, what is ignored."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Annotated, Any, Literal, TypeVar

from msgspec import Meta, Struct, field

from quernel.errors import EmptyInputError, InvalidRequestError, TokenIdRangeError
from quernel.protocols.provider_options import ProviderOptions, decode_routing
from quernel.protocols.vectors import VectorEncoding
from quernel.types import EmbeddingInput, Truncate

T = TypeVar("T")

MAX_INPUTS = 2048
"""Texts in one embedding request. OpenAI's own limit, to which its clients cut their batches."""

MAX_TOKEN_ID = 2**32 - 1
"""Largest id that can be any model's; the model has its own, smaller, limit."""

CHANGES_NOTHING = "Accepted because clients send it; changes nothing."
Ignored = Annotated[Any, Meta(description=CHANGES_NOTHING)]

ModelName = Annotated[
    str | None,
    Meta(
        description="A name of `/v1/models`, in any letter case, or its last part alone. `default`, or nothing: the "
        "first model of the right kind.",
        examples=["default"],
    ),
]
DimensionsField = Annotated[
    int | None, Meta(description="Length of the vectors, from 32 to the model's own, which is the default.")
]
EncodingFormat = Annotated[
    VectorEncoding | None,
    Meta(description="JSON numbers (`float`, the default) or base64 of the little-endian bytes (`base64`)."),
]
TruncateField = Annotated[
    Truncate | bool | None,
    Meta(
        description="What happens to a text that is longer than the model reads: refuse it (`error`, the default; "
        "`false`), drop its end (`end`; `true`) or its start (`start`)."
    ),
]
TruncateAlias = Annotated[Truncate | bool | None, Meta(description="Another name of `truncate`.")]


PromptName = Annotated[
    str | None, Meta(description="A prompt named in the model's own files, or a task of `/v1/instructions`.")
]
TruncatePromptTokens = Annotated[
    Literal[-1] | None,
    Meta(description="vLLM's word for `truncate`: -1 drops the end of a text that is longer than the model reads."),
]


RoutingField = Annotated[
    Any, Meta(description="Where a gateway may send the request, and for whom it is. A server without one ignores it.")
]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingFields:
    """What a body says to a gateway, as it is written: a server that is none does not read it.

    Attributes:
        provider_options: `providerOptions`, as the AI SDK has it.
        provider: `provider`, as OpenRouter has it.
        user: For whom the caller asks.
    """

    provider_options: Any = None
    provider: Any = None
    user: Any = None

    def decode(self) -> ProviderOptions:
        """What it says.

        Raises:
            InvalidRequestError: It cannot be read.
        """
        for name, value in (("providerOptions", self.provider_options), ("provider", self.provider)):
            if value is not None and not isinstance(value, dict):
                raise InvalidRequestError(f"{name} is no object.", param=name)
        options = decode_routing(self.provider_options, self.provider)
        if options.user is None and isinstance(self.user, str):
            return replace(options, user=self.user)
        return options


class RequestBody(Struct, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """What the bodies of embedding and rerank requests share. A field that is not declared is an error, not ignored."""

    model: ModelName = None
    instruction: Annotated[
        str | None,
        Meta(description="The task as one sentence, best in English; what it says is put before every query."),
    ] = None
    truncate: TruncateField = None
    truncate_sequence: TruncateAlias = None
    truncate_prompt_tokens: TruncatePromptTokens = None
    user: Annotated[Any, Meta(description="For whom the caller asks; a gateway files usage under it.")] = None
    metadata: Ignored = None
    priority: Ignored = None
    request_id: Ignored = None
    provider: RoutingField = None
    provider_options: RoutingField = field(default=None, name="providerOptions")

    @property
    def routing(self) -> RoutingFields:
        """What it says to a gateway."""
        return RoutingFields(provider_options=self.provider_options, provider=self.provider, user=self.user)


class TextBody(Struct, forbid_unknown_fields=True):
    """A text as an object."""

    text: str


WireInputs = str | list[str | int | list[int] | TextBody]
"""Texts as vendors have them: one, several, the ids of one, the ids of several; and objects that hold a text."""

JSON_NAMES = {str: "a string", int: "an integer", list: "an array"}


class Usage(Struct, kw_only=True, frozen=True):
    """Tokens that the model read: prompts, texts and end tokens."""

    prompt_tokens: int = 0
    total_tokens: int = 0


TokensPerInput = Annotated[
    list[int] | None, Meta(description="Tokens read for each text of the request, in its order.")
]
CutInputs = Annotated[list[int], Meta(description="Positions of the texts that were cut; absent if none was.")]


ProviderMetadata = Annotated[
    dict[str, dict[str, Any]] | None,
    Meta(description="How a gateway answered: under `gateway`, which provider, at what cost, what was tried."),
]


def encode_metadata(metadata: Mapping[str, Any] | None) -> dict[str, Any]:
    """The field of a reply that says how a gateway answered; nothing of a server that is none."""
    return {} if metadata is None else {"providerMetadata": {"gateway": metadata}}


def decode_truncate(**spellings: Truncate | bool | None) -> Truncate:
    """What to do with long texts, from the field and its other names; `ERROR` where none is given.

    Raises:
        InvalidRequestError: Two names say different things.
    """
    return decode_alias(**{name: _meaning(value) for name, value in spellings.items()}) or Truncate.ERROR


def decode_truncate_prompt_tokens(number: Literal[-1] | None) -> Truncate | None:
    """What vLLM's field says of long texts."""
    return None if number is None else Truncate.END


def _meaning(value: Truncate | bool | None) -> Truncate | None:
    if isinstance(value, bool):
        return Truncate.END if value else Truncate.ERROR
    return value


def decode_alias(**spellings: T | None) -> T | None:
    """What a field and its other names say; `None` where none is given.

    Raises:
        InvalidRequestError: Two names say different things.
    """
    said = {name: value for name, value in spellings.items() if value is not None}
    if len(set(said.values())) > 1:
        contradiction = " but ".join(f"{name} says {value}" for name, value in said.items())
        raise InvalidRequestError(f"{contradiction}.", param=next(reversed(said)), hint="Send one of them.")
    return next(iter(said.values()), None)


def decode_inputs(wire: WireInputs, field: str) -> Sequence[EmbeddingInput]:
    """The texts of a field, whichever of its forms it has.

    Raises:
        EmptyInputError: There are none.
        InvalidRequestError: A mixed or too long list.
        TokenIdRangeError: An id that no model can have.
    """
    if isinstance(wire, str):
        return [wire]
    elements = [element.text if isinstance(element, TextBody) else element for element in wire]
    expected = type(elements[0]) if elements else str
    for index, element in enumerate(elements):
        if type(element) is not expected:
            raise InvalidRequestError(
                f"{field}[{index}] is {JSON_NAMES[type(element)]}, but {field}[0] is {JSON_NAMES[expected]}.",
                param=f"{field}[{index}]",
                hint="Send texts alone, or token ids alone.",
            )
    inputs: list[Any] = [elements] if expected is int else elements
    check_count(len(inputs), field)
    if expected is not str:
        _check_ids(inputs, field)
    return inputs


def check_count(count: int, field: str) -> None:
    """Refuse a list of texts that is empty or too long.

    Raises:
        EmptyInputError: It is empty.
        InvalidRequestError: It is longer than a request takes.
    """
    if not count:
        raise EmptyInputError(
            f"{field} holds no texts.", param=field, hint="Send at least one text; an empty string is allowed."
        )
    if count > MAX_INPUTS:
        raise InvalidRequestError(
            f"{field} holds {count} texts, but a request takes {MAX_INPUTS}.",
            param=field,
            hint="Send them in several requests.",
        )


def _check_ids(rows: Sequence[Sequence[int]], field: str) -> None:
    for index, ids in enumerate(rows):
        if ids and (min(ids) < 0 or max(ids) > MAX_TOKEN_ID):
            wrong = next(token for token in ids if not 0 <= token <= MAX_TOKEN_ID)
            raise TokenIdRangeError(f"{field}[{index}] holds {wrong}, which is no token id.", param=field)


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
    total: int, num_tokens: Sequence[int] | None, truncated: Sequence[int], count: int
) -> tuple[tuple[int, ...], tuple[bool, ...]]:
    """Tokens of each of `count` texts, and whether each was cut.

    A server that only reports a total has it spread evenly, so that the sum is right and the shares are a guess.
    """
    if num_tokens is None:
        share, rest = divmod(total, count) if count else (0, 0)
        num_tokens = [share + (index < rest) for index in range(count)]
    return tuple(num_tokens), tuple(index in truncated for index in range(count))
