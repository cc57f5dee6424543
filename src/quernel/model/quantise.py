"""Writes checkpoints with the layers' matrices in 8 bits.

The form is "int-quantized" of compressed-tensors (weights per output channel, activations per token, both symmetric),
for vLLM and transformers too (not tried yet): `NAME.weight` int8 `[O, I]` beside `NAME.weight_scale` float32 `[O, 1]`.
"""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor

from quernel.errors import SettingsError
from quernel.model.config import INT8_CONFIG, QUANTISATION_KEY, Qwen3Config, load_json
from quernel.model.files import SMALL_FILES
from quernel.model.linear import quantise, rounding
from quernel.model.weights import INDEX_FILE, MATRIX_SUFFIX, SCALE_SUFFIX, SINGLE_FILE, Checkpoint, expected_shapes

MAX_STORED_ROUNDING = 0.015
"""The share of a matrix that 8 bits may lose; one that would lose more stays as it is. Usual ones lose about 1 %."""

SHARD_BYTES = 2 << 30
"""Size after which another file is begun, which is also what writing needs of memory."""


def write_quantised(
    source: Path, target: Path, *, report: Callable[[int, int], None] = lambda done, total: None
) -> None:
    """Write the checkpoint in `source` to the new folder `target`, with the layers' matrices in 8 bits.

    Everything else is copied as it is: embedding table, norms, heads, tokenizer, prompts; and matrices that 8 bits
    would change too much, which are computed in twice 8.

    Args:
        source: A folder with safetensors.
        target: The folder to make; it must not exist, or be empty.
        report: Told how many tensors are written, and of how many.

    Raises:
        CheckpointError: The weights are missing, broken, or of another shape than the configuration's.
        SettingsError: `source` is a GGUF file or in 8 bits already, or `target` holds something.
    """
    if source.is_file():
        raise SettingsError(
            f"{source.name} is a GGUF file.",
            param="model",
            hint="Quantise the original checkpoint; it is more exact, too.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target} exists.", param="output", hint="Name a new folder; nothing is overwritten.")
    raw_config = load_json(source / "config.json")
    if raw_config.get(QUANTISATION_KEY):
        raise SettingsError(f"{source} is quantised already.", param="model", hint="Take the original checkpoint.")
    checkpoint = Checkpoint.open(source)
    checkpoint.check(expected_shapes(Qwen3Config.from_dict(raw_config)))
    target.mkdir(parents=True, exist_ok=True)
    _copy_small_files(source, target)

    shards: list[dict[str, Tensor]] = [{}]
    left: list[str] = []
    places: dict[str, int] = {}
    held = 0

    def flush() -> None:
        nonlocal held
        save_file(shards[-1], target / _shard(len(shards)), metadata={"format": "pt"})
        places.update(dict.fromkeys(shards[-1], len(shards)))
        shards.append({})
        held = 0

    for done, (name, tensor) in enumerate(checkpoint.read(list(checkpoint.tensors)), 1):
        stored = checkpoint.tensors[name].name
        assert isinstance(tensor, Tensor), "nothing is quantised yet"
        parts = _parts(stored, tensor)
        if stored.endswith(MATRIX_SUFFIX) and len(parts) == 1:
            left.append(stored.removesuffix(".weight"))
        for key, part in parts.items():
            shards[-1][key] = part
            held += part.nbytes
        report(done, len(checkpoint.tensors))
        if held >= SHARD_BYTES:
            flush()
    if shards[-1]:
        flush()
    _name_shards(target, places)
    # Last, so that a folder that was left half written is not taken for a model.
    said = {**INT8_CONFIG, "ignore": [*INT8_CONFIG["ignore"], *left]}
    text = json.dumps(raw_config | {QUANTISATION_KEY: said}, indent=2, ensure_ascii=False)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")


def _parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
    """What is stored for a tensor."""
    if not name.endswith(MATRIX_SUFFIX):
        return {name: tensor}
    quantised = quantise(tensor)
    if rounding(tensor, quantised) > MAX_STORED_ROUNDING:
        return {name: tensor}
    return {name: quantised.values, name + SCALE_SUFFIX: quantised.scales.unsqueeze(1)}


def _copy_small_files(source: Path, target: Path) -> None:
    left_out = {"config.json", INDEX_FILE}
    for pattern in SMALL_FILES:
        for file in source.glob(pattern):
            place = target / file.relative_to(source)
            if file.name in left_out and file.parent == source:
                continue
            place.parent.mkdir(exist_ok=True)
            shutil.copyfile(file, place)


def _shard(number: int) -> str:
    return f"model-{number:05d}.safetensors"


def _name_shards(target: Path, places: Mapping[str, int]) -> None:
    """Give the files their official names, and write the index where there are several."""
    count = max(places.values())
    names = {number: f"model-{number:05d}-of-{count:05d}.safetensors" for number in range(1, count + 1)}
    if count == 1:
        names = {1: SINGLE_FILE}
    for number, name in names.items():
        (target / _shard(number)).rename(target / name)
    if count > 1:
        size = sum((target / name).stat().st_size for name in names.values())
        index = {"metadata": {"total_size": size}, "weight_map": {key: names[number] for key, number in places.items()}}
        (target / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
