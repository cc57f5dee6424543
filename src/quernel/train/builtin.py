"""The built-in pair from raw data to artefacts: `python -m quernel.train.builtin --data DIR --out DIR`.

Stages run in this order, each from the files of those before it in `--out/work`, so that one may be run again alone:

    vocabulary   count words in a sample of the data; the tokenizer
    corpus       leave out what the evaluation sets hold (`--evaluation`), tokenize the rest
    teacher      vectors of tokens and texts from a larger model (`--teacher`); without one the table starts at random
    bag          train the one-layer embedding model as a bag of tokens
    grow         insert layers below the pooling layer and train them; nothing where the settings ask for none
    reranker     build the reranker from the embedding model's bag, then train it
    export       write both folders; model cards (`README.md`) are written by hand and left alone

Numbers come from `builtin.toml` and the seeds in it. Runs are repeatable on one machine as long as `--budget-minutes`
does not end a stage early. It uses one thread; more make it faster only where cores are free.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer

from quernel.errors import SettingsError
from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3
from quernel.train.bag import bag_hidden, pooling_layer, start_bag
from quernel.train.batches import Mixture, Sampler
from quernel.train.contamination import ContaminationFilter, read_evaluation_texts
from quernel.train.corpus import Corpus, build_corpus
from quernel.train.export import write_embedder, write_reranker
from quernel.train.groups import GroupSampler
from quernel.train.grow import insert_layers
from quernel.train.interaction import CONTENT, NUM_LAYERS, Strengths, Vocabulary, start_reranker
from quernel.train.narrow import NarrowObjective, start_narrow
from quernel.train.settings import BuiltinSettings, RunSettings
from quernel.train.sources import Row, list_sources, read_rows
from quernel.train.teacher import Targets, encode_with_teacher, fit_projection, project, token_weights
from quernel.train.trainer import (
    Embed,
    EmbeddingObjective,
    EmbeddingWeights,
    RerankObjective,
    Schedule,
    bag_embed,
    train,
    transformer_hidden,
)
from quernel.train.vocabulary import END_OF_TEXT, token_id, train_tokenizer

MAX_QUERY_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where the making takes place.

    Attributes:
        settings: What is made.
        data: Folder of training data.
        out: Folder of the artefacts; `work` in it holds what stages leave for each other.
        evaluation: Folder of evaluation sets that training must not see; `None` to trust the data.
        teacher: Checkpoint of the teacher.
        max_seconds: Longest time of one training run.
        report: Takes lines of progress.
    """

    settings: BuiltinSettings
    data: Path
    out: Path
    evaluation: Path | None = None
    teacher: Path | None = None
    max_seconds: float | None = None
    report: Callable[[str], None] = lambda line: None

    @property
    def work(self) -> Path:
        """The folder between the stages."""
        return self.out / "work"

    def tokenizer(self) -> Tokenizer:
        """What the stage `vocabulary` left."""
        return Tokenizer.from_file(str(self._left_by("vocabulary", "tokenizer.json")))

    def corpus(self) -> Corpus:
        """What the stage `corpus` left."""
        return Corpus.load(self._left_by("corpus", "corpus"))

    def model(self, name: str, num_layers: int) -> Qwen3:
        """What a training stage left."""
        model = Qwen3(self.config(num_layers))
        model.load_state_dict(torch.load(self._left_by(name, f"{name}.pt"), weights_only=True))
        return model

    def save(self, name: str, model: Qwen3) -> None:
        """Leaves a model for later stages."""
        torch.save(model.state_dict(), self.work / f"{name}.pt")

    def config(self, num_layers: int) -> Qwen3Config:
        """The shape of the embedding model, and of the reranker."""
        shape = asdict(self.settings.model)
        return Qwen3Config(num_hidden_layers=num_layers, tie_word_embeddings=True, dtype="bfloat16", **shape)

    def _left_by(self, stage: str, name: str) -> Path:
        path = self.work / name
        if not path.exists():
            raise SettingsError(f"{name} is not there.", param="stage", hint=f"Run the stage {stage} first.")
        return path


def make_vocabulary(shop: Workshop) -> None:
    """Trains the tokenizer on a sample that is mixed like the batches."""
    tokenizer = train_tokenizer(_sample(shop), shop.settings.model.vocab_size)
    tokenizer.save(str(shop.work / "tokenizer.json"), pretty=False)


def _keep(shop: Workshop) -> Callable[[Row], bool]:
    """Which rows may be learned from."""
    if shop.evaluation is None:
        shop.report("no evaluation sets named: nothing is checked against them")
        return lambda row: True
    return ContaminationFilter(read_evaluation_texts(shop.evaluation))


