"""The cards of models that an operator adds: a folder of TOML files, read and checked at the start.

    name = "openai/text-embedding-3-small"
    license = "proprietary"

    [page]
    title = "text-embedding-3-small"
    summary = "OpenAI's small embedding model."

`quernel.catalog.page` has what a page may say.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

from quernel.catalog.card import WrittenCard
from quernel.catalog.tables import read_table
from quernel.errors import SettingsError

PATTERN = "*.toml"


def load_written_cards(folder: Path, names: Sequence[str]) -> Mapping[str, WrittenCard]:
    """The cards of a folder, by the names of their models in small letters.

    Args:
        folder: Where they are.
        names: The models that may have one.

    Raises:
        SettingsError: No such folder, no card in it, one that cannot be read, of another model, or the second of one.
    """
    files = sorted(folder.glob(PATTERN))
    if not files:
        raise SettingsError(f"cards is {folder}, where no {PATTERN} is.", param="cards", hint="Name a folder of cards.")
    known = {name.lower() for name in names}
    found: dict[str, tuple[Path, WrittenCard]] = {}
    for file in files:
        card = read_table(file, WrittenCard)
        name = card.name.lower()
        if name not in known:
            hint = f"It has {', '.join(names)}." if names else "It has none."
            raise SettingsError(f"{file}: {card.name} is no model of [[catalogue]].", param="name", hint=hint)
        if name in found:
            raise SettingsError(f"{file} and {found[name][0]} are both of {card.name}.", param="name")
        found[name] = file, card
    return {name: card for name, (_, card) in found.items()}
