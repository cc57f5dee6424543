"""Tables of TOML files as dataclasses: an unknown or a missing key is an error that names it."""

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from typing import Any, Self

from quernel.errors import SettingsError


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table of the file; its keys are the fields."""

    @classmethod
    def read(cls, raw: Mapping[str, Any], where: str) -> Self:
        """The table under that name.

        Raises:
            SettingsError: A key is missing or unknown.
        """
        known = {field.name: field for field in fields(cls)}
        if unknown := sorted(set(raw) - set(known)):
            raise SettingsError(f"[{where}] holds {unknown[0]}.", param=unknown[0], hint=f"Of {', '.join(known)}.")
        required = [name for name, field in known.items() if field.default is field.default_factory is MISSING]
        if missing := [name for name in required if name not in raw]:
            raise SettingsError(f"[{where}] lacks {missing[0]}.", param=missing[0])
        return cls(**{key: tuple(value) if isinstance(value, list) else value for key, value in raw.items()})
