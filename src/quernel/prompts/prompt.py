"""A rendered prompt: what the layers below the text see of it."""

from dataclasses import dataclass

from quernel.types import TokenPath


@dataclass(frozen=True, slots=True)
class Prompt:
    """One text, or one query with one document, ready for the engine.

    Attributes:
        path: Its token ids, divided where other prompts may share the computation.
        truncated: Whether something of the caller's text was dropped to make it fit.
    """

    path: TokenPath
    truncated: bool

    @property
    def num_tokens(self) -> int:
        """Tokens the model reads: template, text and end token."""
        return sum(len(run) for run in self.path)
