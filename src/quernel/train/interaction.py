"""The reranker's start: the embedding model read inside the reranking prompt, and the words of the query counted.

Everything below is ordinary weights of an ordinary Qwen3; nothing at run time knows of it. Each row of the stream holds
what the embedding model holds there, and beside it a few flags. What the layers do on the prompt
`... <Instruct>: {instruction}\\n<Query>: {query}\\n<Document>: {document}<|im_end|> ... \\n\\n`:

    fields    every token attends to the field marker above it (`<Instruct`, `<Query`, `<Document`): it learns its
              field. Markers that a document writes are words of it
    words     every token attends to its equals in query and document, itself among them. The n-th of a word in a
              document, where the query has it m times, learns m / (m + n); an MLP makes of it 1 for the first and 0
              for the others, times how rare the word is. So a word counts once, as in BM25 with full saturation
    context   the embedding model's own layers, where a document sees itself alone, and the query what was asked.
              `<Document` and `<|im_end|>` play the end tokens of the two texts
    pooling   the embedding model's last layer: these two tokens now hold the vectors of query and document. In a
              head that it does not have the last token sums what was found, less a share of what was wanted
    compare   the last token reads the sum of the two vectors, whose length tells their cosine

Three facts make this exact. A mask is a dimension of q and k where q is small, k zero inside the field and the norms'
weights so large that outside the score is far below all others. A pair of SwiGLU units squares: silu(x) x + silu(-x)
(-x) = x^2. A sink of weight L makes a mean over n tokens their sum divided by L + n, nearly by L.

Shapes:
    V   vocabulary                            C   width of the embedding model
    H   heads, as many key/value heads        D   width of a head
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import torch
import torch.nn.functional as F
from torch import Tensor

from quernel.model.layers import DecoderLayer
from quernel.model.qwen3 import Qwen3
from quernel.train.bag import slow_dimensions


class Flag(IntEnum):
    """What the coordinates behind the embedding model's mean."""

    CONSTANT = 0  # in every token
    INSTRUCT_MARK = 1
    QUERY_MARK = 2
    QUERY_END = 3  # `<Document`, which also marks the document
    DOCUMENT_END = 4
    SINK = 5
    COLON = 6  # behind each marker; no part of the document
    BETWEEN = 7  # behind the system's part, before the instruction
    ASKED = 8  # in the instruction or the query
    QUERY = 9
    DOCUMENT = 10
    RARITY = 11  # of a word, 0 to 1
    SHARE = 12  # of the query in the token's equals
    FOUND = 13  # rarity of a word of the query that is here first in the document; what it costs, in the query
    SCORE = 14
    READER = 15  # the token whose score is read


NUM_FLAGS = len(Flag)

LAYERS_BELOW, LAYERS_ABOVE = 2, 1
"""Layers that the reranker has below and above the embedding model's own."""

SIZE = 0.25
"""Of a flag; small beside a token's 26, so that the norms divide by what they divided by."""

LAST_MARKER = 300.0
"""Score of the last marker, nearly; the one before it has 130 less or more."""

SAME_WORD = 60.0
"""Score of a token and its equal; of two words of cosine 0.9, which is rare, 54."""

FIRST_SHARE, QUERY_SHARE, RAMP, STEEP = 0.4, 0.8, 0.05, 1000.0
"""Where the steps begin: the first equal in a document has a share of 1/2, the second of 1/3, a query's word of 1."""

REPEATED_SHARE = 0.2
"""Where the step begins that knows the second `<Document`, whose share is 1/3, from the first, whose share is 0."""

MASK_SIZE, MASKING = 0.05, 100.0
"""Share of a head's length that a mask takes, and the norms' weight of its dimension: together a score of some -200."""

SUM_LENGTH = 4000.0
"""Weight of the sinks beside one token: a mean over so many tokens is nearly a sum."""

READ = 32.0
"""Score of what the last token reads; all else has its negative."""

FAR = 64.0
"""Makes flags large enough for a norm's epsilon where rows are ten times as long as in the table."""

LOUD = 1024.0
"""Size of what the last token reads, beside its own row."""

FOUND, SQUARE, READING = 83.0, 88.0, 32.0
"""Sizes of the score: with these `Strengths` are logits."""


