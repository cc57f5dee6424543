"""Texts for properties: everything that tokenizers, normalisers and templates have been known to trip over."""

from hypothesis import settings
from hypothesis import strategies as st

from tests.support.tokenizers import OFFICIAL_ADDED_TOKENS

unhurried = settings(deadline=None)
"""For machines that do other things at the same time."""

_ODDITIES = (
    " ",
    "  ",
    "\n",
    "\r\n",
    "\n\n",
    "\t",
    "\u00a0",
    "\u2028",
    "\u3000",
    ":",
    "?",
    "?\n",
    "'s",
    "\u0301",
    "\u0338",
    "e\u0301",
    "\u212b",
    "\u0958",
    "\u1100\u1161",
    "ﬁ",
    "中文",
    "ไทย",
    "🤷🏽‍♀️",
    "Query:",
    "\nQuery:",
    "<Query>:",
    "\n<Document>: ",
    "{text}",
    "{}",
    "What",
    " is",
    "7",
)


def _names_no_token(text: str) -> bool:
    return not any(token in text for token in OFFICIAL_ADDED_TOKENS)


texts = st.lists(
    st.sampled_from(_ODDITIES) | st.sampled_from(OFFICIAL_ADDED_TOKENS) | st.text(max_size=8), max_size=8
).map("".join)
"""Odd Unicode with token strings among it."""

plain_texts = (
    st.lists(st.sampled_from(_ODDITIES) | st.text(max_size=8), max_size=8).map("".join).filter(_names_no_token)
)
"""Odd Unicode without token strings. Hypothesis finds those in our sources and tries them, hence the filter."""
