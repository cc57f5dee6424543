"""Corpus and batches: which tokens stand where."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest

from quernel.errors import SettingsError
from quernel.train.batches import Mixture, Sampler, join, pack, query_prompt
from quernel.train.corpus import Corpus, build_corpus
from quernel.train.smoke import write_smoke_data
from quernel.train.sources import list_sources, read_rows
from quernel.train.vocabulary import END_OF_TEXT, token_id, train_tokenizer


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_smoke_data(folder)
    return folder


@pytest.fixture(scope="module")
def tokenizer(data):
    texts = (text for path in list_sources(data).values() for row in read_rows(path) for text in row.texts)
    return train_tokenizer(texts, 700)


@pytest.fixture(scope="module")
def corpus(data, tokenizer):
    return build_corpus(rows_by_source(data), tokenizer, max_characters=500)


def rows_by_source(folder):
    return [(name, read_rows(path)) for name, path in list_sources(folder).items()]


def sampler_of(corpus, tokenizer, **mixture):
    shares = {"retrieval": {"qa_en_medquad": 1.0}, "symmetric": {}, **mixture}
    return Sampler(
        corpus,
        tokenizer,
        Mixture(**shares),
        end_token=token_id(tokenizer, END_OF_TEXT),
        max_query_tokens=16,
        max_document_tokens=24,
        seed=3,
    )


def rows_of(texts):
    bounds = texts.bounds.tolist()
    return [texts.token_ids[first:stop].tolist() for first, stop in pairwise(bounds)]


def test_a_query_is_its_prompt_its_text_and_the_end_token(corpus, tokenizer):
    block = sampler_of(corpus, tokenizer, instructed=1.0, default_task=0.0).draw(8)
    (task,) = {corpus.task_names[corpus.tasks[corpus.spans["qa_en_medquad"][0]]]}
    prompt, end = tokenizer.encode(query_prompt(task)).ids, token_id(tokenizer, END_OF_TEXT)
    for ids, number in zip(rows_of(block.queries), block.numbers[:, 0], strict=True):
        text = corpus.tokens[corpus.starts[number] : corpus.starts[number + 1]][:16].tolist()
        assert ids == [*prompt, *text, end]


def test_a_document_has_no_prompt_and_is_cut(corpus, tokenizer):
    block = sampler_of(corpus, tokenizer, instructed=1.0).draw(8)
    assert all(len(ids) == 25 for ids in rows_of(block.documents))


def test_one_seed_draws_the_same_blocks(corpus, tokenizer):
    left, right = (sampler_of(corpus, tokenizer, crops=1.0) for _ in range(2))
    for _ in range(5):
        a, b = left.draw(16), right.draw(16)
        assert a.source == b.source
        assert a.queries.token_ids.equal(b.queries.token_ids)


def test_every_row_comes_once_before_any_comes_twice(corpus, tokenizer):
    sampler = sampler_of(corpus, tokenizer)
    drawn = np.concatenate([sampler.draw(40).numbers for _ in range(6)])
    assert len(np.unique(drawn, axis=0)) == 240


def test_the_spans_of_a_crop_do_not_overlap(corpus, tokenizer):
    sampler = sampler_of(corpus, tokenizer, retrieval={}, crops=1.0, instructed=0.0)
    block = sampler.draw(32)
    stored = [corpus.tokens[a:b].tolist() for a, b in pairwise(corpus.starts)]
    for query, document, number in zip(
        rows_of(block.queries), rows_of(block.documents), block.groups.tolist(), strict=True
    ):
        whole = query[:-1] + document[:-1]
        text = stored[number]
        assert any(text[start : start + len(whole)] == whole for start in range(len(text)))


def test_rows_of_one_label_share_a_group(tmp_path, tokenizer):
    rows = [{"task": "t", "query": f"q{n}", "pos": f"p{n}", "label": "same" if n < 2 else "other"} for n in range(3)]
    with gzip.open(tmp_path / "intent.jsonl.gz", "wt") as lines:
        lines.writelines(json.dumps(row) + "\n" for row in rows)
    groups = build_corpus(rows_by_source(tmp_path), tokenizer, max_characters=99).groups
    assert groups[0] == groups[1] != groups[2]


def test_a_source_without_rows_is_not_in_the_corpus(tokenizer):
    corpus = build_corpus([("qa_en_medquad", [])], tokenizer, max_characters=99)
    assert corpus.num_texts == 0
    assert not corpus.spans


def test_a_saved_corpus_is_the_same(corpus, tmp_path):
    corpus.save(tmp_path)
    loaded = Corpus.load(tmp_path)
    assert loaded.spans == corpus.spans
    assert loaded.bitexts == corpus.bitexts == ("bitext_tatoeba_small",)
    np.testing.assert_array_equal(loaded.tokens, corpus.tokens)
    np.testing.assert_array_equal(loaded.scores, corpus.scores)


def test_joined_texts_are_the_texts():
    assert rows_of(join([pack([[1, 2], [3]]), pack([[4]])])) == [[1, 2], [3], [4]]


def test_a_line_that_is_no_row_is_named(tmp_path):
    with gzip.open(tmp_path / "bad.jsonl.gz", "wt") as lines:
        lines.write('{"query": "q", "pos": "p", "task": "t"}\n{"query": "q"}\n')
    with pytest.raises(SettingsError, match=r"bad.jsonl.gz line 2"):
        list(read_rows(tmp_path / "bad.jsonl.gz"))
    with pytest.raises(SettingsError, match="holds no"):
        list_sources(tmp_path / "nowhere")
