"""The reranker's start does what its module says, before any training."""

import pytest
import torch
import torch.nn.functional as F

from quernel.model.config import Qwen3Config
from quernel.prompts.templates import CARD_TEMPLATE
from quernel.train.encode import Encoder
from quernel.train.interaction import NUM_LAYERS, Places, Strengths, start_reranker
from quernel.train.pair import reranker_vocabulary
from quernel.train.vocabulary import train_tokenizer

SIZE = 480
STEMS, ENDS = ("gal", "ket", "mor", "pid", "run", "sov", "tib"), ("ama", "epo", "oxu")
WORDS = [stem + end for stem in STEMS for end in ENDS]


@pytest.fixture(scope="module")
def tokenizer():
    sample = [" ".join(WORDS)] * 2000 + [
        f"{first}{middle}{last}" for first in "bdgklm" for middle in "aeio" for last in "nrstw"
    ]
    return train_tokenizer(sample, SIZE)


@pytest.fixture(scope="module", params=[(256, 4), (336, 6)], ids=["narrow", "wide"])
def score(tokenizer, request):
    """Logit of a document for a query, with words that mean nothing alike."""
    generator = torch.Generator().manual_seed(0)
    hidden_size, num_heads = request.param
    content = torch.randn(SIZE, Places(hidden_size, num_heads).num_content, generator=generator)
    content = F.normalize(content, dim=-1)
    config = Qwen3Config(
        vocab_size=SIZE,
        hidden_size=hidden_size,
        intermediate_size=512,
        num_hidden_layers=NUM_LAYERS,
        num_attention_heads=num_heads,
        num_key_value_heads=num_heads,
        head_dim=64,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
    )
    vocabulary = reranker_vocabulary(tokenizer)

    def build(strengths):
        return start_reranker(
            config,
            content=content,
            weights=torch.zeros(SIZE),
            rarity=torch.ones(SIZE),
            vocabulary=vocabulary,
            strengths=strengths,
            seed=0,
        )

    models = {"both": build(Strengths()), "lexical": build(Strengths(semantic=0.0))}

    def score_of(query, document, model="both"):
        parts = (
            CARD_TEMPLATE.head,
            CARD_TEMPLATE.instruction.format(instruction="Find it"),
            CARD_TEMPLATE.query.format(query=query),
            CARD_TEMPLATE.document.format(document=document),
            CARD_TEMPLATE.tail,
        )
        ids = [token for part in parts for token in tokenizer.encode(part).ids]
        with torch.no_grad():
            hidden = Encoder(models[model])([(tuple(ids),)])
            table = models[model].embed_tokens.weight
            return (hidden[0] @ (table[vocabulary.yes] - table[vocabulary.no])).item()

    return score_of


def test_a_document_with_the_words_of_the_query_is_above_one_without(score):
    query, other = " ".join(WORDS[:4]), " ".join(WORDS[8:16])
    assert score(query, " ".join(WORDS[:8])) > score(query, other) + 1


def test_more_of_the_query_found_is_a_higher_score(score):
    query = " ".join(WORDS[:4])
    scores = [score(query, " ".join([*WORDS[:found], *WORDS[10 : 18 - found]]), "lexical") for found in range(5)]
    assert scores == sorted(scores)


def test_a_word_found_many_times_counts_less_than_another_word_found(score):
    query, rest = f"{WORDS[0]} {WORDS[1]}", " ".join(WORDS[10:14])
    once = score(query, f"{WORDS[0]} {rest}", "lexical")
    often = score(query, f"{WORDS[0]} {rest} " + f" {WORDS[0]}" * 9, "lexical")
    both = score(query, f"{WORDS[0]} {WORDS[1]} {rest}", "lexical")
    assert both - once > 1.5 * abs(often - once)


def test_the_length_of_the_document_matters_little_to_what_was_found(score):
    query = " ".join(WORDS[:3])
    short = score(query, " ".join(WORDS[:3]), "lexical")
    long = score(query, " ".join(WORDS[:3] + WORDS[6:12] * 10), "lexical")
    without = score(query, " ".join(WORDS[6:12] * 10), "lexical")
    assert abs(long - short) < (short - without) / 2
