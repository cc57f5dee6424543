"""Texts to try the playground with, where a visitor has none at hand."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

OWN = "own"
"""The name of the sample that a model's card has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """A query with texts, some of which answer it.

    Attributes:
        name: What it is called in addresses.
        title: What its button says.
        query: What is asked.
        instruction: The task; empty for the model's own.
        texts: What is compared with it.
    """

    name: str
    title: str
    query: str
    instruction: str = ""
    texts: tuple[str, ...]

    def fields(self) -> dict[str, Any]:
        """The fields of the form that it fills in."""
        return {**asdict(self), "texts": join_texts(self.texts)}


def split_texts(content: str) -> list[str]:
    """The texts of a field: one on each line; where lines are empty, what is between those."""
    lines = content.replace("\r\n", "\n").replace("\r", "\n").split("\n")
    first = next((index for index, line in enumerate(lines) if line.strip()), len(lines))
    last = max((index for index, line in enumerate(lines) if line.strip()), default=-1)
    kept = lines[first : last + 1]
    if all(line.strip() for line in kept):
        return [line.strip() for line in kept]
    found: list[list[str]] = [[]]
    for line in kept:
        if line.strip():
            found[-1].append(line.rstrip())
        elif found[-1]:
            found.append([])
    return ["\n".join(lines) for lines in found]


def join_texts(texts: tuple[str, ...]) -> str:
    """Texts as `split_texts` reads them."""
    return ("\n\n" if any("\n" in text for text in texts) else "\n").join(texts)


def samples_of(card: Mapping[str, Any]) -> tuple[Sample, ...]:
    """What to try a model with: what its card has, and what all have."""
    given = card["samples"]
    texts = tuple(text["text"] for text in given["texts"])
    if not texts:
        return SAMPLES
    return (Sample(name=OWN, title="For this model", query=given["query"] or "", texts=texts), *SAMPLES)


SAMPLES = (
    Sample(
        name="languages",
        title="Six languages",
        query="When does the library open on Sundays?",
        texts=(
            "The library opens at ten on Sundays.",
            "Die Bibliothek öffnet sonntags um zehn Uhr.",
            "La biblioteca abre los domingos a las diez.",
            "图书馆星期日十点开门。",
            "تفتح المكتبة أبوابها يوم الأحد في الساعة العاشرة.",
            "पुस्तकालय रविवार को दस बजे खुलता है।",
            "Add a pinch of salt to the dough.",
            "Ajoutez une pincée de sel à la pâte.",
            "新しい駅は来年の春に完成する予定です。",
        ),
    ),
    Sample(
        name="help",
        title="Help desk",
        query="I can't get into my account any more",
        instruction="Given a customer's message, retrieve the help article that answers it",
        texts=(
            "Invoices of all your orders can be downloaded as PDF.",
            "Change your delivery address under Settings until the parcel has left us.",
            'Choose "Forgot password" on the sign-in page and follow the link in the e-mail.',
            "Refunds arrive within five working days on the card that you paid with.",
            "If you have lost the phone for two-step sign-in, use one of your recovery codes.",
            "Close your account under Settings, Privacy. Your data is deleted after thirty days.",
        ),
    ),
    Sample(
        name="code",
        title="Code",
        query="remove duplicates but keep the order",
        instruction="Given a question about code, retrieve code that answers it",
        texts=(
            "items.sort(key=len, reverse=True)",
            "return list(dict.fromkeys(items))",
            "const unique = [...new Set(items)];",
            "let total: u64 = items.iter().sum();",
            "SELECT email, count(*) FROM users GROUP BY email HAVING count(*) > 1;",
            "for i := len(s) - 1; i >= 0; i-- { reversed = append(reversed, s[i]) }",
        ),
    ),
    Sample(
        name="paraphrases",
        title="Same question",
        query="How can I learn to cook?",
        instruction="Retrieve questions that ask the same",
        texts=(
            "How can I learn to code?",
            "What is the best way to pick up cooking?",
            "How long does rice have to cook?",
            "I'd like to make my own meals. Where do I start?",
            "How can I learn to drive?",
            "Where do professional cooks learn their trade?",
        ),
    ),
    Sample(
        name="details",
        title="Near misses",
        query="hotels where dogs are allowed",
        texts=(
            "Our bar serves hot dogs until midnight.",
            "Please understand that we cannot accept dogs.",
            "Four-legged friends sleep in your room at no charge.",
            "Cats may stay with you; dogs are not admitted.",
            "Every room has a balcony over the lake.",
            "Well-behaved dogs are welcome in the garden wing.",
        ),
    ),
)
"""What every model can be tried with."""
