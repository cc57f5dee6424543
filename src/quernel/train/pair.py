"""An embedding model and a reranker from nothing but rows of text: how the built-in pair is made.

Stages run in this order, each from the files of those before it in `OUT/work`, so that a run that was ended goes on
with the stage that it was in, and within it where that takes long:

    simplified   write sources of traditional Chinese once more, in simplified characters
    vocabulary   count words in a sample of the rows; the tokenizer
    corpus       tokenize the rows, for the table
    teacher      vectors of tokens and texts from a larger model; without one the table starts at random
    table        train the one-layer embedding model as a bag of tokens
    layers       insert layers below the pooling layer and train them, as `quernel train` trains any model
    start        build the reranker around the embedding model: a mechanism in ordinary weights
    negatives    find what the embedding model takes for answers
    reranker     train the reranker on it, as `quernel train` trains any reranker
    export       both folders, and the loss curves

Rows that share text with the evaluation sets are left out of all of it.
"""

import gzip
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer

from quernel.errors import SettingsError
from quernel.model.config import Qwen3Config
from quernel.model.qwen3 import Qwen3
from quernel.model.weights import load_model
from quernel.prompts.templates import ANSWERS
from quernel.train.bag import pooling_layer, start_bag
from quernel.train.batches import Mixture, Sampler
from quernel.train.contamination import ContaminationFilter, read_evaluation_texts
from quernel.train.corpus import Corpus, build_corpus
from quernel.train.curves import draw_curves
from quernel.train.export import write_embedder, write_reranker
from quernel.train.fit import OnStep, fit
from quernel.train.grow import insert_layers
from quernel.train.interaction import Strengths, Vocabulary, start_reranker
from quernel.train.pair_negatives import write_negatives
from quernel.train.pair_settings import PairSettings, ShapeSettings, TableRun
from quernel.train.recipe import Recipe
from quernel.train.sources import SUFFIX, Row, list_sources, read_rows
from quernel.train.teacher import Targets, encode_with_teacher, fit_projection, project, token_weights
from quernel.train.trainer import Schedule, TableObjective, TableWeights, bag_embed, train
from quernel.train.vectors import KnownVectors, hashes_of, write_vectors
from quernel.train.vocabulary import END_OF_TEXT, SPECIAL_TOKENS, THINK_TOKENS, token_id, train_tokenizer

EMBEDDER, RERANKER = "tiny-embedding", "tiny-reranker"
MAX_QUERY_TOKENS = 64
TEACHER_AT_ONCE = 20_000


@dataclass(frozen=True, kw_only=True)
class Workshop:
    """Where a pair is made.

    Attributes:
        settings: What is made.
        data: Folder of rows, one `<source>.jsonl.gz` a source.
        out: Folder of the artefacts; `work` in it holds what stages leave for each other.
        keep_out: Folder of evaluation sets that training must not see; None to trust the data.
        teacher: Checkpoint of a sentence encoder; None to learn from the rows alone.
        say: Takes lines of progress.
        on_step: Told of each step of the two recipes.
    """

    settings: PairSettings
    data: Path
    out: Path
    keep_out: Path | None = None
    teacher: Path | None = None
    say: Callable[[str], None] = lambda line: None
    on_step: OnStep = lambda step: None
    _left_out: dict[str, list[bool]] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def work(self) -> Path:
        """The folder between the stages."""
        return self.out / "work"

    @cached_property
    def held(self) -> ContaminationFilter | None:
        """What may not be learned from."""
        if self.keep_out is None:
            self.say("no evaluation sets named: nothing is checked against them")
            return None
        return ContaminationFilter(read_evaluation_texts(self.keep_out))

    @property
    def sources(self) -> dict[str, Path]:
        """The files of rows by source: those of `data`, and what the stage `simplified` left."""
        written = {name: self.work / f"{name}{SUFFIX}" for name in self.settings.text.simplified}
        return list_sources(self.data) | {name: path for name, path in written.items() if path.exists()}

    def rows(self, source: str) -> list[Row]:
        """The rows of a source that may be learned from."""
        rows = list(read_rows(self.sources[source]))
        if self.held is None:
            return rows
        if source not in self._left_out:
            self._left_out[source] = self.held.which_rows_share([row.texts for row in rows])
            self.say(f"{source}: {sum(self._left_out[source])} of {len(rows)} rows share text with the evaluation sets")
        return [row for row, left_out in zip(rows, self._left_out[source], strict=True) if not left_out]

    def shares(self, *kinds: str) -> dict[str, float]:
        """Shares of the sources that there are, of some kinds of the mixture."""
        mixture, sources = self.settings.mixture, self.sources
        held = {name: share for kind in kinds for name, share in getattr(mixture, kind).items()}
        return {name: share for name, share in held.items() if name in sources}

    def tokenizer(self) -> Tokenizer:
        """What the stage `vocabulary` left."""
        return Tokenizer.from_file(str(self.work / "tokenizer.json"))

    def corpus(self) -> Corpus:
        """What the stage `corpus` left."""
        return Corpus.load(self.work / "corpus")

    def table(self) -> Qwen3:
        """What the stage `table` left."""
        model = Qwen3(table_config(self.settings.shape))
        model.load_state_dict(torch.load(self.work / "table.pt", weights_only=True))
        return model