def _sample(shop: Workshop) -> Iterator[str]:
    """Distinct texts of each source, as many characters as its share of the mixture, in a fixed random order."""
    shares = {**shop.settings.retrieval, **shop.settings.symmetric}
    corpus, sources = shop.settings.corpus, list_sources(shop.data)
    rng, keep = np.random.default_rng(0), _keep(shop)
    for name in [name for name in shares if name in sources]:
        left = corpus.vocabulary_characters * shares[name] / sum(shares.values())
        rows = filter(keep, read_rows(sources[name]))
        texts = list(dict.fromkeys(text[: corpus.max_characters] for row in rows for text in row.texts))
        for index in rng.permutation(len(texts)).tolist():
            yield texts[index]
            left -= len(texts[index])
            if left < 0:
                break


def make_corpus(shop: Workshop) -> None:
    """Filters and tokenizes the rows of all sources."""
    corpus = build_corpus(
        list_sources(shop.data),
        shop.tokenizer(),
        max_characters=shop.settings.corpus.max_characters,
        keep=_keep(shop),
        report=shop.report,
    )
    corpus.save(shop.work / "corpus")


def make_teacher(shop: Workshop) -> None:
    """Reads tokens and texts with the teacher; leaves nothing where there is none."""
    if shop.teacher is None:
        shop.report("no teacher: the table starts at random, and nothing is distilled")
        return
    tokenizer, corpus, settings = shop.tokenizer(), shop.corpus(), shop.settings.teacher
    tokens = [tokenizer.decode([token], skip_special_tokens=False) for token in range(tokenizer.get_vocab_size())]
    vectors = encode_with_teacher(shop.teacher, tokens, report=shop.report)
    rng = np.random.default_rng(0)
    chosen = []
    for source, side, limit in settings.texts:
        if source in corpus.spans:
            first, stop = corpus.spans[source]
            column = corpus.queries if side == "query" else corpus.positives
            chosen.append(rng.permutation(np.unique(column[first:stop]))[:limit])
    texts = rng.permutation(np.unique(np.concatenate(chosen)))
    spelled = [
        tokenizer.decode(np.asarray(corpus.tokens[corpus.starts[text] : corpus.starts[text + 1]]).tolist())
        for text in texts.tolist()
    ]
    read = encode_with_teacher(shop.teacher, spelled, max_seconds=settings.max_seconds, report=shop.report)
    np.savez(shop.work / "teacher.npz", tokens=vectors, texts=texts[: len(read)].astype(np.int32), vectors=read)


def make_bag(shop: Workshop) -> None:
    """Trains the one-layer model: a first run, then runs from its end that are averaged."""
    tokenizer, corpus, settings = shop.tokenizer(), shop.corpus(), shop.settings
    end_token, width = token_id(tokenizer, END_OF_TEXT), settings.model.hidden_size
    counts = np.bincount(corpus.tokens, minlength=settings.model.vocab_size)
    weights = token_weights(counts, smoothing=settings.teacher.smoothing)
    vectors, targets = _teach(shop, counts, weights)
    if vectors is None:
        generator = torch.Generator().manual_seed(settings.bag[0].seed)
        vectors = torch.randn(settings.model.vocab_size, width, generator=generator) * width**-0.5
    torch.manual_seed(settings.bag[0].seed)
    first, *others = settings.bag
    model = start_bag(shop.config(1), vectors, weights, end_token=end_token)
    unused = (".mlp.", "post_attention_layernorm")
    embed = bag_embed(model, end_token=end_token)
    _train_embedder(shop, model, first, embed=embed, targets=targets, frozen=unused)
    with torch.no_grad():
        pooling_layer(model).self_attn.q_norm.weight.mul_(settings.sharpness)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ends = []
    for run in others:
        model.load_state_dict(start)
        _train_embedder(shop, model, run, embed=embed, targets=targets, frozen=unused)
        ends.append({name: tensor.clone() for name, tensor in model.state_dict().items()})
    if ends:
        model.load_state_dict({name: torch.stack([end[name] for end in ends]).mean(dim=0) for name in start})
    shop.save("bag", model)


def _teach(shop: Workshop, counts: np.ndarray, weights: torch.Tensor) -> tuple[torch.Tensor | None, Targets | None]:
    """The table to start from and the vectors to pull towards, both in the teacher's principal directions."""
    path = shop.work / "teacher.npz"
    if not path.exists():
        return None, None
    with np.load(path) as read:
        tokens, texts, vectors = read["tokens"], read["texts"], read["vectors"]
    tokens = tokens - np.average(tokens, axis=0, weights=counts)
    settings = shop.settings
    weighted = tokens * weights.sqrt().unsqueeze(1).numpy()
    projection = fit_projection(weighted, settings.model.hidden_size, flatten=settings.teacher.flatten)
    targets = Targets(texts, project(vectors - vectors.mean(axis=0), projection))
    return torch.from_numpy(project(tokens, projection)), targets


