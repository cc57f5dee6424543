"""How fast a model is on this machine: named workloads, rates, waits, and the machine's own ceiling.

The ceiling is the rate at which torch multiplies matrices of the model's shapes, in its type, measured in the same run
between the repetitions of the workload: a machine that is shared slows down both.
"""

import random
import resource
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from quernel.embedder import Embedder
from quernel.errors import InvalidRequestError
from quernel.model.config import Qwen3Config
from quernel.model.dtypes import working_dtype
from quernel.model.linear import choose_linear, plain_linear
from quernel.reranker import Reranker
from quernel.types import EmbeddingRequest, InputType, ModelKind, RerankRequest, Truncate

WORDS = (
    "water engine river market history protein signal language surface garden theory winter metal window planet energy",
    "island doctor letter bridge number animal school summer music pressure velocity boundary layer paper stone cloud",
)
"""What made-up texts are made of; common words, about a token each."""

CEILING_ROWS = 512
"""Rows of the matrices whose product is the ceiling: where CPUs are fastest, and enough for a GPU."""


@dataclass(frozen=True, slots=True)
class Workload:
    """Made-up requests of one kind.

    Attributes:
        kind: The kind of model it is for.
        about: What it stands for.
        words: Draws the number of words of a text.
        count: Texts in one repetition.
        input_type: How an embedding model is to read them.
    """

    kind: ModelKind
    about: str
    words: Callable[[random.Random], int]
    count: int
    input_type: InputType = InputType.DOCUMENT


