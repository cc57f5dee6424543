"""Buckets and padding are tested here, with a function that is called again in place of a graph that is replayed."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from quernel.model.cuda_attention import attend_varlen, plan_texts
from quernel.model.cuda_graphs import BUCKETS, ROWS_PER_TEXT, GraphedForward, stage
from tests.model.test_cuda_attention import loop_kernel

CPU = torch.device("cpu")
TEXTS = st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=20), min_size=1, max_size=12)


def forward(token_ids, positions, starts, reads):
    """One layer of causal attention over rows made of tokens and positions: shows what a text sees."""
    num_rows = len(token_ids)
    waves = torch.arange(1, 9).float()
    x = (token_ids.unsqueeze(-1) * waves).sin() + (positions.unsqueeze(-1) / waves).cos()
    heads = x.unsqueeze(1)
    rows, last = plan_texts(starts, num_rows)
    h = heads + attend_varlen(heads, heads, heads, rows, loop_kernel)
    return attend_varlen(h[reads], h, h, last, loop_kernel).squeeze(1)


def alone(text):
    size = len(text)
    return forward(torch.tensor(text), torch.arange(size), torch.tensor([0, size]).int(), torch.tensor([size - 1]))


class Recorder:
    """Records by remembering, and replays into the same memory, as a graph does."""

    def __init__(self):
        self.num_recorded = 0

    def __call__(self, run):
        self.num_recorded += 1
        output = run()
        return lambda: output.copy_(run())


@given(texts=TEXTS)
@settings(max_examples=60, deadline=None)
def test_texts_in_a_bucket_get_what_they_get_alone(texts):
    graphed = GraphedForward(forward, device=CPU, capture=Recorder())
    if graphed.bucket([len(text) for text in texts]) is None:
        return
    reference = torch.cat([alone(text) for text in texts])
    ours = graphed(texts)
    assert ours.shape == reference.shape
    assert (ours - reference).abs().max() <= 3e-6


def test_a_result_outlives_the_next_replay():
    graphed = GraphedForward(forward, device=CPU, capture=Recorder())
    first = graphed([[1, 2, 3]])
    before = first.clone()
    graphed([[4, 5]])
    assert torch.equal(first, before)


def test_a_bucket_is_recorded_once_when_it_is_first_used():
    recorder = Recorder()
    graphed = GraphedForward(forward, device=CPU, capture=recorder)
    for texts in ([[1]], [[1, 2], [3]], [[5] * 16], [[5] * 17], [[7] * 30]):
        graphed(texts)
    assert recorder.num_recorded == 2


@given(lengths=st.lists(st.integers(1, 300), min_size=1, max_size=40))
@settings(max_examples=100, deadline=None)
def test_the_bucket_is_the_smallest_that_holds_rows_and_texts(lengths):
    holding = [b for b in BUCKETS if b >= sum(lengths) and b // ROWS_PER_TEXT >= len(lengths)]
    assert GraphedForward(forward, device=CPU, capture=Recorder()).bucket(lengths) == (holding or [None])[0]


@given(texts=TEXTS)
@settings(max_examples=60, deadline=None)
def test_what_is_staged_covers_every_row_once(texts):
    rows = 256
    num_texts = rows // ROWS_PER_TEXT + 1
    ids, positions, reads, starts = stage(texts, rows).split([rows, rows, num_texts, num_texts + 1])
    assert starts[0] == 0
    assert starts[-1] == rows
    assert (starts.diff() >= 0).all()
    for index, text in enumerate(texts):
        own = slice(starts[index], starts[index + 1])
        assert ids[own].tolist() == text
        assert positions[own].tolist() == [*range(len(text))]
        assert reads[index] == starts[index + 1] - 1


def test_texts_that_fit_no_bucket_are_refused():
    with pytest.raises(ValueError, match="fit no bucket"):
        GraphedForward(forward, device=CPU, capture=Recorder())([[1] * 257])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_replayed_graph_is_the_function():
    device = torch.device("cuda")
    table = torch.randn(100, 8, device=device)

    def look_up(token_ids, positions, starts, reads):
        return (table[token_ids] + positions.unsqueeze(-1))[reads] + starts[-1]

    graphed, plain = (GraphedForward(look_up, device=device, capture=capture) for capture in (None, Recorder()))
    for texts in ([[1, 2, 3]], [[4], [5, 6]], [[7] * 40]):
        assert torch.equal(graphed(texts), plain(texts))