def table_config(shape: ShapeSettings) -> Qwen3Config:
    """The config of the one-layer model that the table is trained as."""
    return Qwen3Config(num_hidden_layers=1, tie_word_embeddings=True, dtype="bfloat16", **asdict(shape))


def make_simplified(shop: Workshop) -> None:
    """Write sources of traditional Chinese again in simplified characters, and the words that go with them.

    Raises:
        SettingsError: OpenCC is not installed.
    """
    given = list_sources(shop.data)
    wanted = {name: source for name, source in shop.settings.text.simplified.items() if source in given}
    if not wanted:
        return
    try:
        from opencc import OpenCC
    except ImportError as error:
        raise SettingsError(
            "Simplified Chinese needs OpenCC.", param="text.simplified", hint="pip install 'quernel[train]'."
        ) from error
    convert = OpenCC("tw2sp").convert
    for name, source in wanted.items():
        with (
            gzip.open(given[source], "rt", encoding="utf-8") as lines,
            gzip.open(shop.work / f"{name}{SUFFIX}", "wt", encoding="utf-8") as written,
        ):
            for line in lines:
                raw = json.loads(line)
                row = {key: convert(value) if isinstance(value, str) else value for key, value in raw.items()}
                written.write(json.dumps(row, ensure_ascii=False) + "\n")


def make_vocabulary(shop: Workshop) -> None:
    """Train the tokenizer on a sample that is mixed like the batches."""
    tokenizer = train_tokenizer(_sample(shop), shop.settings.shape.vocab_size)
    tokenizer.save(str(shop.work / "tokenizer.json"), pretty=False)


def _sample(shop: Workshop) -> Iterator[str]:
    """Distinct texts of each source, as many characters as its share of the mixture, in a fixed random order."""
    shares, text = shop.shares("retrieval", "symmetric", "translation"), shop.settings.text
    rng = np.random.default_rng(0)
    for name, share in shares.items():
        left = text.vocabulary_characters * share / sum(shares.values())
        texts = list(dict.fromkeys(side[: text.max_characters] for row in shop.rows(name) for side in row.texts))
        for index in rng.permutation(len(texts)).tolist():
            yield texts[index]
            left -= len(texts[index])
            if left < 0:
                break


def make_corpus(shop: Workshop) -> None:
    """Filter and tokenize the rows of all sources."""
    corpus = build_corpus(
        ((name, shop.rows(name)) for name in shop.sources),
        shop.tokenizer(),
        max_characters=shop.settings.text.max_characters,
        report=shop.say,
    )
    corpus.save(shop.work / "corpus")