WORKLOADS = {
    "queries": Workload(
        ModelKind.EMBEDDING,
        "short queries under one instruction",
        lambda draw: draw.randint(5, 25),
        256,
        InputType.QUERY,
    ),
    "passages": Workload(ModelKind.EMBEDDING, "passages of a corpus", lambda draw: draw.randint(25, 350), 128),
    "mix": Workload(
        ModelKind.EMBEDDING,
        "mostly short texts, some long",
        lambda draw: min(int(10 * draw.paretovariate(0.8)), 1_500),
        96,
    ),
    "long": Workload(ModelKind.EMBEDDING, "one document of 4,000 words", lambda draw: 4_000, 1),
    "rerank": Workload(ModelKind.RERANKER, "one query, 50 passages", lambda draw: draw.randint(40, 160), 50),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Measurement:
    """What a workload took.

    Attributes:
        workload: Its name.
        num_texts: Texts (documents, for a reranker) in one repetition.
        num_tokens: Tokens read in one repetition, shared ones counted each time.
        seconds: Of each repetition.
        single_seconds: Of each request with one text (one document), one after the other.
        ceiling_flops: Operations a second of the model's matrix products, measured between the repetitions.
        flops_per_token: Operations of those products for one token.
        peak_bytes: Highest resident memory of the process so far.
    """

    workload: str
    num_texts: int
    num_tokens: int
    seconds: tuple[float, ...]
    single_seconds: tuple[float, ...]
    ceiling_flops: tuple[float, ...]
    flops_per_token: int
    peak_bytes: int

    @property
    def texts_per_second(self) -> float:
        """By the median repetition."""
        return self.num_texts / statistics.median(self.seconds)

    @property
    def tokens_per_second(self) -> float:
        """By the median repetition."""
        return self.num_tokens / statistics.median(self.seconds)

    @property
    def share_of_ceiling(self) -> float:
        """Tokens a second over what the matrix products alone would allow.

        Above 1 where what is left out saves more than everything else costs: shared tokens count each time they are
        read, and the last layer is computed for the read tokens alone, which in a model of few layers is much.
        """
        return self.tokens_per_second * self.flops_per_token / statistics.median(self.ceiling_flops)

    def wait(self, share: float) -> float:
        """Seconds within which that share of the single requests was answered."""
        return sorted(self.single_seconds)[min(int(share * len(self.single_seconds)), len(self.single_seconds) - 1)]


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Measures one model.

    Attributes:
        model: An embedding model or a reranker.
        config: Its shape.
        repetitions: How often each workload runs, after one run that is not counted.
        num_singles: How many single requests are timed, at most.
        singles_seconds: How long they may take in all; five are timed in any case.
        report: Called with a line of progress.
    """

    model: Embedder | Reranker
    config: Qwen3Config
    repetitions: int = 5
    num_singles: int = 50
    singles_seconds: float = 5.0
    report: Callable[[str], None] = field(default=lambda line: None)

    def workloads(self) -> list[str]:
        """Names of the workloads that suit the model."""
        return [name for name, workload in WORKLOADS.items() if workload.kind is self.model.info.kind]

    def run(self, name: str, texts: Sequence[str] | None = None) -> Measurement:
        """Measure a workload.

        Args:
            name: Of a workload, or what to call `texts`.
            texts: The user's own texts in its place; a reranker takes the first as the query.

        Raises:
            InvalidRequestError: The workload is for the other kind of model, or there are too few texts.
        """
        input_type = InputType.DOCUMENT
        if texts is None:
            workload = WORKLOADS[name]
            if workload.kind is not self.model.info.kind:
                raise InvalidRequestError(
                    f"The workload {name!r} is for a model of kind {workload.kind}.",
                    param="workload",
                    hint=f"Use {' or '.join(self.workloads())}.",
                )
            input_type = workload.input_type
            texts = make_texts(workload)
        if isinstance(self.model, Reranker) and len(texts) < 2:
            raise InvalidRequestError("A reranker needs a query and a document.", param="texts")
        send = self._sender(input_type)
        num_tokens = send(texts)
        seconds, ceilings = [], []
        for repetition in range(self.repetitions):
            ceilings.append(measure_ceiling(self.config, self.model.info.dtype, self.model.info.device))
            start = time.perf_counter()
            send(texts)
            seconds.append(time.perf_counter() - start)
            self.report(f"{name}: {repetition + 1} of {self.repetitions}, {num_tokens / seconds[-1]:,.0f} tokens/s")
        singles: list[float] = []
        for index in range(self.num_singles):
            if len(singles) >= 5 and sum(singles) > self.singles_seconds:
                break
            start = time.perf_counter()
            send(
                [texts[0], texts[index % (len(texts) - 1) + 1]]
                if isinstance(self.model, Reranker)
                else [texts[index % len(texts)]]
            )
            singles.append(time.perf_counter() - start)
        return Measurement(
            workload=name,
            num_texts=len(texts) - isinstance(self.model, Reranker),
            num_tokens=num_tokens,
            seconds=tuple(seconds),
            single_seconds=tuple(singles),
            ceiling_flops=tuple(ceilings),
            flops_per_token=2 * self.config.num_layer_parameters,
            peak_bytes=peak_bytes(),
        )

    def _sender(self, input_type: InputType) -> Callable[[Sequence[str]], int]:
        """What sends texts to the model and gives the tokens that it read."""
        model = self.model
        if isinstance(model, Embedder):
            return lambda texts: sum(
                model.embed_sync(
                    EmbeddingRequest(inputs=texts, input_type=input_type, truncate=Truncate.END)
                ).num_tokens
            )
        return lambda texts: sum(
            model.rerank_sync(RerankRequest(query=texts[0], documents=texts[1:], truncate=Truncate.END)).num_tokens
        )


def make_texts(workload: Workload, seed: int = 0) -> list[str]:
    """The texts of a workload, the same every time; for a reranker a query of 12 words comes first."""
    draw = random.Random(seed)
    words = " ".join(WORDS).split()
    lengths = [workload.words(draw) for _ in range(workload.count)]
    if workload.kind is ModelKind.RERANKER:
        lengths.insert(0, 12)
    return [" ".join(draw.choices(words, k=length)) for length in lengths]


def measure_ceiling(config: Qwen3Config, dtype: str, device: str) -> float:
    """Operations a second of the matrix products of one layer, back to back, in the fastest form that this machine has.

    Args:
        config: The model's shape.
        dtype: The type of the products, by name.
        device: Where.
    """
    queries, keys = (count * config.head_dim for count in (config.num_attention_heads, config.num_key_value_heads))
    shapes = (
        (config.hidden_size, queries + 2 * keys),
        (queries, config.hidden_size),
        (config.hidden_size, 2 * config.intermediate_size),
        (config.intermediate_size, config.hidden_size),
    )
    kind, where = getattr(torch, dtype), torch.device(device)
    forms: list[Callable[[Tensor], nn.Module]] = [choose_linear(kind, where)]
    if kind is not torch.int8:
        forms.append(plain_linear)

    def seconds(form: Callable[[Tensor], nn.Module]) -> float:
        pairs = []
        for width, out in shapes:
            linear = form(torch.ones(out, width, dtype=working_dtype(kind), device=where))
            rows = torch.ones(CEILING_ROWS, width, dtype=working_dtype(kind), device=where)
            pairs.append((linear, linear.prepare(rows)))  # type: ignore[operator]
        best = float("inf")
        for _ in range(6):
            start = time.perf_counter()
            for linear, rows in pairs:
                linear(rows)
            if where.type == "cuda":
                torch.cuda.synchronize(where)
            best = min(best, time.perf_counter() - start)
        return best

    with torch.inference_mode():
        return sum(2 * CEILING_ROWS * width * out for width, out in shapes) / min(map(seconds, forms))


def peak_bytes() -> int:
    """Highest resident memory of this process so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak << 10
