"""Where a model computes and in which type. Knows the machine, not the model."""

import torch

from quernel.errors import SettingsError
from quernel.model.linear import int8_works

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "int8": torch.int8}
"""What `dtype` may be, besides `auto`. int8 is for the products with weights; the rest is float32 then."""


def working_dtype(dtype: torch.dtype) -> torch.dtype:
    """The type of what is computed between the products with weights."""
    return torch.float32 if dtype is torch.int8 else dtype


def resolve_device(device: str) -> torch.device:
    """The device that `device` means on this machine, with its index where it has one.

    Args:
        device: `auto` (a CUDA device if there is one, else the CPU), `cpu`, `cuda`, `cuda:1`, or another accelerator
            that torch sees here.

    Raises:
        SettingsError: There is no such device, or it is not on this machine.
    """
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        wanted = torch.device(device)
    except RuntimeError as error:
        raise SettingsError(
            f"device is {device!r}, which is no device.", param="device", hint="Use 'auto', 'cpu', 'cuda' or 'cuda:1'."
        ) from error
    if wanted.type == "cpu":
        return torch.device("cpu")
    here = torch.accelerator.current_accelerator(check_available=True)
    if here is None or here.type != wanted.type:
        found = "no accelerator" if here is None else f"only {here.type!r}"
        raise SettingsError(
            f"device is {device!r}, but torch sees {found} here.",
            param="device",
            hint="Use 'auto' or 'cpu', or install a torch that is built for the device.",
        )
    count = torch.accelerator.device_count()
    index = torch.accelerator.current_device_index() if wanted.index is None else wanted.index
    if index >= count:
        raise SettingsError(f"device is {device!r}, but there are only {count} of that type here.", param="device")
    return torch.device(wanted.type, index)


def resolve_dtype(dtype: str, device: torch.device, stored: torch.dtype | None) -> torch.dtype:
    """The type to compute in.

    `auto` keeps files in float32 as exact as they are. Files in half precision are computed in bfloat16 where the
    device multiplies it natively, else in float32: emulated bfloat16 is about three times slower than float32. It never
    chooses float16, in which the larger models of the family overflow, and int8 only for files that are in 8 bits.

    Args:
        dtype: `auto`, `float32`, `bfloat16`, `float16` or `int8`.
        device: Where the model will compute.
        stored: The type of the files (`quernel.model.weights.stored_dtype`), if it is known.

    Raises:
        SettingsError: No such type, or none that the device computes.
    """
    has_int8 = device.type == "cpu" and int8_works()
    if dtype == "int8" and not has_int8:
        raise SettingsError(
            f"dtype is 'int8', which cannot be computed on {device} here.",
            param="dtype",
            hint="Use 'auto': a model that is stored in 8 bits is then computed in another type.",
        )
    if dtype in DTYPES:
        return DTYPES[dtype]
    if dtype != "auto":
        raise SettingsError(f"dtype is {dtype!r}.", param="dtype", hint=f"Use 'auto', {', '.join(map(repr, DTYPES))}.")
    if stored is torch.int8 and has_int8:
        return torch.int8
    is_half = stored in (torch.bfloat16, torch.float16, torch.int8)
    return torch.bfloat16 if is_half and _computes_bfloat16(device) else torch.float32


def _computes_bfloat16(device: torch.device) -> bool:
    """Whether `device` multiplies matrices in bfloat16 without emulating it."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "cpu":
        # oneDNN's own question, `mkldnn._is_mkldnn_bf16_supported`, also says yes where AVX-512 emulates it.
        present = torch.cpu.get_capabilities()
        return any(present.get(name, False) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    return False