def make_growth(shop: Workshop) -> None:
    """Inserts and trains layers below the pooling layer; without any, the bag is the model."""
    run, model = shop.settings.grow, shop.model("bag", 1)
    if run.layers:
        model = insert_layers(model, run.layers, seed=run.seed)
        corpus = shop.corpus()
        counts = np.bincount(corpus.tokens, minlength=shop.settings.model.vocab_size)
        weights = token_weights(counts, smoothing=shop.settings.teacher.smoothing)
        _, targets = _teach(shop, counts, weights)
        _train_embedder(shop, model, run, embed=lambda texts: transformer_hidden(model, texts), targets=targets)
    shop.save("grow", model)


def _train_embedder(
    shop: Workshop,
    model: Qwen3,
    run: RunSettings,
    *,
    embed: Embed,
    targets: Targets | None,
    frozen: tuple[str, ...] = (),
) -> None:
    corpus, objective = shop.corpus(), shop.settings.objective
    first, last = run.temperatures
    weights = EmbeddingWeights(
        blocks=run.blocks,
        pairs=run.pairs,
        dimensions={int(size): weight for size, weight in objective.dimensions.items()},
        first_temperature=first,
        last_temperature=last,
        margin=objective.margin,
        distillation=objective.distillation,
        taught=objective.taught,
        similarity=objective.similarity,
        judged=objective.judged,
    )
    sampler = _sampler(
        shop, corpus, run.max_document_tokens, crops=run.crops, seed=run.seed, only=run.only, instructed=True
    )
    train(
        model,
        EmbeddingObjective(embed, sampler, corpus, targets, weights, seed=run.seed),
        Schedule(steps=run.steps, rate=run.rate, table_rate=run.table_rate),
        frozen=frozen,
        max_seconds=shop.max_seconds,
        report=shop.report,
    )


def _sampler(
    shop: Workshop,
    corpus: Corpus,
    max_document_tokens: int,
    *,
    seed: int,
    crops: float = 0.0,
    only: tuple[str, ...] = (),
    without: tuple[str, ...] = (),
    instructed: bool = False,
    symmetric: bool = True,
) -> Sampler:
    def chosen(shares: Mapping[str, float]) -> dict[str, float]:
        return {name: share for name, share in shares.items() if name not in without and (not only or name in only)}

    mixture = Mixture(
        retrieval=chosen(shop.settings.retrieval),
        symmetric=chosen(shop.settings.symmetric) if symmetric else {},
        crops=crops,
    )
    if not instructed:
        mixture = replace(mixture, instructed=0.0, symmetric_instructed=0.0)
    tokenizer = shop.tokenizer()
    return Sampler(
        corpus,
        tokenizer,
        mixture,
        end_token=token_id(tokenizer, END_OF_TEXT),
        max_query_tokens=MAX_QUERY_TOKENS,
        max_document_tokens=max_document_tokens,
        seed=seed,
    )


def make_reranker(shop: Workshop) -> None:
    """Narrows the bag, builds the reranker from it, and trains that."""
    tokenizer, corpus, settings = shop.tokenizer(), shop.corpus(), shop.settings
    end_token = token_id(tokenizer, END_OF_TEXT)
    bag, run = shop.model("bag", 1), settings.narrow
    narrow = start_narrow(bag, corpus, CONTENT.stop - CONTENT.start, end_token=end_token)
    sampler = _sampler(shop, corpus, run.max_document_tokens, seed=run.seed, crops=run.crops)
    objective = NarrowObjective(narrow, bag, sampler, end_token=end_token, blocks=run.blocks, pairs=run.pairs)
    schedule = Schedule(steps=run.steps, rate=run.rate, table_rate=run.rate)
    train(narrow, objective, schedule, max_seconds=shop.max_seconds, report=shop.report)

    content, logits = narrow.parts()
    counts = np.bincount(corpus.tokens, minlength=settings.model.vocab_size) + 1
    rarity = torch.from_numpy(-np.log(counts / counts.sum())).float() - COMMON
    # What stands between the fields belongs to neither.
    between = [token_id(tokenizer, ">:"), *tokenizer.encode("\n", add_special_tokens=False).ids]
    rarity = rarity.clamp(min=0.02)
    rarity[between], logits[between] = 0.02, logits.min() - 8
    vocabulary = reranker_vocabulary(tokenizer)
    model = start_reranker(
        shop.config(NUM_LAYERS),
        content=content,
        weights=logits,
        rarity=rarity,
        vocabulary=vocabulary,
        strengths=Strengths(),
        seed=settings.reranker.seed,
    )
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    rerank = settings.reranker
    sampler = _sampler(
        shop, corpus, rerank.max_document_tokens, seed=rerank.seed, without=rerank.without, symmetric=False
    )
    groups = GroupSampler(
        sampler,
        corpus,
        tokenizer,
        lambda texts: bag_hidden(bag, texts.token_ids, texts.bounds, end_token=end_token),
        queries=rerank.queries,
        negatives=rerank.negatives,
        pool=rerank.pool,
        seed=rerank.seed,
        max_document_tokens=rerank.max_document_tokens,
    )
    train(
        model,
        RerankObjective(model, groups, yes=vocabulary.yes, no=vocabulary.no),
        Schedule(steps=rerank.steps, rate=rerank.rate, table_rate=rerank.rate),
        frozen=rerank.frozen,
        max_seconds=shop.max_seconds,
        report=shop.report,
    )
    # A short run on few sources leans towards them; the mean of start and end ranks other sets better than either.
    end = model.state_dict()
    model.load_state_dict({name: torch.lerp(end[name], start[name], rerank.anchor) for name in end})
    shop.save("reranker", model)


