import shlex

import pytest

from quernel.catalog.catalog import load_cards
from quernel.catalog.published import COMMAND, published_scores

OFFICIAL = [card.name for card in load_cards() if not card.is_builtin]


def value(model, benchmark, measure):
    return next(
        one.score for one in published_scores(model) if one.benchmark.startswith(benchmark) and one.measure == measure
    )


@pytest.mark.parametrize("model", OFFICIAL)
def test_every_official_model_has_scores_with_sources_and_commands(model):
    scores = published_scores(model)
    assert len(scores) >= 6
    for score in scores:
        words = shlex.split(score.command)
        assert score.command.startswith(COMMAND)
        assert model in words
        assert ("--reranker" in words) == ("Reranker" in model)
        assert score.source
        assert -10 < score.score <= 100


def test_numbers_of_the_readme():
    assert value("Qwen/Qwen3-Embedding-0.6B", "MTEB(Multilingual", "mean_task") == 64.33
    assert value("Qwen/Qwen3-Embedding-8B", "MTEB(eng", "mean_task") == 75.22
    assert value("Qwen/Qwen3-Reranker-0.6B", "reranking", "FollowIR") == 5.41


def test_others_have_none():
    assert published_scores("quernel/tiny-embedding") == []


def test_commands_are_ones_that_there_are():
    pytest.importorskip("mteb")
    from quernel.integrations.mteb import parser_of

    for model in OFFICIAL:
        for score in published_scores(model):
            parser_of().parse_args(shlex.split(score.command)[3:])