@dataclass(frozen=True, kw_only=True)
class Vocabulary:
    """The tokens of the template that play a part.

    Attributes:
        instruct_mark: `<Instruct`.
        query_mark: `<Query`.
        document_mark: `<Document`.
        colon: `>:`, behind each of them.
        sink: `<|im_start|>`, the first token of every prompt.
        document_end: `<|im_end|>`.
        reader: The last token of every prompt, two newlines.
        yes: The answer for relevant.
        no: The answer for irrelevant.
        plain: What stands for a template's token in the embedding model's prompt, by token.
        silent: Tokens that are no words: template and line ends.
    """

    instruct_mark: int
    query_mark: int
    document_mark: int
    colon: int
    sink: int
    document_end: int
    reader: int
    yes: int
    no: int
    plain: Mapping[int, int]
    silent: tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Strengths:
    """How the start weighs its parts.

    Attributes:
        semantic: Logits for a cosine of 1, nearly.
        lexical: Logits for the rarest word that is found, nearly.
        wanted: Share of that which every word of the query costs, found or not; so queries of any length compare.
        even: Cosine at which the two answers are even, words apart.
    """

    semantic: float = 12.0
    lexical: float = 1.0
    wanted: float = 0.3
    even: float = 0.5


@torch.no_grad()
def start_reranker(
    embedder: Qwen3, *, rarity: Tensor, vocabulary: Vocabulary, strengths: Strengths, seed: int
) -> Qwen3:
    """A model that computes what the module describes, from an embedding model that pools in its last layer.

    Args:
        embedder: As many key/value heads as heads; its last layer ignores positions (`bag`).
        rarity: Of each token among the words of a query, 0 to 1. `[V]`
        vocabulary: The template's tokens.
        strengths: How much each part counts.
        seed: Fixes the units that have no part yet, for training to take up.
    """
    small = embedder.config
    config = replace(
        small,
        hidden_size=small.hidden_size + NUM_FLAGS,
        num_hidden_layers=LAYERS_BELOW + small.num_hidden_layers + LAYERS_ABOVE,
        num_attention_heads=small.num_attention_heads + 1,
        num_key_value_heads=small.num_key_value_heads + 1,
        quantisable=False,
    )
    model = Qwen3(config)
    for name, parameter in model.named_parameters():
        if "norm" not in name:
            parameter.zero_()
    _fill_table(model.embed_tokens.weight, embedder.embed_tokens.weight, rarity, vocabulary)
    layers = [_Layer(model, index, small.hidden_size) for index in range(config.num_hidden_layers)]
    _mark_fields(layers[0], model.embed_tokens.weight, vocabulary)
    _find_words(layers[1], model.embed_tokens.weight, strengths.wanted)
    context, pooling = layers[LAYERS_BELOW:-2], layers[-2]
    for layer, old in zip((*context, pooling), embedder.layers, strict=True):
        assert isinstance(old, DecoderLayer)
        layer.copy(old)
    for layer in context:
        _stay_in_field(layer, config.head_dim // 2 - 2, model.embed_tokens.weight, vocabulary.document_end)
    # The slowest pairs that this layer does not use.
    _stay_in_field(pooling, slow_dimensions(config.head_dim)[0] - 2, model.embed_tokens.weight, vocabulary.document_end)
    _sum_found(pooling, strengths.lexical)
    _compare(layers[-1], strengths)
    generator = torch.Generator().manual_seed(seed)
    for name, projection in model.named_parameters():
        if "gate_proj" in name or "up_proj" in name:
            idle = projection.abs().sum(dim=1) == 0
            noise = torch.randn(projection.shape, generator=generator) * 0.5 / math.sqrt(config.hidden_size)
            projection[idle] = noise[idle]
    # Of the last token nothing but its score is read.
    model.norm.weight.zero_()
    model.norm.weight[small.hidden_size + Flag.SCORE] = READING
    return model


class _Layer:
    """One layer's weights, addressed by head, dimension and flag."""

    def __init__(self, model: Qwen3, index: int, width: int) -> None:
        layer = model.layers[index]
        assert isinstance(layer, DecoderLayer)
        attention, config = layer.self_attn, model.config
        self.layer, self.width = layer, width
        self.head_dim, self.num_heads = config.head_dim, config.num_attention_heads
        self.q = attention.q_proj.weight.view(self.num_heads, self.head_dim, -1)
        self.k = attention.k_proj.weight.view(self.num_heads, self.head_dim, -1)
        self.v = attention.v_proj.weight.view(self.num_heads, self.head_dim, -1)
        self.o = attention.o_proj.weight.view(-1, self.num_heads, self.head_dim).permute(1, 2, 0)  # [H, D, C]
        self.norms = (attention.q_norm.weight, attention.k_norm.weight)
        self.mlp = layer.mlp
        # A norm divides by the root of the mean square, and a wider row has a smaller one.
        self.scale = math.sqrt(width / config.hidden_size)
        for norm in (layer.input_layernorm, layer.post_attention_layernorm):
            norm.weight.fill_(self.scale)

    def at(self, flag: Flag) -> int:
        """Its coordinate."""
        return self.width + flag

    def flags(self, **values: float) -> Tensor:
        """A row of a projection that reads flags alone."""
        row = torch.zeros(self.q.shape[-1])
        for name, value in values.items():
            row[self.at(Flag[name])] = value
        return row

    def copy(self, old: DecoderLayer) -> None:
        """The embedding model's layer, which neither sees nor changes the flags."""
        mine = dict(self.layer.named_parameters())
        for name, theirs in old.named_parameters():
            if "layernorm" in name:
                mine[name][: self.width] = theirs * self.scale
            elif "proj" in name:
                mine[name][: theirs.shape[0], : theirs.shape[1]] = theirs
            else:
                mine[name].copy_(theirs)

    def add_steps(self, steps: Sequence[tuple[float, float]], *, of: Flag, to: Flag) -> None:
        """From each share on, so many times a flag is added to another. A step is a difference of two ramps."""
        ramps = [(share + late, size * sign) for share, size in steps for late, sign in ((0.0, 1), (RAMP, -1))]
        for unit, (share, size) in enumerate(ramps):
            self.mlp.gate_proj.weight[unit] = self.flags(SHARE=STEEP, CONSTANT=-STEEP * share)
            self.mlp.up_proj.weight[unit] = self.flags(**{of.name: 1})
            self.mlp.down_proj.weight[self.at(to), unit] = size

    def sharpen(self, dimensions: list[int], largest: float) -> None:
        """Scores become `largest` times the cosine of the raw vectors in these dimensions; the others are not seen."""
        for norm in self.norms:
            norm.zero_()
            norm[dimensions] = math.sqrt(largest / math.sqrt(self.head_dim))


def _fill_table(table: Tensor, old: Tensor, rarity: Tensor, vocabulary: Vocabulary) -> None:
    """The embedding model's table, how rare words are, and the flags of the template's tokens."""
    width = old.shape[1]
    table[:, :width] = old
    for token, plain in vocabulary.plain.items():
        table[token, :width] = old[plain]
    table[:, width + Flag.CONSTANT] = SIZE
    table[:, width + Flag.RARITY] = SIZE * rarity
    table[list(vocabulary.silent), width + Flag.RARITY] = 0
    for token, flag in {
        vocabulary.instruct_mark: Flag.INSTRUCT_MARK,
        vocabulary.query_mark: Flag.QUERY_MARK,
        vocabulary.document_mark: Flag.QUERY_END,
        vocabulary.document_end: Flag.DOCUMENT_END,
        vocabulary.colon: Flag.COLON,
        vocabulary.sink: Flag.SINK,
        vocabulary.reader: Flag.READER,
    }.items():
        table[token, width + flag] = SIZE
    table[vocabulary.sink, :width] = 0  # so it stays through the layers in the first token, which sees itself alone
    for answer, sign in ((vocabulary.yes, 1), (vocabulary.no, -1)):
        table[answer, width + Flag.SCORE] = sign * SIZE


def _mark_fields(layer: _Layer, table: Tensor, vocabulary: Vocabulary) -> None:
    """Head 0 attends to the last kind of marker that there is; head 1 tells a document's markers from the prompt's."""
    first, second = layer.head_dim // 2 - 1, layer.head_dim - 1  # the slowest pair
    layer.sharpen([first, second], LAST_MARKER)
    layer.q[0, first] = layer.flags(CONSTANT=1)
    layer.k[0, first] = layer.flags(CONSTANT=-1, DOCUMENT_END=0.5, INSTRUCT_MARK=1, QUERY_MARK=1.5, QUERY_END=4)
    layer.k[0, second] = layer.flags(CONSTANT=1)
    markers = {
        vocabulary.document_end: (Flag.DOCUMENT_END, (Flag.BETWEEN,)),
        vocabulary.instruct_mark: (Flag.INSTRUCT_MARK, (Flag.ASKED,)),
        vocabulary.query_mark: (Flag.QUERY_MARK, (Flag.ASKED, Flag.QUERY)),
        vocabulary.document_mark: (Flag.QUERY_END, (Flag.DOCUMENT,)),
    }
    factors = {}
    for dimension, (token, (mark, fields)) in enumerate(markers.items()):
        layer.v[0, dimension, layer.at(mark)] = 1
        factors[mark] = _fit_marker(layer, table[token])
        layer.o[0, dimension, [layer.at(field) for field in fields]] = factors[mark]

    # The n-th `<Document` attends to all n and to the end of the system's turn, which no text can repeat. What their
    # shares differ by, (n - 1) / (n + 1), is 0 for the first. All other tokens attend to neither.
    layer.q[1, first] = layer.flags(CONSTANT=-1, QUERY_END=2)
    layer.k[1, first] = layer.flags(CONSTANT=-1, DOCUMENT_END=2, QUERY_END=2)
    for dimension, (mark, sign) in enumerate(((Flag.QUERY_END, 1.0), (Flag.DOCUMENT_END, -1.0))):
        layer.v[1, dimension, layer.at(mark)] = 1
        layer.o[1, dimension, layer.at(Flag.SHARE)] = sign * factors[mark]
    # All but the first lose the mark, and are words of the document like any other.
    read = SIZE / factors[Flag.QUERY_END]
    mark_itself = SIZE / (STEEP * RAMP * read**2)
    layer.add_steps([(REPEATED_SHARE, -mark_itself)], of=Flag.QUERY_END, to=Flag.QUERY_END)


def _fit_marker(layer: _Layer, row: Tensor) -> float:
    """The factor that makes of a marker's flag, after the norm, exactly `SIZE`, in float32 and in bfloat16.

    So a mask is zero inside its field. A factor in bfloat16 alone is not as fine: the row's length is fitted to it, by
    its score, which nothing reads.
    """
    gain = torch.tensor(layer.scale).bfloat16()
    length = row.norm().item()
    for step in range(1, 64):
        factor = torch.tensor(length / math.sqrt(len(row)) / gain.item() * (1 + step / 1000)).bfloat16()
        fitted = factor.item() * gain.item() * math.sqrt(len(row))
        read = torch.tensor(SIZE * math.sqrt(len(row)) / fitted).bfloat16() * gain
        if fitted > length and read * factor == SIZE:
            row[layer.at(Flag.SCORE)] = math.sqrt(fitted**2 - length**2)
            return factor.item()
    raise AssertionError("no factor fits")


def _find_words(layer: _Layer, table: Tensor, wanted: float) -> None:
    """All heads attend to a token's equals, each by its own directions of the table, and average what they find."""
    slow = slow_dimensions(layer.head_dim)
    outside, *meaning = slow
    layer.sharpen(slow, SAME_WORD)
    content = table[:, : layer.width]
    mean = content.mean(dim=0)
    _, lengths, directions = torch.linalg.svd(content - mean, full_matrices=False)
    # In directions of the same variance two words have little in common, whatever they mean.
    white = directions / (lengths / math.sqrt(len(table))).unsqueeze(1)
    for head in range(layer.num_heads):
        chosen = white[head :: layer.num_heads][: len(meaning)]
        for weights in (layer.q, layer.k):
            weights[head, meaning, : layer.width] = chosen
            weights[head, meaning, layer.at(Flag.CONSTANT)] = -(chosen @ mean) / SIZE
        layer.k[head, outside] = layer.flags(CONSTANT=400, QUERY=-400, DOCUMENT=-400, COLON=1600, QUERY_END=1600)
        layer.v[head, 0, layer.at(Flag.QUERY)] = 1
        layer.o[head, 0, layer.at(Flag.SHARE)] = table.norm(dim=1).mean() / math.sqrt(layer.width) / layer.num_heads

    # Up between the second and the first in a document, down at a word of the query, which finds nothing but itself.
    layer.add_steps([(FIRST_SHARE, 1.0), (QUERY_SHARE, -1.0 - wanted)], of=Flag.RARITY, to=Flag.FOUND)


def _stay_in_field(layer: _Layer, first: int, table: Tensor, end: int) -> None:
    """Documents see themselves and the query what was asked: masks in the first halves of two rotary pairs.

    Args:
        layer: The layer.
        first: The first pair.
        table: The token table; what a layer reads is taken to be as long as what it would read there.
        end: Token at which the embedding model is read.
    """
    document, asked = first, first + 1
    for norm in layer.norms:
        norm[[document, asked]] = MASKING
    rows = F.normalize(table, dim=1) * math.sqrt(table.shape[1]) * layer.layer.input_layernorm.weight
    for weights in (layer.q, layer.k):
        weights[:, [document, asked]] = 0
        lengths = torch.einsum("hdc,vc->vhd", weights, rows).norm(dim=2)
        # Small beside the rest of a head, so that the norm over it hardly changes.
        sizes = torch.minimum(lengths.median(dim=0).values, lengths[end]) * MASK_SIZE / SIZE
        if weights is layer.q:
            read = (layer.flags(DOCUMENT=-1, QUERY_END=1), layer.flags(ASKED=-1, QUERY_END=-1))
        else:
            read = (
                layer.flags(CONSTANT=1, DOCUMENT=-1, QUERY_END=2, COLON=2),
                layer.flags(CONSTANT=1, ASKED=-1, QUERY_END=-1),
            )
        for dimension, row in zip((document, asked), read, strict=True):
            weights[:, dimension] = sizes.unsqueeze(1) * row


def _sum_found(layer: _Layer, strength: float) -> None:
    """In the head that the embedding model does not have, the last token sums what the two texts' tokens found."""
    head, first, second = layer.num_heads - 1, layer.head_dim // 2 - 1, layer.head_dim - 1  # the slowest pair
    query_norm, key_norm = layer.norms
    largest = math.sqrt(layer.head_dim) * (query_norm[first] * key_norm[first]).item()
    # The last token looks along `first`, where the three sinks have a cosine of 0.9 and a document's token less by so
    # much that a sink weighs SUM_LENGTH / 3 of them. All others look along `second`, at the sinks alone.
    document, sink = 0.9 - math.log(SUM_LENGTH / 3) / largest, 0.9
    layer.q[head, first] = layer.flags(READER=100)
    layer.q[head, second] = layer.flags(CONSTANT=1)
    below = 0.5 - math.sqrt(1 - document**2)
    above = 100 * math.sqrt(1 - sink**2)
    layer.k[head, first] = layer.flags(CONSTANT=-1, DOCUMENT=1 + document, QUERY=1 + document, SINK=100 * sink)
    layer.k[head, second] = layer.flags(CONSTANT=-0.5, DOCUMENT=below, QUERY=below, SINK=above)
    layer.v[head, 0] = layer.flags(FOUND=1)
    layer.o[head, 0, layer.at(Flag.SCORE)] = SUM_LENGTH * strength * FOUND


def _compare(layer: _Layer, strengths: Strengths) -> None:
    """The last token reads the two ends.

    What it reads is `LOUD` beside its own row, so that the next norm leaves `s`, a third of the sum of the two vectors,
    and a constant `c`, a third of a length of `sqrt(2 C)`: with `a` the cosine, the row's square has a share of
    `(1 + a) / (2 + a)` in the vectors and the rest in the constant.
    """
    slowest = layer.head_dim - 1
    layer.sharpen([slowest], READ)
    *readers, last = range(layer.num_heads)
    # In one dimension a cosine is 1 or -1, whatever was rounded: those that are read weigh the same to the bit. They
    # are the two ends and the first sink: not the one before the user's turn, nor the one behind the document.
    ends = {"CONSTANT": -1, "DOCUMENT": -2, "QUERY_END": 4, "DOCUMENT_END": 4, "SINK": 2, "BETWEEN": -4}
    # The rows are long by now and flags small beside them: the factor keeps them above a norm's epsilon.
    layer.q[:, slowest] = layer.flags(CONSTANT=1) * FAR
    layer.k[:, slowest] = layer.flags(**ends) * FAR
    for place in range(layer.width):
        head, dimension = divmod(place, layer.head_dim)
        layer.v[readers[head], dimension, place] = 1
        layer.o[readers[head], dimension, place] = LOUD
    layer.v[last, 0] = layer.flags(SINK=1)
    # The sink's row is two flags and nothing else, so that its norm makes each sqrt(C / 2).
    layer.o[last, 0, layer.at(Flag.CONSTANT)] = 2 * LOUD

    # silu(x) x + silu(-x) (-x) = x^2
    gate, up, down = layer.mlp.gate_proj.weight, layer.mlp.up_proj.weight, layer.mlp.down_proj.weight
    compared = min(layer.width, len(gate) // 2 - 1)  # the last are of least weight in Matryoshka's order
    squared = [(place, strengths.semantic) for place in range(compared)]
    squared.append((layer.at(Flag.CONSTANT), -strengths.semantic * (1 + strengths.even)))
    for unit, (coordinate, weight) in enumerate(squared):
        for row, sign in ((2 * unit, 1.0), (2 * unit + 1, -1.0)):
            gate[row, coordinate] = up[row, coordinate] = sign
            down[layer.at(Flag.SCORE), row] = weight * SQUARE / layer.width