def make_teacher(shop: Workshop) -> None:
    """Read tokens and texts with the teacher, and put what it says into the table's space."""
    if shop.teacher is None:
        shop.say("no teacher: the table starts at random, and nothing is distilled")
        return
    chunks = shop.work / "teacher"
    chunks.mkdir(exist_ok=True)
    wanted = _wanted(shop)
    done = {text for path in chunks.glob("*.npz") for text in np.load(path)["hashes"].tolist()}
    left = [text for text, known in zip(wanted, hashes_of(wanted).tolist(), strict=True) if known not in done]
    for first in range(0, len(left), TEACHER_AT_ONCE):
        part = left[first : first + TEACHER_AT_ONCE]
        vectors = encode_with_teacher(shop.teacher, part, max_tokens=shop.settings.teacher.max_tokens)
        write_vectors(chunks / f"{hashes_of(part)[0]:016x}.npz", part, vectors)
        shop.say(f"teacher: {len(wanted) - len(left) + first + len(part):,} of {len(wanted):,} texts")
    known = KnownVectors.join([KnownVectors(path) for path in sorted(chunks.glob("*.npz"))])
    known.save(shop.work / "teacher-own.npz")

    tokenizer, counts = shop.tokenizer(), _counts(shop)
    tokens = [tokenizer.decode([token], skip_special_tokens=False) for token in range(len(counts))]
    vectors = encode_with_teacher(shop.teacher, tokens, max_tokens=shop.settings.teacher.max_tokens)
    vectors -= np.average(vectors, axis=0, weights=counts)
    weighted = vectors * _token_weights(shop, counts).sqrt().unsqueeze(1).numpy()
    settings = shop.settings
    projection = fit_projection(weighted, settings.shape.hidden_size, flatten=settings.teacher.flatten)
    np.save(shop.work / "tokens.npy", project(vectors, projection))
    known.centred().mapped(lambda rows: project(rows, projection)).save(shop.work / "teacher.npz")


def _wanted(shop: Workshop) -> list[str]:
    """Texts that are read by the teacher, each once, in the order of their importance."""
    rng, settings = np.random.default_rng(0), shop.settings
    read: dict[str, list[Row]] = {}
    wanted: dict[str, None] = {}
    sources = shop.sources
    for source, side, limit in settings.teacher.texts:
        if source in sources:
            if source not in read:
                read[source] = shop.rows(source)
            sides = (row.query if side == "query" else row.positive for row in read[source])
            texts = list(dict.fromkeys(text[: settings.text.max_characters] for text in sides if text))
            order = rng.permutation(len(texts))[: limit or None].tolist()
            wanted.update(dict.fromkeys(texts[number] for number in order))
    return list(wanted)


def _counts(shop: Workshop) -> np.ndarray:
    return np.bincount(shop.corpus().tokens, minlength=shop.settings.shape.vocab_size)


def _token_weights(shop: Workshop, counts: np.ndarray) -> torch.Tensor:
    return token_weights(counts, smoothing=shop.settings.teacher.smoothing)


def make_table(shop: Workshop) -> None:
    """Train the one-layer model: a first run, then runs from its end that are averaged."""
    shape, settings, corpus = shop.settings.shape, shop.settings.table, shop.corpus()
    end_token = token_id(shop.tokenizer(), END_OF_TEXT)
    first, *others = settings.runs
    torch.manual_seed(first.seed)
    targets, tokens = None, torch.randn(shape.vocab_size, shape.hidden_size) * shape.hidden_size**-0.5
    if (shop.work / "teacher.npz").exists():
        tokens = torch.from_numpy(np.load(shop.work / "tokens.npy"))
        known = KnownVectors(shop.work / "teacher.npz")
        texts = np.flatnonzero(known.holds(corpus.hashes)).astype(np.int32)
        targets = Targets(texts, known.of(corpus.hashes[texts]))
    model = start_bag(table_config(shape), tokens, _token_weights(shop, _counts(shop)), end_token=end_token)

    def run(settings: TableRun) -> dict[str, torch.Tensor]:
        _train_table(shop, model, settings, corpus, targets)
        return {name: tensor.clone() for name, tensor in model.state_dict().items()}

    run(first)
    with torch.no_grad():
        pooling_layer(model).self_attn.q_norm.weight.mul_(settings.sharpness)
    start = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    ends = []
    for other in others:
        model.load_state_dict(start)
        ends.append(run(other))
    if ends:
        model.load_state_dict({name: torch.stack([end[name] for end in ends]).mean(dim=0) for name in start})
    _save(model, shop.work / "table.pt")


