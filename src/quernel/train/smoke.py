"""Generated data and small settings, with which the whole pipeline runs in half a minute and shows that it runs."""

import gzip
import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

from quernel.train.pair_settings import PairSettings
from quernel.train.sources import SUFFIX

_SYLLABLES = ("ba", "do", "ki", "lu", "me", "no", "ra", "si", "tu", "ve", "wo", "zy", "gan", "pel", "dor", "mis")
_NUM_ROWS = 240
_NUM_TOPICS = 30
_TASK = "Given a question, retrieve passages that answer the question"


def write_smoke_data(folder: Path, *, seed: int = 0) -> None:
    """Writes four sources of made-up words: two of questions, one of translations, one of judged similarities."""
    rng = random.Random(seed)
    topics = [["".join(rng.choices(_SYLLABLES, k=rng.randint(2, 3))) for _ in range(12)] for _ in range(_NUM_TOPICS)]

    def text(topic: int, length: int) -> str:
        return " ".join(rng.choices(topics[topic], k=length))

    def pair(index: int) -> dict[str, Any]:
        topic = index % _NUM_TOPICS
        return {"task": _TASK, "query": text(topic, 4) + "?", "pos": text(topic, 60) + ".", "lang": "en"}

    def translation(index: int) -> dict[str, Any]:
        english = text(index % _NUM_TOPICS, 8)
        return {
            "type": "bitext",
            "task": "Retrieve the translation",
            "query": english[::-1],
            "pos": english,
            "lang": "xx-en",
        }

    def judged(index: int) -> dict[str, Any]:
        topic, other = index % _NUM_TOPICS, rng.randrange(_NUM_TOPICS)
        return {"type": "sts", "s1": text(topic, 6), "s2": text(other, 6), "score": float(topic == other), "lang": "en"}

    folder.mkdir(parents=True, exist_ok=True)
    kinds = {
        "textbook_openstax": pair,
        "qa_en_medquad": pair,
        "bitext_tatoeba_small": translation,
        "sts_train": judged,
    }
    for name, make in kinds.items():
        with gzip.open(folder / f"{name}{SUFFIX}", "wt", encoding="utf-8") as lines:
            lines.writelines(json.dumps(make(index)) + "\n" for index in range(_NUM_ROWS))


def smoke_settings(settings: PairSettings) -> PairSettings:
    """The given settings, cut to a few small steps of smaller models."""
    stage = {"steps": 2, "batch": 16, "sources": 2, "save_every": 1}
    rates = {"embed_tokens": 0.0, "layers.": 0.0, "norm": 0.0, "layers.4.mlp.": 1e-3}  # the last layer's, of fewer
    runs = tuple(
        replace(run, steps=4, blocks=2, pairs=32, max_document_tokens=64, only=()) for run in settings.table.runs
    )
    return replace(
        settings,
        shape=replace(settings.shape, vocab_size=1024),
        text=replace(settings.text, vocabulary_characters=2_000_000),
        table=replace(settings.table, taught=16, judged=16, runs=runs),
        layers=replace(
            settings.layers,
            count=1,
            model={},
            stages=tuple({**one, **stage, "rates": {}} for one in settings.layers.stages[:1]),
        ),
        reranker=replace(
            settings.reranker,
            mined=replace(settings.reranker.mined, rows=20, candidates=60, count=2, first=0),
            model={},
            stages=tuple({**one, **stage, "batch": 4, "rates": rates} for one in settings.reranker.stages[:1]),
        ),
    )
