"""A checkpoint written anew with other tensors: what quantising, merging and training have in common."""

import json
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from quernel.errors import SettingsError
from quernel.model.config import Qwen3Config, load_json
from quernel.model.files import SMALL_FILES
from quernel.model.weights import INDEX_FILE, SINGLE_FILE, Checkpoint, expected_shapes

SHARD_BYTES = 2 << 30
"""Size after which another file is begun, which is also what writing needs of memory."""


def rewrite(
    source: Path,
    target: Path,
    parts: Callable[[str, Tensor], Mapping[str, Tensor]],
    *,
    config: Callable[[], Mapping[str, Any]] = dict,
    report: Callable[[int, int], None] = lambda done, total: None,
) -> None:
    """Write the checkpoint in `source` to the new folder `target`, tensor by tensor; other files are copied.

    Args:
        source: A folder with safetensors, not quantised.
        target: The folder to make; it must not exist, or be empty.
        parts: From a tensor's name in the files, and what it holds, to what is written in its place.
        config: What `config.json` says in addition, asked for when all tensors are written.
        report: Told how many tensors are written, and of how many.

    Raises:
        CheckpointError: The weights are missing, broken, or of another shape than the configuration's.
        SettingsError: `source` is a GGUF file, or `target` holds something.
    """
    if source.is_file():
        raise SettingsError(
            f"{source.name} is a GGUF file.",
            param="model",
            hint="Take the original checkpoint; it is more exact, too.",
        )
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise SettingsError(f"{target} exists.", param="output", hint="Name a new folder; nothing is overwritten.")
    raw_config = load_json(source / "config.json")
    checkpoint = Checkpoint.open(source)
    checkpoint.check(expected_shapes(Qwen3Config.from_dict(raw_config)))
    target.mkdir(parents=True, exist_ok=True)
    _copy_small_files(source, target)

    shards: list[dict[str, Tensor]] = [{}]
    places: dict[str, int] = {}
    held = 0

    def flush() -> None:
        nonlocal held
        save_file(shards[-1], target / _shard(len(shards)), metadata={"format": "pt"})
        places.update(dict.fromkeys(shards[-1], len(shards)))
        shards.append({})
        held = 0

    for done, (name, tensor) in enumerate(checkpoint.read(list(checkpoint.tensors)), 1):
        assert isinstance(tensor, Tensor), "a quantised source has been refused"
        for key, part in parts(checkpoint.tensors[name].name, tensor).items():
            shards[-1][key] = part
            held += part.nbytes
        report(done, len(checkpoint.tensors))
        if held >= SHARD_BYTES:
            flush()
    if shards[-1]:
        flush()
    _name_shards(target, places)
    # Last, so that a folder that was left half written is not taken for a model.
    text = json.dumps({**raw_config, **config()}, indent=2, ensure_ascii=False)
    (target / "config.json").write_text(text + "\n", encoding="utf-8")


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
        (target / name).chmod(0o644)  # safetensors writes for the owner alone
    if count > 1:
        size = sum((target / name).stat().st_size for name in names.values())
        index = {"metadata": {"total_size": size}, "weight_map": {key: names[number] for key, number in places.items()}}
        (target / INDEX_FILE).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
