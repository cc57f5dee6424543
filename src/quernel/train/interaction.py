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

NUM_LAYERS = 4
NUM_BUCKETS = 64


class Places:
    """What each coordinate of the residual stream means at the start.

    Args:
        hidden_size: Coordinates that there are. Twice the content must fit: at the end the reader holds both bags.
        num_heads: Heads of 64, among which contents are divided.

    Attributes:
        num_content: Coordinates of a token's meaning.
        content: Where they are.
        code: Where the buckets of a token are.
        found: Where the buckets that a document token found are.
        document: Where the reader has the document's bag; the query's is in `content`.
    """

    def __init__(self, hidden_size: int, num_heads: int) -> None:
        first = hidden_size - NUM_FLAGS
        parts = math.lcm(num_heads - 2, num_heads // 2)  # heads that gather bags, and that read one
        self.num_content = min(first - 2 * NUM_BUCKETS, first // 2, num_heads // 2 * (HEAD_DIM - 1)) // parts * parts
        self.content = slice(0, self.num_content)
        self.code = slice(self.num_content, self.num_content + NUM_BUCKETS)
        self.found = slice(self.code.stop, self.code.stop + NUM_BUCKETS)
        self.document = slice(self.num_content, 2 * self.num_content)
        (
            self.constant,
            self.weight,  # logit of the token in a bag
            self.rarity,  # logit of the token among the words of a query that should be found
            self.query_mark,
            self.document_mark,
            self.in_query,
            self.in_document,
            self.sink,
            self.lexical_carrier,
            self.query_carrier,
            self.document_carrier,
            self.reader,
            self.lexical,
            self.score,
        ) = range(first, hidden_size)


NUM_FLAGS = 14
HEAD_DIM = 64


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
        config: Four layers, four or more heads of 64 and as many key/value heads, an MLP of twice the content or more.
        content: Meaning of each token, unit rows `[vocab, Places.num_content]`.
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
    model.norm.weight.fill_(NORM / math.sqrt(config.hidden_size))
    _fill_table(
        model.embed_tokens.weight,
        Places(config.hidden_size, config.num_attention_heads),
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
        self.at = Places(model.config.hidden_size, self.num_heads)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.fill_(NORM / math.sqrt(model.config.hidden_size))
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
"""Length of a row after a norm, whatever the model's width; what follows is tuned to it."""


def _fill_table(
    table: Tensor,
    at: Places,
    *,
    content: Tensor,
    weights: Tensor,
    rarity: Tensor,
    vocabulary: Vocabulary,
    generator: torch.Generator,
) -> None:
    """The token table: what a token means, its code, its weights, and the flags of the template's tokens."""
    table[:, at.content] = content
    buckets = torch.rand(len(table), NUM_BUCKETS, generator=generator).topk(2, dim=1).indices + at.code.start
    table.scatter_(1, buckets, 0.5)
    table[:, at.constant] = FLAG
    table[:, at.weight] = ((weights - weights.max()) / WEIGHT_UNIT).clamp(min=-1.0)
    table[:, at.rarity] = ((rarity / rarity.max()).clamp(min=1e-4).log() / WEIGHT_UNIT).clamp(min=-1.0)
    template = {
        vocabulary.query_mark: {at.query_mark: 1.0},
        vocabulary.document_mark: {at.document_mark: 1.0},
        vocabulary.sink: {at.sink: 1.0},
        vocabulary.lexical_carrier: {at.lexical_carrier: 1.0, at.constant: CARRIER_SIZE},
        vocabulary.query_carrier: {at.query_carrier: 0.5},
        vocabulary.document_carrier: {at.document_carrier: 0.5},
        vocabulary.reader: {at.reader: 0.5, at.score: -0.8},
    }
    for token, flags in template.items():
        table[token] = 0
        table[token, at.constant] = FLAG
        for coordinate, value in flags.items():
            table[token, coordinate] = value
    # The head is the difference of the two answers: what they have in common must not be read as relevance.
    table[vocabulary.no] = table[vocabulary.yes]
    table[vocabulary.yes, at.score] = ANSWER
    table[vocabulary.no, at.score] = -ANSWER


def _mark_fields(layer: _Layer) -> None:
    """Head 0 attends to the nearest marker that there is; the others have no effect."""
    at = layer.at
    layer.scale(48.0)
    first, second = layer.slow[:2]
    layer.q[0, first, at.constant] = 1
    layer.k[0, first, [at.constant, at.query_mark, at.document_mark]] = torch.tensor([-1.0, 0.5, 4.0])
    layer.k[0, second, at.constant] = 1
    layer.v[0, 0, at.query_mark] = layer.v[0, 1, at.document_mark] = 1
    marker = NORM / math.hypot(1, FLAG)  # a marker's coordinate after the input norm
    layer.o[0, 0, at.in_query] = layer.o[0, 1, at.in_document] = FIELD / marker


def _match(layer: _Layer, strengths: Strengths, generator: torch.Generator) -> None:
    """All four heads match by code, each in its own 30 directions, and average what they find."""
    at = layer.at
    layer.scale(strengths.match_scale)
    field, extra, *meaning = layer.slow
    typical = 0.5 * math.sqrt(2 * len(meaning) / NUM_BUCKETS)  # length of a code in so many random directions
    # With a query of equal parts code and field and `slack` of a third part that the sink alone has too, the scores of
    # a query token of similarity s and of the sink are as (1 + s) / sqrt(2) and sqrt(1 + slack**2).
    slack = math.sqrt((1 + strengths.match_threshold) ** 2 / 2 - 1)
    for head in range(layer.num_heads):
        directions = torch.linalg.qr(torch.randn(NUM_BUCKETS, len(meaning), generator=generator))[0].T
        for weights in (layer.q, layer.k):
            weights[head, meaning, at.code] = directions
        layer.q[head, field, at.constant] = typical / FLAG
        layer.k[head, field, at.constant] = -typical / FLAG
        layer.k[head, field, at.in_query] = 2 * typical / FIELD
        layer.q[head, extra, at.constant] = typical * slack / FLAG
        layer.k[head, field, at.sink] = 100
        layer.k[head, extra, at.sink] = 100 * slack
        layer.v[head, :, at.code] = torch.eye(NUM_BUCKETS)
        layer.o[head, :, at.found] = torch.eye(NUM_BUCKETS) / layer.num_heads / 32


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
    at = layer.at
    largest = 64.0
    layer.scale(largest)
    first, second, rest, base = layer.slow[:4]
    found, wanted, *bags = range(layer.num_heads)
    bias = 1 / FLAG

    # A carrier looks along `first` or `second`; every other token along `rest`, where only the sink is.
    for head in range(layer.num_heads):
        layer.q[head, rest, at.constant] = FLAG
    for head in (found, wanted):
        layer.q[head, first, at.lexical_carrier] = 100
    for head in bags:
        layer.q[head, first, at.query_carrier] = layer.q[head, second, at.document_carrier] = 100

    # Found codes are summed: the cosine of the sink exceeds that of a document token by log(SUM_LENGTH).
    layer.k[found, first, at.constant] = -bias
    layer.k[found, first, at.in_document] = 2 / FIELD
    layer.k[found, base, at.constant] = bias
    cosine = math.sqrt(0.5) + math.log(SUM_LENGTH / 3) / largest  # three sinks in a prompt
    layer.k[found, first, at.sink] = 100 * cosine
    layer.k[found, rest, at.sink] = 100 * math.sqrt(1 - cosine**2)

    layer.k[wanted, first, at.constant] = -bias
    layer.k[wanted, first, at.in_query] = 2 / FIELD
    layer.k[wanted, first, at.rarity] = WEIGHT_UNIT / (largest * math.sqrt(0.125))
    layer.k[wanted, base, at.constant] = bias
    layer.k[wanted, rest, at.sink] = 8
    for head in bags:
        for dimension, field in ((first, at.in_query), (second, at.in_document)):
            layer.k[head, dimension, at.constant] = -bias
            layer.k[head, dimension, field] = 2 / FIELD
            layer.k[head, dimension, at.weight] = WEIGHT_UNIT / (largest * math.sqrt(1 / 3))
        layer.k[head, base, at.constant] = bias
        layer.k[head, rest, at.sink] = 8

    for carrier in (
        at.lexical_carrier,
        at.query_carrier,
        at.document_carrier,
        at.reader,
    ):  # They follow the document; not part of it.
        layer.k[:, first, carrier] = layer.k[:, second, carrier] = -100

    layer.v[found, :, at.found] = torch.eye(NUM_BUCKETS)
    layer.o[found, :, at.found] = torch.eye(NUM_BUCKETS) * 1.6 * SUM_LENGTH
    layer.v[wanted, :, at.code] = torch.eye(NUM_BUCKETS)
    layer.o[wanted, :, at.code] = torch.eye(NUM_BUCKETS) * 0.4
    size = at.num_content // len(bags)
    for position, head in enumerate(bags):
        part = list(range(position * size, (position + 1) * size))
        layer.v[head, range(size), part] = 1
        layer.o[head, range(size), part] = 2

    # wanted * (silu(x) - silu(x - c)): x is c where a code was found once.
    gate, up, down = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
    for bucket in range(NUM_BUCKETS):
        for unit, (offset, sign) in enumerate(((0.0, 1.0), (-CLIP, -1.0))):
            row = 2 * bucket + unit
            gate[row, at.found.start + bucket] = 26.0
            gate[row, at.constant] = offset / NORM  # the carrier's constant is nearly all of it
            up[row, at.code.start + bucket] = 1.0
            down[at.lexical, row] = sign / CLIP


def _compare(layer: _Layer, strengths: Strengths) -> None:
    """The last token reads the carriers and multiplies the two bags."""
    at = layer.at
    layer.scale(48.0)
    first, second = layer.slow[:2]
    half = layer.num_heads // 2
    size = at.num_content // half
    for head in range(layer.num_heads):
        layer.q[head, first, at.constant] = 1
        layer.k[head, second, at.constant] = 1
        carriers = (at.query_carrier, at.lexical_carrier) if head < half else (at.document_carrier,)
        for carrier in carriers:
            layer.k[head, first, carrier] = 1000
        part = range(head % half * size, (head % half + 1) * size)
        layer.v[head, range(size), part] = 1
        shift = 0 if head < half else at.document.start
        layer.o[head, range(size), [index + shift for index in part]] = (2.0 if head < half else 1.0) / 8
    layer.v[0, size, at.lexical] = 1
    layer.o[0, size, at.score] = strengths.lexical
    gate, up, down = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
    for index in range(at.num_content):
        for sign in (1.0, -1.0):
            row = 2 * index + (sign < 0)
            gate[row, index] = sign
            up[row, at.document.start + index] = sign
            down[at.score, row] = strengths.semantic / 128