def _train_table(shop: Workshop, model: Qwen3, run: TableRun, corpus: Corpus, targets: Targets | None) -> None:
    settings = shop.settings.table
    first, last = run.temperatures
    weights = TableWeights(
        blocks=run.blocks,
        pairs=run.pairs,
        dimensions={int(size): weight for size, weight in settings.dimensions.items()},
        first_temperature=first,
        last_temperature=last,
        margin=settings.margin,
        distillation=settings.distillation,
        taught=settings.taught,
        similarity=settings.similarity,
        judged=settings.judged,
    )
    sampler = _sampler(shop, corpus, run)
    embed = bag_embed(model, end_token=token_id(shop.tokenizer(), END_OF_TEXT))
    train(
        model,
        TableObjective(embed, sampler, corpus, targets, weights, seed=run.seed),
        Schedule(steps=run.steps, rate=run.rate, table_rate=run.table_rate),
        frozen=(".mlp.", "post_attention_layernorm"),
        report=shop.say,
    )


def _sampler(shop: Workshop, corpus: Corpus, run: TableRun) -> Sampler:
    settings, tokenizer = shop.settings.mixture, shop.tokenizer()

    def chosen(*kinds: str) -> dict[str, float]:
        return {name: share for name, share in shop.shares(*kinds).items() if not run.only or name in run.only}

    mixture = Mixture(
        retrieval=chosen("retrieval"),
        symmetric=chosen("symmetric", "translation"),
        crops=run.crops,
        instructed=1 - settings.bare,
        default_task=settings.generic,
        symmetric_instructed=1 - settings.symmetric_bare,
    )
    return Sampler(
        corpus,
        tokenizer,
        mixture,
        end_token=token_id(tokenizer, END_OF_TEXT),
        max_query_tokens=MAX_QUERY_TOKENS,
        max_document_tokens=run.max_document_tokens,
        seed=run.seed,
    )


def make_layers(shop: Workshop) -> None:
    """Insert layers and train the whole; without any, the table is the model."""
    settings, folder = shop.settings.layers, shop.work / "start"
    model = insert_layers(shop.table(), settings.count, seed=settings.seed)
    write_embedder(folder, model, shop.tokenizer())
    if not settings.count:
        shutil.copytree(folder, shop.work / "layers" / "model", dirs_exist_ok=True)
        return
    mixture = shop.settings.mixture
    varied = {"bare": mixture.bare, "generic": mixture.generic}
    paired = {"bare": mixture.symmetric_bare, "symmetric": True}
    data = _data(shop, "retrieval", **varied) + _data(shop, "symmetric", **paired)
    data += _data(shop, "translation", **paired, translation=True) + _data(shop, "judged")
    data += [{**one, "name": f"{one['name']} (crops)"} for one in _data(shop, "crops", **varied, crops=True)]
    teacher = shop.work / "teacher.npz"
    taught = {"teacher": str(teacher)} if teacher.exists() else {}
    data += _data(shop, "passages") if taught else []
    loss = settings.loss if taught else {**settings.loss, "distillation": 0.0}
    start = {**settings.model, "start": str(folder), **taught}
    _fit(shop, "layers", {"model": start, "data": data, "loss": loss, "stages": settings.stages})


def _data(shop: Workshop, kind: str, **form: Any) -> list[dict[str, Any]]:
    sources = shop.sources
    return [
        {"path": str(sources[name].absolute()), "name": name, "weight": share, **form}
        for name, share in shop.shares(kind).items()
    ]


