from hypothesis import given
from hypothesis import strategies as st

from quernel.engine.segments import SharedRuns, build_forest
from quernel.model.layout import Layout

run = st.lists(st.integers(0, 3), min_size=1, max_size=4).map(tuple)
paths = st.lists(st.lists(run, min_size=1, max_size=4).map(tuple), min_size=1, max_size=12)


def tokens_of_segment(forest, index):
    """All tokens that the last token of a segment sees, itself included."""
    chain = [index, *forest.layout.ancestors(index)]
    parts = [forest.layout.segments[link] for link in reversed(chain)]
    return [token for part in parts for token in forest.token_ids[part.start : part.stop]]


@given(paths)
def test_each_prompt_reads_exactly_its_own_tokens(prompts):
    forest = build_forest(prompts)
    for prompt, row in zip(prompts, forest.rows, strict=True):
        assert tokens_of_segment(forest, forest.layout.reads[row]) == [token for run in prompt for token in run]


@given(paths)
def test_segments_tile_the_stream_and_stand_after_their_parents(prompts):
    forest = build_forest(prompts)
    stop = 0
    for index, segment in enumerate(forest.layout.segments):
        assert segment.start == stop
        assert segment.length >= 1
        stop = segment.stop
        if segment.parent is None:
            assert segment.position == 0
        else:
            assert segment.parent < index
            parent = forest.layout.segments[segment.parent]
            assert segment.position == parent.position + parent.length
    assert stop == len(forest.token_ids) == forest.layout.num_tokens


@given(paths)
def test_each_run_is_computed_once_below_its_parent(prompts):
    forest = build_forest(prompts)
    distinct = {path[:depth] for path in prompts for depth in range(1, len(path) + 1)}
    assert len(forest.token_ids) == sum(len(path[-1]) for path in distinct)
    assert len(set(forest.layout.reads)) == len(forest.layout.reads)


@given(paths)
def test_the_running_cost_is_the_size_of_the_forest(prompts):
    shared = SharedRuns()
    for path in prompts:
        before = shared.num_tokens
        cost = shared.cost(path)
        shared.add(path)
        assert shared.num_tokens == before + cost
    assert shared.num_tokens == len(build_forest(prompts).token_ids)


def test_a_prompt_that_shares_nothing_is_one_segment():
    forest = build_forest([((1, 2), (3,), (4, 5))])
    assert forest.token_ids == (1, 2, 3, 4, 5)
    assert forest.layout == Layout.from_lengths([5])


def test_a_rerank_call_computes_head_and_query_once():
    head, query = (1, 2, 3), (4, 5)
    forest = build_forest([(head, query, (6, 7)), (head, query, (8,)), (head, query, (6, 7))])
    assert forest.token_ids == (1, 2, 3, 4, 5, 6, 7, 8)
    assert [segment.parent for segment in forest.layout.segments] == [None, 0, 0]
    assert forest.rows == (0, 1, 0)
