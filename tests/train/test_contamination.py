"""What training may not see, on small examples."""

from quernel.train.contamination import WINDOW, ContaminationFilter, normalise, read_evaluation_texts
from quernel.train.sources import Row

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
    keep = ContaminationFilter([PASSAGE])
    assert not keep(Row(query="what?", positive=PASSAGE))
    assert not keep(Row(query=PASSAGE, positive="that"))
    assert keep(Row(query="what?", positive="that"))


def test_windows_of_other_scripts_and_beyond_the_first_plane_are_found():
    text = "人" * 20 + "".join(chr(0x20000 + index) for index in range(60))
    assert ContaminationFilter([text]).shares("前置" + text[10:75])


def test_evaluation_texts_are_documents_queries_and_both_sides_of_pairs(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set/corpus.jsonl").write_text('{"_id": "1", "title": "T", "text": "document"}\n')
    (tmp_path / "set/deu-eng.jsonl").write_text('{"id": 0, "deu": "ja", "eng": "yes"}\n')
    (tmp_path / "set/en.test.jsonl").write_text('{"sentence1": "one", "sentence2": "two", "score": 1.0}\n')
    assert set(read_evaluation_texts(tmp_path)) == {"document", "ja", "yes", "one", "two"}
