"""A four-layer Qwen3 that begins as a lexical and semantic matcher instead of as noise, for the reranker to learn from.

Everything below is ordinary weights of an ordinary Qwen3; nothing at run time knows of it. What the layers do at first,
on the prompt `... <Query>: {query}\\n<Document>: {document} ... <think>\\n\\n</think>\\n\\n`:

    layer 0  every token attends to the field marker above it (`<Query`, `<Document`) and so learns its field
    layer 1  every token attends to the query tokens that equal it, or, where there are none, to a sink; a document
             token so gathers the *code* of the query token that it matches (two of 64 buckets a token)
    layer 2  three tokens of the template become carriers. `assistant` gathers the sum of the codes that the document
             found and the weighted codes of the query, and its MLP adds up how much of the query was found:
             sum over buckets of wanted * min(found, 1). `<think>` gathers the query's bag of tokens, `</think>` the
             document's, with the weights that the embedding model learned
    layer 3  the last token reads the carriers; its MLP multiplies query and document bag coordinate by coordinate

Two facts make this possible. A SwiGLU unit pair multiplies exactly: silu(q) d + silu(-q) (-d) = q d. And another pair
clips: silu(x) - silu(x - c) runs from 0 to c and stays there, so that a word found ten times counts as found.
Positions matter little because the attention uses the slowest rotary pairs alone.

A score's logic is in angles, since q and k are normalised per head: "raw" below is a vector before that norm.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from quernel.model.config import Qwen3Config
from quernel.model.layers import DecoderLayer
from quernel.model.qwen3 import Qwen3

CONTENT = slice(0, 112)
CODE = slice(112, 176)
FOUND = slice(176, 240)
(
    CONSTANT,
    WEIGHT,  # logit of the token in a bag
    RARITY,  # logit of the token among the words of a query that should be found
    QUERY_MARK,
    DOCUMENT_MARK,
    IN_QUERY,
    IN_DOCUMENT,
    SINK,
    LEXICAL_CARRIER,
    QUERY_CARRIER,
    DOCUMENT_CARRIER,
    READER,
    LEXICAL,
    SCORE,
) = range(240, 254)
"""What each coordinate of the residual stream means at the start."""

NUM_LAYERS = 4
NUM_BUCKETS = CODE.stop - CODE.start


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of the template that play a part.

    Attributes:
        query_mark: `<Query`.
        document_mark: `<Document`.
        sink: `<|im_start|>`, the first token of every prompt.
        lexical_carrier: `assistant`.
        query_carrier: `<think>`.
        document_carrier: `</think>`.
        reader: The last token of every prompt, two newlines.
        yes: The answer for relevant.
        no: The answer for irrelevant.
    """

    query_mark: int
    document_mark: int
    sink: int
    lexical_carrier: int
    query_carrier: int
    document_carrier: int
    reader: int
    yes: int
    no: int


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """How the start weighs its parts; found by trying a few values.

    Attributes:
        match_scale: Largest score in layer 1; the higher, the sharper the line between match and no match.
        match_threshold: Similarity of two codes from which on they match; different tokens have 0, rarely 0.5.
        semantic: Weight of the cosine of the two bags in the answer.
        lexical: Weight of the share of the query that was found.
    """

    match_scale: float = 120.0
    match_threshold: float = 0.8
    semantic: float = 2.0
    lexical: float = 0.5


