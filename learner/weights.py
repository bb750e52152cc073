"""Weights: all parameters of a model as one contiguous buffer, and their store.

Axes: P bytes of all parameters, each beginning at a multiple of 16.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import xxhash
from torch import Tensor

from learner.tensorfile import dump_tensors, parse_tensors
from world.durable import write_file
from world.envs.grounded import Uint8Array
from world.errors import CheckpointError

_ALIGNMENT = 16
_DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float64": torch.float64,
    "int64": torch.int64,
    "int32": torch.int32,
    "uint8": torch.uint8,
    "bool": torch.bool,
}
"""Types of parameters and buffers."""
_NAMES = {dtype: name for name, dtype in _DTYPES.items()}


@dataclass(frozen=True, slots=True)
class WeightSet:
    """One version of all parameters. `buffer` may be read-only, and shared between processes."""

    epoch: int
    """Rises when a learner is restored from a checkpoint, so that its versions are newer than those it forgot."""
    version: int
    """Rises with each publication."""
    names: tuple[str, ...]
    shapes: tuple[tuple[int, ...], ...]
    dtypes: tuple[str, ...]
    buffer: Uint8Array
    """(P,)"""

    def __post_init__(self) -> None:
        """Raises `CheckpointError` if names, shapes, types and buffer do not fit each other."""
        if not len(self.names) == len(self.shapes) == len(self.dtypes) == len(set(self.names)):
            raise CheckpointError("weights: names must be distinct, each with one shape and one type")
        if unknown := set(self.dtypes) - set(_DTYPES):
            raise CheckpointError(f"weights: types {sorted(unknown)} are unknown, known are {sorted(_DTYPES)}")
        wanted = _offsets(self.shapes, self.dtypes)[-1]
        if self.buffer.dtype != np.uint8 or self.buffer.shape != (wanted,):
            raise CheckpointError(
                f"weights: buffer should be uint8 ({wanted},), got {self.buffer.dtype} {self.buffer.shape}"
            )

    @property
    def order(self) -> tuple[int, int]:
        """(epoch, version): greater is newer."""
        return self.epoch, self.version

    def tensors(self) -> dict[str, Tensor]:
        """Return copies by name."""
        # Torch warns of read-only memory, which a shared buffer is; so the bytes are copied once, all together.
        staged = torch.empty(len(self.buffer), dtype=torch.uint8)
        staged.numpy()[:] = self.buffer
        offsets = _offsets(self.shapes, self.dtypes)
        return {
            name: staged[first : first + math.prod(shape) * _DTYPES[dtype].itemsize].view(_DTYPES[dtype]).reshape(shape)
            for name, shape, dtype, first in zip(self.names, self.shapes, self.dtypes, offsets[:-1], strict=True)
        }


def flatten(state_dict: Mapping[str, Tensor], *, epoch: int = 0, version: int = 0) -> WeightSet:
    """Copy a module's state into one buffer. Raises `CheckpointError` for a type that weights cannot have."""
    names, tensors = tuple(state_dict), [tensor.detach() for tensor in state_dict.values()]
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype not in _NAMES:
            raise CheckpointError(f"weights: {name} is of {tensor.dtype}, which cannot be published")
    shapes = tuple(tuple(tensor.shape) for tensor in tensors)
    dtypes = tuple(_NAMES[tensor.dtype] for tensor in tensors)
    offsets = _offsets(shapes, dtypes)
    # Gathered on the tensors' own device, so that a GPU is waited for once and not once for each parameter.
    device = tensors[0].device if tensors else torch.device("cpu")
    gathered = torch.zeros(offsets[-1], dtype=torch.uint8, device=device)
    for tensor, first in zip(tensors, offsets[:-1], strict=True):
        flat = tensor.contiguous().reshape(-1).view(torch.uint8)
        gathered[first : first + len(flat)] = flat
    return WeightSet(epoch, version, names, shapes, dtypes, gathered.cpu().numpy())


class WeightStore:
    """Keeps the newest weights, in memory and, given a directory, in one file that outlives the process."""

    FILE = "weights.safetensors"

    def __init__(self, directory: Path | None = None) -> None:
        """Reload what was published last. Raises `CheckpointError` if that file is damaged."""
        self._path = directory / self.FILE if directory else None
        self._newest: WeightSet | None = None
        if directory:
            directory.mkdir(parents=True, exist_ok=True)
        if self._path and self._path.exists():
            self._newest = _load(self._path)

    def publish(self, weights: WeightSet) -> bool:
        """Keep these weights if they are newer; return whether they are. Raises `DiskFull`; the old ones then stay."""
        if self._newest is not None and weights.order <= self._newest.order:
            return False
        if self._path:
            write_file(self._path, _dump(weights))
        self._newest = weights
        return True

    def newest(self, newer_than: tuple[int, int] | None = None) -> WeightSet | None:
        """Return the newest weights, or None if there are none newer than (epoch, version)."""
        if self._newest is None or (newer_than is not None and self._newest.order <= newer_than):
            return None
        return self._newest


def _offsets(shapes: Sequence[tuple[int, ...]], dtypes: Sequence[str]) -> list[int]:
    """Return where each parameter begins, and after the last, P."""
    offsets = [0]
    for shape, dtype in zip(shapes, dtypes, strict=True):
        num_bytes = math.prod(shape) * _DTYPES[dtype].itemsize
        offsets.append(offsets[-1] + -(-num_bytes // _ALIGNMENT) * _ALIGNMENT)
    return offsets


def _dump(weights: WeightSet) -> bytes:
    metadata = {
        "epoch": str(weights.epoch),
        "version": str(weights.version),
        "order": json.dumps(weights.names),
        "xxh3": xxhash.xxh3_128_hexdigest(weights.buffer.data),
    }
    return dump_tensors(weights.tensors(), metadata)


def _load(path: Path) -> WeightSet:
    tensors, metadata = parse_tensors(path.read_bytes(), str(path))
    advice = "delete it to begin without published weights; the learner's checkpoint has its own"
    try:
        names = json.loads(metadata["order"])
        weights = flatten(
            {name: tensors[name] for name in names}, epoch=int(metadata["epoch"]), version=int(metadata["version"])
        )
    except (KeyError, ValueError, TypeError) as error:
        raise CheckpointError(f"{path}: metadata are incomplete ({error!r}); {advice}") from error
    if xxhash.xxh3_128_hexdigest(weights.buffer.data) != metadata.get("xxh3"):
        raise CheckpointError(f"{path}: fails its checksum; {advice}")
    return weights