def _fit(shop: Workshop, name: str, raw: Mapping[str, Any]) -> None:
    """Run a recipe as `quernel train` does, from where an earlier run of it was ended."""
    model = {**raw["model"], "max_characters": shop.settings.text.max_characters}
    kept_out = {} if shop.keep_out is None else {"keep_out": str(shop.keep_out.absolute())}
    recipe = Recipe.from_dict(json.loads(json.dumps({**raw, **kept_out, "model": model})), shop.work)
    teacher = KnownVectors(Path(model["teacher"])) if "teacher" in model else None
    out = shop.work / name
    fit(recipe, out, resume=out.exists(), teach=teacher, on_step=shop.on_step, say=shop.say)


def make_start(shop: Workshop) -> None:
    """Build the reranker around the embedding model."""
    folder, settings, tokenizer = shop.work / "layers" / "model", shop.settings.reranker, shop.tokenizer()
    embedder = load_model(folder, Qwen3Config.load(folder), dtype=torch.float32, device=torch.device("cpu"))
    counts = _counts(shop) + 1
    information = torch.from_numpy(-np.log(counts / counts.sum())).float()
    model = start_reranker(
        embedder,
        rarity=((information - COMMON) / (RARE - COMMON)).clamp(0, 1),
        vocabulary=reranker_vocabulary(tokenizer),
        strengths=Strengths(**settings.strengths),
        seed=settings.seed,
    )
    write_reranker(shop.work / "reranker-start", model, tokenizer)


COMMON, RARE = 5.0, 17.0
"""Tokens of a probability above exp(-5) are worth nothing as words to be found; at exp(-17) they are worth most."""


def reranker_vocabulary(tokenizer: Tokenizer) -> Vocabulary:
    """The tokens of the reranking prompt that the reranker's start is built on."""

    def last(text: str) -> int:
        token: int = tokenizer.encode(text, add_special_tokens=False).ids[-1]
        return token

    instruct, query, document, colon = (
        token_id(tokenizer, token) for token in ("<Instruct", "<Query", "<Document", ">:")
    )
    end_of_text, start, end = (token_id(tokenizer, token) for token in SPECIAL_TOKENS)
    yes, no = (token_id(tokenizer, answer) for answer in ANSWERS)
    between = (last("assistant"), *(token_id(tokenizer, token) for token in THINK_TOKENS), last("\n"), last("\n\n"))
    return Vocabulary(
        instruct_mark=instruct,
        query_mark=query,
        document_mark=document,
        colon=colon,
        sink=start,
        document_end=end,
        reader=last("\n\n"),
        yes=yes,
        no=no,
        plain={
            instruct: last("Instruct"),
            query: last("Query"),
            colon: last(":"),
            document: end_of_text,
            end: end_of_text,
        },
        silent=(instruct, query, document, colon, start, end, *between),
    )


def make_negatives(shop: Workshop) -> None:
    """Rows with what the embedding model takes for answers, and the teacher's scores of them."""
    teacher = shop.work / "teacher-own.npz"
    write_negatives(
        shop.work / "negatives",
        shop.work / "layers" / "model",
        shop.shares("retrieval"),
        shop.rows,
        shop.settings.reranker.mined,
        known=KnownVectors(teacher) if teacher.exists() else None,
        max_characters=shop.settings.text.max_characters,
        say=shop.say,
    )


def make_reranker(shop: Workshop) -> None:
    """Train the reranker."""
    settings, shares = shop.settings.reranker, shop.shares("retrieval")
    mined = {path.name.removesuffix(".jsonl"): path for path in sorted((shop.work / "negatives").glob("*.jsonl"))}
    data = [{"path": str(path.absolute()), "name": name, "weight": shares[name]} for name, path in mined.items()]
    model = {**settings.model, "start": str(shop.work / "reranker-start")}
    _fit(shop, "reranker", {"model": model, "data": data, "loss": settings.loss, "stages": settings.stages})