def start_reranker(
    config: Qwen3Config,
    *,
    content: Tensor,
    weights: Tensor,
    rarity: Tensor,
    vocabulary: Vocabulary,
    strengths: Strengths,
    seed: int,
) -> Qwen3:
    """A model that computes what the module describes.

    Args:
        config: Four layers, hidden size 256, four heads of 64 and as many key/value heads, an MLP of 512 or more.
        content: Meaning of each token, unit rows `[vocab, 112]`.
        weights: Log weight of each token in a bag `[vocab]`.
        rarity: Positive weight of each token among the words of a query `[vocab]`.
        vocabulary: The template's tokens.
        strengths: How much each part counts.
        seed: Fixes the codes and the projections.
    """
    generator = torch.Generator().manual_seed(seed)
    model = Qwen3(config).requires_grad_(False)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    _fill_table(
        model.embed_tokens.weight,
        content=content,
        weights=weights,
        rarity=rarity,
        vocabulary=vocabulary,
        generator=generator,
    )
    _mark_fields(_Layer(model, 0))
    _match(_Layer(model, 1), strengths, generator)
    _gather(_Layer(model, 2))
    _compare(_Layer(model, 3), strengths)
    for name, projection in model.named_parameters():
        if "gate_proj" in name or "up_proj" in name:  # Units that do nothing yet: training may take them up.
            idle = projection.abs().sum(dim=1) == 0
            noise = torch.randn(projection.shape, generator=generator) * 0.5 / math.sqrt(config.hidden_size)
            projection[idle] = noise[idle]
    return model.requires_grad_(True)


