"""What computing in bfloat16 and in 8 bits costs in quality: vectors against float32, and retrieval.

    python benchmarks/type_quality.py --data DIR [--model quernel/tiny-embedding] [--sets cranfield,cosqa]
    python benchmarks/type_quality.py --random 28 [--spread 0.02]

With `--data`, a folder of retrieval sets in BEIR layout, a trained model embeds all queries and documents of each set
in every type; printed are the cosines of its vectors to those in float32, and nDCG@10 by each type. With `--random
LAYERS`, a random model of the 0.6B shape embeds 32 texts of 5 to 400 tokens; `--spread` is the deviation of its
weights. Random weights are harder than trained ones: nothing in them makes up for rounding, and more so the wider they
are drawn. `int8, stored` is what `quernel quantize` writes.
"""

import argparse
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from builtin_quality import NUM_RERANKED, measure
from parity_full_size import make_checkpoint

from quernel import Embedder
from quernel.engine.runner import ModelRunner
from quernel.engine.worker import run_aside
from quernel.evaluate.run import Encoder, nearest
from quernel.evaluate.tasks import Place, Retrieval, read_task
from quernel.model.config import Qwen3Config
from quernel.model.files import locate
from quernel.model.heads import truncate_and_normalise
from quernel.model.linear import choose_linear
from quernel.model.quantise import write_quantised
from quernel.model.weights import load_model
from quernel.types import InputType, Vectors

TYPES = ("float32", "bfloat16", "int8")
STORED = "int8, stored"


def compare_trained(data: Path, sets: Sequence[str], name: str) -> None:
    """A row for each set and type."""
    print("| set | type | nDCG@10 | cosine to float32: least | 1st percentile | mean |\n|---|---|---:|---:|---:|---:|")
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        write_quantised(locate(name).source, Path(folder))
        models = {dtype: stack.enter_context(Embedder(name, dtype=dtype)) for dtype in TYPES}
        models[STORED] = stack.enter_context(Embedder(folder))
        for set_name in sets:
            task = read_task(Place(set_name, data / set_name))
            assert isinstance(task, Retrieval)
            exact: Vectors | None = None
            for dtype, model in models.items():
                encode = Encoder(model)
                queries = encode(list(task.queries.values()), input_type=InputType.QUERY)
                documents = encode(list(task.documents.values()), input_type=InputType.DOCUMENT)
                quality = measure(task, nearest(task, queries, documents, NUM_RERANKED)).value
                both = np.concatenate([queries, documents])
                exact = both if exact is None else exact
                cosines = (both * exact).sum(axis=1)
                cells = (cosines.min(), np.percentile(cosines, 1), cosines.mean())
                print(f"| {set_name} | {dtype} | {quality:.4f} | {' | '.join(f'{c:.5f}' for c in cells)} |", flush=True)


def compare_random(layers: int, spread: float) -> None:
    """A row for each type."""
    draw = np.random.default_rng(0)
    paths = [(tuple(draw.integers(0, 151_643, size=n).tolist()),) for n in draw.integers(5, 400, 32)]
    print("| type | cosine to float32: least | mean |\n|---|---:|---:|")
    exact: Vectors | None = None
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder, layers, spread)
        config = Qwen3Config.load(folder)
        write_quantised(folder, folder / "stored")
        for dtype in (*TYPES, STORED):
            kind, cpu = getattr(torch, dtype.partition(",")[0]), torch.device("cpu")
            source = folder / "stored" if dtype == STORED else folder
            model = load_model(source, config, dtype=kind, device=cpu, linear=choose_linear(kind, cpu))
            runner = ModelRunner(model, chunk_rows=512)
            vectors = truncate_and_normalise(runner.run(paths), config.hidden_size, True)
            exact = vectors if exact is None else exact
            cosines = (vectors * exact).sum(axis=1)
            print(f"| {dtype} | {cosines.min():.5f} | {cosines.mean():.5f} |", flush=True)


def main() -> None:
    """One table or the other."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--model", default="quernel/tiny-embedding")
    parser.add_argument("--sets", default="cranfield,cosqa,cmrc2018-zh")
    parser.add_argument("--random", type=int, metavar="LAYERS")
    parser.add_argument("--spread", type=float, default=0.02)
    arguments = parser.parse_args()
    if arguments.random:
        run_aside(lambda: compare_random(arguments.random, arguments.spread))
    elif arguments.data:
        compare_trained(arguments.data, arguments.sets.split(","), arguments.model)
    else:
        parser.error("give --data or --random")


if __name__ == "__main__":
    main()