def export(shop: Workshop) -> None:
    """Both artefacts, and the loss curves of both recipes."""
    for name, stage in ((EMBEDDER, "layers"), (RERANKER, "reranker")):
        shutil.copytree(shop.work / stage / "model", shop.out / name, dirs_exist_ok=True)
        log = shop.work / stage / "log.jsonl"
        if log.exists():
            draw_curves(log, shop.out / f"{name}.svg", title=name)


@dataclass(frozen=True)
class Stage:
    """A part of the making.

    Attributes:
        make: Does it.
        reads: Settings that it depends on, besides those of the stages before it.
        leaves: What it leaves in `work` that would be gone on with; removed before it is done anew.
    """

    make: Callable[[Workshop], None]
    reads: tuple[str, ...]
    leaves: tuple[str, ...] = ()


STAGES: Mapping[str, Stage] = {
    "simplified": Stage(make_simplified, ("text.simplified",)),
    "vocabulary": Stage(
        make_vocabulary, ("shape", "text", "mixture.retrieval", "mixture.symmetric", "mixture.translation")
    ),
    "corpus": Stage(make_corpus, ()),
    "teacher": Stage(make_teacher, ("teacher",)),
    "table": Stage(make_table, ("table", "mixture")),
    "layers": Stage(make_layers, ("layers",), ("layers",)),
    "start": Stage(make_start, ("reranker.seed", "reranker.strengths")),
    "negatives": Stage(make_negatives, ("reranker.mined",), ("negatives",)),
    "reranker": Stage(make_reranker, ("reranker",), ("reranker",)),
    "export": Stage(export, ()),
}


def make_pair(shop: Workshop, *, resume: bool = False, stages: Sequence[str] = ()) -> Path:
    """Run all stages, or some; the folder of the artefacts.

    Args:
        shop: Where.
        resume: Leave out stages that are done by the same settings, and go on within the one that is not.
        stages: Run these again and no others.

    Raises:
        SettingsError: The folder holds another run, a stage lacks what an earlier one leaves, or the data is wrong.
    """
    record = shop.work / "done.json"
    begun: dict[str, Any] = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    if begun and not resume and not stages:
        raise SettingsError(f"{shop.out} holds a run.", param="output", hint="Go on with --resume.")
    shop.work.mkdir(parents=True, exist_ok=True)
    settings = json.loads(json.dumps(asdict(shop.settings)))
    changed = False
    for name, stage in STAGES.items():
        said = [_at(settings, path) for path in stage.reads]
        before = begun.get(name, {"settings": said, "done": False})
        changed = changed or before["settings"] != said
        if name not in stages if stages else before["done"] and not changed:
            continue
        if changed or name in stages:
            for left in stage.leaves:
                shutil.rmtree(shop.work / left, ignore_errors=True)
        started = time.monotonic()
        for done in (False, True):
            if done:
                _run(name, stage, shop)
            begun[name] = {"settings": said, "done": done}
            record.write_text(json.dumps(begun, indent=1), encoding="utf-8")
        shop.say(f"{name}: done in {time.monotonic() - started:.0f} s")
    return shop.out


def _run(name: str, stage: Stage, shop: Workshop) -> None:
    try:
        stage.make(shop)
    except FileNotFoundError as error:
        path = Path(str(error.filename))
        if shop.work not in path.parents:
            raise
        raise SettingsError(
            f"The stage {name} lacks {path.relative_to(shop.work)}.", param="stage", hint="Run all stages first."
        ) from error


def _at(settings: Mapping[str, Any], path: str) -> Any:
    """What stands at a path like `reranker.shape`."""
    found: Any = settings
    for key in path.split("."):
        found = found[key]
    return found


def _save(model: Qwen3, path: Path) -> None:
    partial = path.with_suffix(".partial")
    torch.save(model.state_dict(), partial)
    os.replace(partial, path)
