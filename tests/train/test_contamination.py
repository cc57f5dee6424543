"""What training may not see, on small examples."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from quernel.train.contamination import WINDOW, ContaminationFilter, normalise, read_evaluation_texts
from quernel.train.sources import read_rows

SHARED = Path(__file__).parents[3] / "shared"

PASSAGE = "The quick brown fox jumps over the lazy dog while seventeen curious owls watch from the old oak tree."


def test_a_shared_window_is_found_at_any_alignment():
    seen = ContaminationFilter(["some words before it. " + PASSAGE + " And some behind it."])
    assert all(seen.shares("another beginning " + "x" * shift + " " + PASSAGE[:75]) for shift in range(35))


def test_one_character_less_than_the_window_is_not_shared():
    text = normalise(PASSAGE)
    seen = ContaminationFilter([PASSAGE])
    assert seen.shares("Z" + text[5 : 5 + WINDOW] + "Z")
    assert not seen.shares("Z" + text[5 : 4 + WINDOW] + "Z")


def test_case_width_and_punctuation_do_not_hide_a_text():
    seen = ContaminationFilter([PASSAGE])
    assert seen.shares(PASSAGE.upper().replace(" ", " -- "))
    assert seen.shares("ｔｈｅ　ｑｕｉｃｋ" + PASSAGE[9:])


def test_short_texts_are_compared_whole():
    seen = ContaminationFilter(["Who was he?"])
    assert seen.shares("who was he")
    assert not seen.shares("who was he then")


def test_a_row_is_refused_for_either_side():
    rows = [("what?", PASSAGE), (PASSAGE, "that"), ("what?", "that")]
    assert ContaminationFilter([PASSAGE]).which_rows_share(rows) == [True, True, False]


def test_many_texts_are_told_apart_as_each_alone():
    rng = np.random.default_rng(0)
    words = [f"word{number}" for number in range(500)]

    def text(length):
        return " ".join(rng.choice(words, size=length))

    held = [text(rng.integers(0, 60)) for _ in range(300)] + [text(25_000)]
    texts = []
    for other in rng.permutation(len(held)).tolist():
        first = int(rng.integers(0, max(1, len(held[other]) - 100)))
        texts += [text(rng.integers(0, 40)), f"{text(5)} {held[other][first : first + 80]} {text(5)}", held[other], ""]
    seen = ContaminationFilter(held)
    whole = set(map(normalise, held))
    windows = {text[at : at + WINDOW] for text in whole for at in range(len(text) - WINDOW + 1)}

    def literally(text):
        text = normalise(text)
        return text in whole or any(text[at : at + WINDOW] in windows for at in range(len(text) - WINDOW + 1))

    found = seen.which_share(texts)
    assert found == [seen.shares(text) for text in texts] == [literally(text) for text in texts]
    assert 0.3 < np.mean(found) < 0.8


def test_windows_of_other_scripts_and_beyond_the_first_plane_are_found():
    text = "人" * 20 + "".join(chr(0x20000 + index) for index in range(60))
    assert ContaminationFilter([text]).shares("前置" + text[10:75])


def test_evaluation_texts_are_documents_queries_both_sides_of_pairs_and_pages(tmp_path):
    (tmp_path / "set/src").mkdir(parents=True)
    title = "a title that is as long as a window, since it has sixty characters"
    rows = [{"_id": "1", "title": "T", "text": "document"}, {"_id": "2", "title": title, "text": ""}]
    (tmp_path / "set/corpus.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "set/deu-eng.jsonl").write_text('{"id": 0, "deu": "ja", "eng": "yes"}\n')
    (tmp_path / "set/en.test.jsonl").write_text('{"sentence1": "one", "sentence2": "two", "score": 1.0}\n')
    (tmp_path / "set/udhr.jsonl").write_text('{"key": "abc", "script": "Latn", "articles": ["born free"]}\n')
    (tmp_path / "set/src/ch01.md").write_text("# A page")
    (tmp_path / "set/README.md").write_text("about the set")
    wanted = {"document", title, "ja", "yes", "one", "two", "born free", "# A page"}
    assert set(read_evaluation_texts(tmp_path)) == wanted


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared evaluation sets are not beside the project")
def test_every_shared_set_is_kept_out_and_shares_nothing_with_what_is_left():
    """By another road than the filter's: every window of all sets, hashed whole, and every window of what is left."""
    weights = np.random.default_rng(0).integers(2**63, size=WINDOW, dtype=np.uint64) * np.uint64(2) + np.uint64(1)

    def windows(texts):
        codes = np.frombuffer("\0".join(texts).encode("utf-32-le"), dtype=np.uint32).astype(np.uint64)
        count = max(0, len(codes) - WINDOW + 1)
        ends = np.concatenate([[0], np.cumsum(codes == 0)])
        whole = ends[WINDOW : WINDOW + count] == ends[:count]  # no text ends within
        hashes, product = np.zeros(count, dtype=np.uint64), np.empty(count, dtype=np.uint64)
        for offset, weight in enumerate(weights):
            np.multiply(codes[offset : offset + count], weight, out=product)
            hashes += product
        return hashes[whole]

    folders = [folder for folder in sorted((SHARED / "data").iterdir()) if folder.is_dir()]
    texts = [list(read_evaluation_texts(folder)) for folder in folders]
    held = [windows(map(normalise, part)) for part in texts]
    assert all(len(part) for part in held), [folder.name for folder in folders]
    known = np.sort(np.concatenate(held))
    held_out = ContaminationFilter(text for part in texts for text in part)
    refused = kept = 0
    for name in ("commands_tldr", "bitext_tldr", "wiki_wikitext2", "qa_en_pubmedqa", "mrc_zh_cmrc2018", "sci_tldr"):
        rows = list(itertools.islice(read_rows(SHARED / f"train/{name}.jsonl.gz"), 1500))
        shared = held_out.which_rows_share([row.texts for row in rows])
        left = [row for row, left_out in zip(rows, shared, strict=True) if not left_out]
        refused, kept = refused + len(rows) - len(left), kept + len(left)
        found = windows(normalise(text) for row in left for text in row.texts)
        assert not (known[np.searchsorted(known, found).clip(max=len(known) - 1)] == found).any(), name
    assert refused > 20
    assert kept > 5000
