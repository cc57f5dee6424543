"""Low-rank adapters: what is trained is a small product beside each frozen matrix, in files that PEFT reads.

Source: Hu et al., "LoRA", arXiv 2106.09685; file layout of https://github.com/huggingface/peft.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from quernel.errors import CheckpointError, SettingsError
from quernel.model.linear import Linear
from quernel.model.qwen3 import Qwen3
from quernel.train.settings import Table

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True, kw_only=True)
class LoraSettings(Table):
    """The size of an adapter.

    Attributes:
        rank: Of the product.
        alpha: It is scaled by `alpha / rank`.
        targets: Which matrices of a layer get one.
    """

    rank: int = 8
    alpha: float = 32.0
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise SettingsError(f"lora.rank is {self.rank}.", param="rank", hint="Set 1 or more.")
        if unknown := [target for target in self.targets if target not in TARGETS]:
            raise SettingsError(
                f"lora.targets holds {unknown[0]!r}.", param="targets", hint=f"Of {', '.join(TARGETS)}."
            )


class LoraLinear(Linear):
    """A frozen matrix with an adapter beside it: `x W^T + alpha / rank * x A^T B^T`. It begins as the matrix alone.

    Args:
        base: The map; its weight is shared and frozen.
        settings: The adapter's size.
        generator: Draws A.
    """

    def __init__(self, base: Linear, settings: LoraSettings, generator: torch.Generator) -> None:
        num_out, num_in = base.weight.shape
        with torch.device("meta"):
            super().__init__(num_in, num_out)
        self.weight = base.weight.requires_grad_(False)
        self.scale = settings.alpha / settings.rank
        bound = num_in**-0.5  # Kaiming's uniform with a = sqrt(5), as PEFT begins
        drawn = torch.empty(settings.rank, num_in).uniform_(-bound, bound, generator=generator)
        self.lora_A = nn.Parameter(drawn.to(base.weight.device))
        self.lora_B = nn.Parameter(torch.zeros(num_out, settings.rank, device=base.weight.device))

    def forward(self, x: Tensor) -> Tensor:
        """`[Q, I]` to `[Q, O]`."""
        return F.linear(x, self.weight) + self.scale * F.linear(F.linear(x, self.lora_A), self.lora_B)

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        """`self(x) + other`, `[Q, O]`."""
        out: Tensor = self(x) + other
        return out

    def merged(self) -> Tensor:
        """The matrix that does what both do, `[O, I]` in the type of the base's."""
        product = self.scale * (self.lora_B.double() @ self.lora_A.double())
        return (self.weight.double() + product).to(self.weight.dtype)


def add_adapters(model: Qwen3, settings: LoraSettings, *, seed: int) -> None:
    """Freeze a model and put an adapter beside each matrix that the settings name."""
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    for name, module in list(model.layers.named_modules()):
        if isinstance(module, Linear) and name.rpartition(".")[2] in settings.targets:
            model.layers.set_submodule(name, LoraLinear(module, settings, generator))


def adapters_of(model: Qwen3) -> Mapping[str, LoraLinear]:
    """The adapted maps of a model by name."""
    return {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}


def write_adapter(folder: Path, model: Qwen3, settings: LoraSettings, *, base: str, prefix: str) -> None:
    """Write what was trained, as PEFT does.

    Args:
        folder: Made if it is not there.
        model: With adapters.
        settings: Their size.
        base: The name of the model that they belong to.
        prefix: What stands before the names of the base's tensors: `model.` where its files have it, else nothing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for name, module in adapters_of(model).items():
        for part in ("lora_A", "lora_B"):
            tensors[f"{PEFT_PREFIX}{prefix}{name}.{part}.weight"] = getattr(module, part).detach().cpu().contiguous()
    save_file(tensors, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    config = {
        "peft_type": "LORA",
        "base_model_name_or_path": base,
        "task_type": "CAUSAL_LM" if prefix else "FEATURE_EXTRACTION",
        "inference_mode": True,
        "r": settings.rank,
        "lora_alpha": settings.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "target_modules": sorted(settings.targets),
    }
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def read_adapter(folder: Path) -> dict[str, Tensor]:
    """What an adapter adds to each matrix, float64 `[O, I]` by the matrix's name without `model.`.

    Raises:
        CheckpointError: The folder holds no LoRA adapter, or one of a kind that is more than a product.
    """
    try:
        config = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        tensors = load_file(folder / WEIGHTS_FILE)
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder} holds no adapter: {error}.", param=str(folder)) from error
    unfit = [key for key in ("use_dora", "use_rslora", "rank_pattern", "alpha_pattern") if config.get(key)]
    if config.get("peft_type") != "LORA" or unfit or config.get("bias", "none") != "none":
        said = unfit[0] if unfit else f"peft_type {config.get('peft_type')}, bias {config.get('bias')}"
        raise CheckpointError(f"The adapter in {folder} is not plain LoRA ({said}).", param=str(folder))
    scale = config["lora_alpha"] / config["r"]
    return dict(_products(tensors, scale, folder))


def _products(tensors: Mapping[str, Any], scale: float, folder: Path) -> Iterable[tuple[str, Tensor]]:
    for name, a in tensors.items():
        if ".lora_B" in name:
            continue
        b = tensors.get(name.replace(".lora_A", ".lora_B"))
        if ".lora_A" not in name or b is None:
            raise CheckpointError(f"The adapter in {folder} holds {name}, which is no half of a product.")
        matrix = name.removeprefix(PEFT_PREFIX).removeprefix("model.").partition(".lora_A")[0] + ".weight"
        yield matrix, scale * (b.double() @ a.double())