COMMON = 3.0
"""Tokens of a probability above exp(-3) are worth nothing as words to be found."""


def reranker_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The tokens of the reranking prompt that the reranker's start is built on."""
    return Vocabulary(
        query_mark=token_id(tokenizer, "<Query"),
        document_mark=token_id(tokenizer, "<Document"),
        sink=token_id(tokenizer, "<|im_start|>"),
        lexical_carrier=token_id(tokenizer, "assistant"),
        query_carrier=token_id(tokenizer, "<think>"),
        document_carrier=token_id(tokenizer, "</think>"),
        reader=tokenizer.encode("\n\n", add_special_tokens=False).ids[-1],
        yes=token_id(tokenizer, "yes"),
        no=token_id(tokenizer, "no"),
    )


def export(shop: Workshop) -> None:
    """Writes both artefacts."""
    tokenizer, layers = shop.tokenizer(), 1 + shop.settings.grow.layers
    write_embedder(shop.out / "tiny-embedding", shop.model("grow", layers), tokenizer)
    write_reranker(shop.out / "tiny-reranker", shop.model("reranker", NUM_LAYERS), tokenizer)


STAGES: Mapping[str, Callable[[Workshop], None]] = {
    "vocabulary": make_vocabulary,
    "corpus": make_corpus,
    "teacher": make_teacher,
    "bag": make_bag,
    "grow": make_growth,
    "reranker": make_reranker,
    "export": export,
}


def build(shop: Workshop, stages: tuple[str, ...] = tuple(STAGES)) -> None:
    """Runs stages in the order of `STAGES`."""
    shop.work.mkdir(parents=True, exist_ok=True)
    for name, stage in STAGES.items():
        if name in stages:
            started = time.monotonic()
            stage(shop)
            shop.report(f"{name}: {time.monotonic() - started:.0f} s")


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, help="folder of training data, one <source>.jsonl.gz a source")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument("--evaluation", type=Path, help="folder of evaluation sets that training must not see")
    parser.add_argument("--teacher", type=Path, help="checkpoint of a sentence encoder to learn from")
    parser.add_argument("--settings", type=Path, help="another file in place of builtin.toml")
    parser.add_argument("--stage", choices=STAGES, action="append", help="run this stage alone; may be given again")
    parser.add_argument("--budget-minutes", type=float, help="longest time of one training run")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--smoke", action="store_true", help="the whole pipeline on generated data in half a minute")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    os.environ["RAYON_NUM_THREADS"] = str(options.threads)
    started = time.monotonic()
    shop = Workshop(
        settings=BuiltinSettings.load(options.settings),
        data=options.data or options.out / "data",
        out=options.out,
        evaluation=options.evaluation,
        teacher=options.teacher,
        max_seconds=None if options.budget_minutes is None else options.budget_minutes * 60,
        report=lambda line: print(f"[{time.monotonic() - started:6.0f} s] {line}", file=sys.stderr, flush=True),
    )
    if options.smoke:
        from quernel.train.smoke import smoke_settings, write_smoke_data

        write_smoke_data(shop.data)
        shop = replace(shop, settings=smoke_settings(shop.settings))
    elif options.data is None:
        parser.error("--data is required")
    build(shop, tuple(options.stage or STAGES))


if __name__ == "__main__":
    main()
