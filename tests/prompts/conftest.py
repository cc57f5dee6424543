"""Tokenizers, each read once a session."""

from collections.abc import Callable
from functools import cache

import pytest

from quernel.prompts.tokenizer import Tokenizer
from tests.support.tokenizers import OfficialName, official_tokenizer_json, tiny_tokenizer_json

OfficialTokenizers = Callable[[OfficialName], Tokenizer]


@pytest.fixture(scope="session")
def official() -> OfficialTokenizers:
    """The official tokenizers, by the name of their file."""
    return cache(lambda name: Tokenizer.from_json(official_tokenizer_json(name)))


@pytest.fixture(scope="session")
def tiny() -> Tokenizer:
    return Tokenizer.from_json(tiny_tokenizer_json(appends_end=True))