class _Layer:
    """One layer's weights, addressed by head and coordinate."""

    def __init__(self, model: Qwen3, index: int) -> None:
        layer = model.layers[index]
        assert isinstance(layer, DecoderLayer)
        attention, head_dim = layer.self_attn, model.config.head_dim
        self.head_dim = head_dim
        self.num_heads = model.config.num_attention_heads
        self.q = attention.q_proj.weight.view(self.num_heads, head_dim, -1)
        self.k = attention.k_proj.weight.view(self.num_heads, head_dim, -1)
        self.v = attention.v_proj.weight.view(self.num_heads, head_dim, -1)
        self.o = attention.o_proj.weight.view(-1, self.num_heads, head_dim).permute(1, 2, 0)  # [head, D, C]
        self.mlp = layer.mlp
        # The slower half of the rotary pairs: within 300 tokens the fastest of them turns by 0.3.
        half = head_dim // 2
        self.slow = [*range(half // 2, half), *range(half + half // 2, head_dim)][::-1]
        self._norms = (attention.q_norm.weight, attention.k_norm.weight)

    def scale(self, largest: float) -> None:
        """Scores become `largest` times the cosine of the raw vectors."""
        query_norm, key_norm = self._norms
        for norm in (query_norm, key_norm):
            norm.zero_()
            norm[self.slow] = math.sqrt(largest / math.sqrt(self.head_dim))


WEIGHT_UNIT = 16.0
"""Logits are stored divided by this, so that they stay small beside a token's meaning."""

FLAG = 0.5
"""Size of the coordinate that is the same in every token; what it is multiplied with is a bias."""

FIELD = 0.7
"""Size of the coordinates that say which field a token is in."""

NORM = 16.0
"""Length of a row after an input norm: the square root of 256."""


def _fill_table(
    table: Tensor,
    *,
    content: Tensor,
    weights: Tensor,
    rarity: Tensor,
    vocabulary: Vocabulary,
    generator: torch.Generator,
) -> None:
    """The token table: what a token means, its code, its weights, and the flags of the template's tokens."""
    table[:, CONTENT] = content
    buckets = torch.rand(len(table), NUM_BUCKETS, generator=generator).topk(2, dim=1).indices + CODE.start
    table.scatter_(1, buckets, 0.5)
    table[:, CONSTANT] = FLAG
    table[:, WEIGHT] = ((weights - weights.max()) / WEIGHT_UNIT).clamp(min=-1.0)
    table[:, RARITY] = ((rarity / rarity.max()).clamp(min=1e-4).log() / WEIGHT_UNIT).clamp(min=-1.0)
    template = {
        vocabulary.query_mark: {QUERY_MARK: 1.0},
        vocabulary.document_mark: {DOCUMENT_MARK: 1.0},
        vocabulary.sink: {SINK: 1.0},
        vocabulary.lexical_carrier: {LEXICAL_CARRIER: 1.0, CONSTANT: CARRIER_SIZE},
        vocabulary.query_carrier: {QUERY_CARRIER: 0.5},
        vocabulary.document_carrier: {DOCUMENT_CARRIER: 0.5},
        vocabulary.reader: {READER: 0.5, SCORE: -0.8},
    }
    for token, flags in template.items():
        table[token] = 0
        table[token, CONSTANT] = FLAG
        for coordinate, value in flags.items():
            table[token, coordinate] = value
    table[vocabulary.yes, SCORE] = ANSWER
    table[vocabulary.no, SCORE] = -ANSWER


def _mark_fields(layer: _Layer) -> None:
    """Head 0 attends to the nearest marker that there is; the others have no effect."""
    layer.scale(48.0)
    first, second = layer.slow[:2]
    layer.q[0, first, CONSTANT] = 1
    layer.k[0, first, [CONSTANT, QUERY_MARK, DOCUMENT_MARK]] = torch.tensor([-1.0, 0.5, 4.0])
    layer.k[0, second, CONSTANT] = 1
    layer.v[0, 0, QUERY_MARK] = layer.v[0, 1, DOCUMENT_MARK] = 1
    marker = NORM / math.hypot(1, FLAG)  # a marker's coordinate after the input norm
    layer.o[0, 0, IN_QUERY] = layer.o[0, 1, IN_DOCUMENT] = FIELD / marker


def _match(layer: _Layer, strengths: Strengths, generator: torch.Generator) -> None:
    """All four heads match by code, each in its own 30 directions, and average what they find."""
    layer.scale(strengths.match_scale)
    field, extra, *meaning = layer.slow
    typical = 0.5 * math.sqrt(2 * len(meaning) / NUM_BUCKETS)  # length of a code in so many random directions
    # With a query of equal parts code and field and `slack` of a third part that the sink alone has too, the scores of
    # a query token of similarity s and of the sink are as (1 + s) / sqrt(2) and sqrt(1 + slack**2).
    slack = math.sqrt((1 + strengths.match_threshold) ** 2 / 2 - 1)
    for head in range(layer.num_heads):
        directions = torch.linalg.qr(torch.randn(NUM_BUCKETS, len(meaning), generator=generator))[0].T
        for weights in (layer.q, layer.k):
            weights[head, meaning, CODE] = directions
        layer.q[head, field, CONSTANT] = typical / FLAG
        layer.k[head, field, CONSTANT] = -typical / FLAG
        layer.k[head, field, IN_QUERY] = 2 * typical / FIELD
        layer.q[head, extra, CONSTANT] = typical * slack / FLAG
        layer.k[head, field, SINK] = 100
        layer.k[head, extra, SINK] = 100 * slack
        layer.v[head, :, CODE] = torch.eye(NUM_BUCKETS)
        layer.o[head, :, FOUND] = torch.eye(NUM_BUCKETS) / layer.num_heads / 32


CARRIER_SIZE = 16.0
"""Constant of the lexical carrier: large beside what it gathers, so that the norm hardly changes with that."""

SUM_LENGTH = 3000.0
"""Weight of the sink beside one document token: a mean over so many tokens is a sum, whatever the document's length."""

CLIP = 4.0
"""Where a found code stops to count, in the units of the gate."""

ANSWER = 0.5
"""Coordinate of `yes` in the direction of the score; `no` has its negative."""


def _gather(layer: _Layer) -> None:
    """The carriers: found and wanted codes and their overlap in one, the two bags in the others."""
    largest = 64.0
    layer.scale(largest)
    first, second, rest, base = layer.slow[:4]
    found, wanted, *bags = range(layer.num_heads)
    bias = 1 / FLAG

    # A carrier looks along `first` or `second`; every other token along `rest`, where only the sink is.
    for head in range(layer.num_heads):
        layer.q[head, rest, CONSTANT] = FLAG
    for head in (found, wanted):
        layer.q[head, first, LEXICAL_CARRIER] = 100
    for head in bags:
        layer.q[head, first, QUERY_CARRIER] = layer.q[head, second, DOCUMENT_CARRIER] = 100

    # Found codes are summed: the cosine of the sink exceeds that of a document token by log(SUM_LENGTH).
    layer.k[found, first, CONSTANT] = -bias
    layer.k[found, first, IN_DOCUMENT] = 2 / FIELD
    layer.k[found, base, CONSTANT] = bias
    cosine = math.sqrt(0.5) + math.log(SUM_LENGTH / 3) / largest  # three sinks in a prompt
    layer.k[found, first, SINK] = 100 * cosine
    layer.k[found, rest, SINK] = 100 * math.sqrt(1 - cosine**2)

    layer.k[wanted, first, CONSTANT] = -bias
    layer.k[wanted, first, IN_QUERY] = 2 / FIELD
    layer.k[wanted, first, RARITY] = WEIGHT_UNIT / (largest * math.sqrt(0.125))
    layer.k[wanted, base, CONSTANT] = bias
    layer.k[wanted, rest, SINK] = 8
    for head in bags:
        for dimension, field in ((first, IN_QUERY), (second, IN_DOCUMENT)):
            layer.k[head, dimension, CONSTANT] = -bias
            layer.k[head, dimension, field] = 2 / FIELD
            layer.k[head, dimension, WEIGHT] = WEIGHT_UNIT / (largest * math.sqrt(1 / 3))
        layer.k[head, base, CONSTANT] = bias
        layer.k[head, rest, SINK] = 8

    for carrier in (
        LEXICAL_CARRIER,
        QUERY_CARRIER,
        DOCUMENT_CARRIER,
        READER,
    ):  # They follow the document; not part of it.
        layer.k[:, first, carrier] = layer.k[:, second, carrier] = -100

    layer.v[found, :, FOUND] = torch.eye(NUM_BUCKETS)
    layer.o[found, :, FOUND] = torch.eye(NUM_BUCKETS) * 1.6 * SUM_LENGTH
    layer.v[wanted, :, CODE] = torch.eye(NUM_BUCKETS)
    layer.o[wanted, :, CODE] = torch.eye(NUM_BUCKETS) * 0.4
    size = (CONTENT.stop - CONTENT.start) // len(bags)
    for position, head in enumerate(bags):
        part = list(range(CONTENT.start + position * size, CONTENT.start + (position + 1) * size))
        layer.v[head, range(size), part] = 1
        layer.o[head, range(size), part] = 2

    # wanted * (silu(x) - silu(x - c)): x is c where a code was found once.
    gate, up, down = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
    for bucket in range(NUM_BUCKETS):
        for unit, (offset, sign) in enumerate(((0.0, 1.0), (-CLIP, -1.0))):
            row = 2 * bucket + unit
            gate[row, FOUND.start + bucket] = 26.0
            gate[row, CONSTANT] = offset / NORM  # the carrier's constant is nearly all of it
            up[row, CODE.start + bucket] = 1.0
            down[LEXICAL, row] = sign / CLIP


def _compare(layer: _Layer, strengths: Strengths) -> None:
    """The last token reads the carriers and multiplies the two bags."""
    layer.scale(48.0)
    first, second = layer.slow[:2]
    size = (CONTENT.stop - CONTENT.start) // 2
    for head in range(layer.num_heads):
        layer.q[head, first, CONSTANT] = 1
        layer.k[head, second, CONSTANT] = 1
        carriers = (QUERY_CARRIER, LEXICAL_CARRIER) if head < 2 else (DOCUMENT_CARRIER,)
        for carrier in carriers:
            layer.k[head, first, carrier] = 1000
        part = range(CONTENT.start + (head % 2) * size, CONTENT.start + (head % 2 + 1) * size)
        layer.v[head, range(size), part] = 1
        shift = 0 if head < 2 else CODE.start - CONTENT.start  # the document's bag goes where codes were
        layer.o[head, range(size), [index + shift for index in part]] = (2.0 if head < 2 else 1.0) / 8
    layer.v[0, size, LEXICAL] = 1
    layer.o[0, size, SCORE] = strengths.lexical
    gate, up, down = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
    for index in range(2 * size):
        for sign in (1.0, -1.0):
            row = 2 * index + (sign < 0)
            gate[row, CONTENT.start + index] = sign
            up[row, CODE.start + index] = sign
            down[SCORE, row] = strengths.semantic / 128
