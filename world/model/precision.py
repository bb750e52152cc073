"""What is computed on, and in: bfloat16 where the hardware multiplies it, else float32."""

from functools import cache
from typing import Literal

import torch

from world.errors import ConfigError

Precision = Literal["auto", "float32", "bfloat16"]


def check_device(name: str) -> None:
    """Raises `ConfigError` for a device that this machine, or this build of torch, does not have."""
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        why = str(error).partition("\n")[0]
        raise ConfigError(
            f"device {name!r} cannot be used here ({why}); use a machine that has it, or name another, as cpu"
        ) from error


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Return what to compute in; `auto` is bfloat16 on a GPU, and on a CPU that has instructions for it."""
    if precision == "float32":
        return torch.float32
    return torch.bfloat16 if precision == "bfloat16" or multiplies_bfloat16(device) else torch.float32


def computing(precision: Precision, device: torch.device) -> torch.autocast:
    """Return a context in which products are of that type; parameters stay as they are."""
    return torch.autocast(device.type, torch.bfloat16, enabled=dtype_of(precision, device) == torch.bfloat16)


@cache
def multiplies_bfloat16(device: torch.device) -> bool:
    """Return whether products of bfloat16 are the hardware's own.

    Elsewhere they are emulated: a step of `tiny` on one core of an AMD EPYC with AVX2 alone took 8.4 s in bfloat16,
    1.7 s in float32.
    """
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    return device.type != "cpu" or bool(able.get("avx512_bf16", False) or able.get("amx_bf16", False))
