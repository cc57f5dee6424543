"""What is particular about a provider's endpoint, beyond the wire format that it speaks."""

from collections.abc import Mapping
from difflib import get_close_matches
from typing import Literal, TypeAlias

import msgspec
from msgspec import Struct

from quernel.errors import SettingsError

Prompts: TypeAlias = Literal["fields", "text", "none"]
"""How an endpoint is told what a text is: in fields of the format, by the family's prompt around it, or not at all."""


class Options(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is particular about an endpoint.

    Attributes:
        prompts: How it is told what a text is; by default as is usual with its format.
        instruction_field: Whether it reads a field `instruction` that its format does not have, as vLLM does.
        token_ids: Whether it takes token ids, and means by them what the model does.
        base64: Whether it can write vectors as base64.
        cuts_dimensions: Whether it gives shorter vectors when asked. Otherwise they are cut here.
        matryoshka: Whether the model's vectors may be cut at all.
        scales: Whether vectors are scaled to length 1 here where the request leaves that open.
        cuts_long_texts: Whether it cuts texts that are too long at their end without being told to, or saying so.
        raw_scores: Whether its scores are logits.
        key_header: The header that has the key, alone; by default `authorization`, after `Bearer`.
    """

    prompts: Prompts | None = None
    instruction_field: bool = False
    token_ids: bool = False
    base64: bool = True
    cuts_dimensions: bool = True
    matryoshka: bool = True
    scales: bool = False
    cuts_long_texts: bool = False
    raw_scores: bool = False
    key_header: str | None = None


def parse_options(options: Mapping[str, object]) -> Options:
    """The options of an endpoint, from a table of the configuration.

    Raises:
        SettingsError: One that is not known, or has a wrong value.
    """
    for name in options:
        if name not in Options.__struct_fields__:
            near = get_close_matches(name, Options.__struct_fields__, n=1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(Options.__struct_fields__)}."
            raise SettingsError(f"Unknown option {name!r}.", param="options", hint=hint)
    try:
        return msgspec.convert(dict(options), Options)
    except msgspec.ValidationError as error:
        raise SettingsError(f"options: {error}.", param="options") from error
