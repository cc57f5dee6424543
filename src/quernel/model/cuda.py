"""Turns the CUDA fast path of a model on: kernels that the device has, where they agree with their definitions."""

import logging
from collections.abc import Mapping

import torch

from quernel.model.cuda_check import Part, fast_parts, graphs_agree, verify_fast_path
from quernel.model.cuda_graphs import GraphedForward
from quernel.model.layers import MLP, Attention, RMSNorm
from quernel.model.qwen3 import Qwen3

logger = logging.getLogger(__name__)


def enable_fast_path(model: Qwen3) -> GraphedForward | None:
    """Give a model on a CUDA device what it may use there; forwards for a few short texts, where graphs work.

    Says in the log what is used and what is not. Does nothing on other devices.

    Args:
        model: Loaded, for inference.
    """
    device, dtype = model.norm.weight.device, model.norm.weight.dtype
    if device.type != "cuda":
        return None
    with torch.cuda.device(device):
        parts = fast_parts(model.config, device, dtype)
        allowed = verify_fast_path(model.config, device, dtype, parts)
        use_parts(model, {name: parts[name] for name in allowed})
        graphs = GraphedForward(model.texts, device=device) if model.has_varlen_kernel else None
        if graphs is not None and not graphs_agree(graphs, model):
            graphs = None
    used = [*allowed, *(["cuda_graphs"] if graphs is not None else [])]
    logger.info("Fast path on %s: %s.", device, ", ".join(used) or "none of its parts")
    return graphs


def use_parts(model: Qwen3, parts: Mapping[str, Part]) -> None:
    """Let a model compute with these parts of the fast path, by the names of `fast_parts`."""
    for layer in model.modules():
        if isinstance(layer, RMSNorm):
            layer.fused = parts.get("rms_norm")
        elif isinstance(layer, Attention):
            layer.fused_turn = parts.get("norm_and_rotate")
        elif isinstance(layer, MLP):
            layer.fused_gate = parts.get("silu_and_multiply")
    model.has_varlen_kernel = "varlen_attention" in parts
