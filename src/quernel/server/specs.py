"""A model to serve, from a table: one of `[[models]]` in the settings file, or the body of `/v1/models/load`."""

from collections.abc import Mapping
from typing import Any

from quernel.errors import SettingsError
from quernel.server.models import ModelSpec, RequestDefaults
from quernel.types import ModelKind

SPEC_KEYS: Mapping[str, type] = {
    "model": str,
    "kind": str,
    "name": str,
    "aliases": list,
    "instruction": str,
    "prompt_name": str,
    "dimensions": int,
}
"""Keys that are the server's business, with their types; all others say how to load the model."""

TYPE_NAMES: Mapping[type, str] = {str: "a text", list: "a list of texts", int: "a whole number"}

AUTO = "auto"
"""mistral.rs's word for a kind that is to be found out."""


def parse_spec(table: Mapping[str, Any], *, place: str) -> ModelSpec:
    """The model that a table describes.

    Args:
        table: Its keys. Those that are not of `SPEC_KEYS` are passed on to whoever loads the model.
        place: Where it stands, for messages.

    Raises:
        SettingsError: `model` is missing, or a value is wrong.
    """
    for key, expected in SPEC_KEYS.items():
        value = table.get(key)
        is_wrong = value is not None and (not isinstance(value, expected) or isinstance(value, bool))
        if is_wrong or (expected is list and any(not isinstance(one, str) for one in value or ())):
            raise SettingsError(f"{place}: {key} is {value!r}, which is not {TYPE_NAMES[expected]}.", param=key)
    if not table.get("model"):
        raise SettingsError(f"{place}: model is missing.", param="model", hint='Write model = "NAME".')
    kind = table.get("kind")
    kinds = [kind.value for kind in ModelKind]
    if kind not in (None, AUTO, *kinds):
        raise SettingsError(f"{place}: kind is {kind!r}.", param="kind", hint=f"One of {', '.join(kinds)}, {AUTO}.")
    return ModelSpec(
        source=table["model"],
        kind=None if kind in (None, AUTO) else ModelKind(kind),
        name=table.get("name"),
        aliases=tuple(table.get("aliases") or ()),
        defaults=RequestDefaults(
            instruction=table.get("instruction"),
            prompt_name=table.get("prompt_name"),
            dimensions=table.get("dimensions"),
        ),
        options={key: value for key, value in table.items() if key not in SPEC_KEYS},
    )
