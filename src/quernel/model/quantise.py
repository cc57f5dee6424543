"""Writes checkpoints with the layers' matrices in 8 bits.

The form is "int-quantized" of compressed-tensors (weights per output channel, activations per token, both symmetric),
for vLLM and transformers too (not tried yet): `NAME.weight` int8 `[O, I]` beside `NAME.weight_scale` float32 `[O, 1]`.
"""

from collections.abc import Callable
from pathlib import Path

from torch import Tensor

from quernel.errors import SettingsError
from quernel.model.config import INT8_CONFIG, QUANTISATION_KEY, Qwen3Config, load_json
from quernel.model.linear import quantise, rounding
from quernel.model.rewrite import rewrite
from quernel.model.weights import MATRIX_SUFFIX, SCALE_SUFFIX

MAX_STORED_ROUNDING = 0.015
"""The share of a matrix that 8 bits may lose; one that would lose more stays as it is. Usual ones lose about 1 %."""


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
        SettingsError: `source` is a GGUF file, in 8 bits already or not to be, or `target` holds something.
    """
    if source.is_dir():
        raw = load_json(source / "config.json")
        if raw.get(QUANTISATION_KEY):
            raise SettingsError(f"{source} is quantised already.", param="model", hint="Take the original checkpoint.")
        Qwen3Config.from_dict(raw).check_quantisable()
    left: list[str] = []

    def parts(name: str, tensor: Tensor) -> dict[str, Tensor]:
        if not name.endswith(MATRIX_SUFFIX):
            return {name: tensor}
        quantised = quantise(tensor)
        if rounding(tensor, quantised) > MAX_STORED_ROUNDING:
            left.append(name.removesuffix(".weight"))
            return {name: tensor}
        return {name: quantised.values, name + SCALE_SUFFIX: quantised.scales.unsqueeze(1)}

    def config() -> dict[str, object]:
        return {QUANTISATION_KEY: {**INT8_CONFIG, "ignore": [*INT8_CONFIG["ignore"], *left]}}

    rewrite(source, target, parts, config=config, report=report)
