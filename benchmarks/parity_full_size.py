"""Quernel against transformers at the real size of Qwen3-Embedding-0.6B: the same numbers, and how fast.

    python benchmarks/parity_full_size.py [--layers 28] [--texts 16] [--dtype float32]

Writes a random checkpoint in the shape of the 0.6B model (1.2 GB, in a temporary folder), loads it with both, and runs
the same token ids. Texts of 5 to 400 tokens; transformers one by one, without padding, which is its most exact form.
Prints the largest difference between unit vectors, the smallest cosine, peak memory of the load, and seconds.
"""

import argparse
import resource
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
import transformers

from quernel.engine.runner import ModelRunner
from quernel.model.config import Qwen3Config
from quernel.model.heads import truncate_and_normalise
from quernel.model.weights import load_model

T = TypeVar("T")
THREADS = torch.get_num_threads()


def make_checkpoint(folder: Path, layers: int, spread: float = 0.05) -> None:
    """A random model of the 0.6B shape, in bfloat16. With the usual spread of 0.02 it hardly mixes its tokens."""
    torch.manual_seed(0)
    config = transformers.Qwen3Config(
        vocab_size=151_669,
        hidden_size=1024,
        intermediate_size=3072,
        num_hidden_layers=layers,
        num_attention_heads=16,
        num_key_value_heads=8,
        head_dim=128,
        max_position_embeddings=32_768,
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        tie_word_embeddings=True,
        initializer_range=spread,
    )
    transformers.Qwen3Model(config).bfloat16().save_pretrained(folder)


def timed(work: Callable[[], T]) -> tuple[T, float]:
    """The result and the seconds it took."""
    start = time.perf_counter()
    result = work()
    return result, time.perf_counter() - start


def main() -> None:
    """Make, load, run, compare, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--texts", type=int, default=16)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    arguments = parser.parse_args()
    dtype = getattr(torch, arguments.dtype)
    transformers.utils.logging.disable_progress_bar()
    random = np.random.default_rng(0)
    texts = [tuple(random.integers(0, 151_643, size=n).tolist()) for n in random.integers(5, 400, arguments.texts)]

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_checkpoint(folder, arguments.layers)

        def load_reference(wanted: torch.dtype) -> transformers.Qwen3Model:
            model: transformers.Qwen3Model = transformers.Qwen3Model.from_pretrained(folder, dtype=wanted)
            model.eval()
            return model

        def time_reference(model: transformers.Qwen3Model) -> tuple[np.ndarray, float]:
            run_reference(model)
            return timed(lambda: run_reference(model))

        def run_reference(model: transformers.Qwen3Model) -> np.ndarray:
            with torch.inference_mode():
                rows = [model(torch.tensor([text])).last_hidden_state[0, -1].float().numpy() for text in texts]
            return np.stack(rows)

        expected = run_reference(load_reference(torch.float32))
        same_type, reference_seconds = time_reference(load_reference(dtype))

        model, load_seconds = timed(
            lambda: load_model(folder, Qwen3Config.load(folder), dtype=dtype, device=torch.device("cpu"))
        )
        runner = ModelRunner(model)
        paths = [(text,) for text in texts]
        runner.run(paths)
        hidden, seconds = timed(lambda: runner.run(paths))
        last_tokens = runner.run([(text[-1:],) for text in texts])

    ours, theirs, theirs_same_type, alone = (
        truncate_and_normalise(part, 1024, True) for part in (hidden, expected, same_type, last_tokens)
    )
    cosines = (ours * theirs).sum(axis=1)
    tokens = sum(map(len, texts))
    peak_gib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    print(f"{arguments.layers} layers, {len(texts)} texts, {tokens} tokens, {arguments.dtype}, {THREADS} threads")
    for what, value in (
        ("largest difference of unit vectors from transformers float32", f"{np.abs(ours - theirs).max():.2e}"),
        ("smallest cosine to transformers float32", f"{cosines.min():.8f}"),
        ("the same of transformers in this type", f"{(theirs_same_type * theirs).sum(axis=1).min():.8f}"),
        ("mean cosine to the last token alone (does context matter?)", f"{(ours * alone).sum(axis=1).mean():.3f}"),
        ("load", f"{load_seconds:.1f} s"),
        ("Quernel, one packed batch", f"{tokens / seconds:.0f} tokens/s"),
        ("transformers, text by text", f"{tokens / reference_seconds:.0f} tokens/s"),
        ("ratio", f"{reference_seconds / seconds:.2f}"),
        ("peak memory of the process, both models' loads included", f"{peak_gib:.2f} GiB"),
    ):
        print(f"{what:<62} {value}")


if __name__ == "__main__":
    main()
