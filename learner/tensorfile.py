"""Tensors as safetensors files, and nested state (an optimizer's, say) as flat tensors and a JSON skeleton.

Nothing is ever unpickled: what is neither tensor nor plain number or text is refused.
"""

import json
from collections.abc import Mapping, Sequence

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from world.errors import CheckpointError

_LENGTH_BYTES = 8


def dump_tensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Return a safetensors file. Tensors may be on any device, and tied ones are written twice."""
    copies: dict[str, Tensor] = {}
    written: set[int] = set()
    for name, tensor in tensors.items():
        copy = tensor.detach().cpu().contiguous()
        copies[name] = copy.clone() if copy.data_ptr() in written else copy
        written.add(copy.data_ptr())
    return safetensors.torch.save(copies, dict(metadata))


def parse_tensors(data: bytes, origin: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return tensors and metadata of a safetensors file. Raises `CheckpointError` naming `origin` if malformed."""
    try:
        tensors = safetensors.torch.load(data)
        header = json.loads(data[_LENGTH_BYTES : _LENGTH_BYTES + int.from_bytes(data[:_LENGTH_BYTES], "little")])
    except (SafetensorError, ValueError, KeyError) as error:
        raise CheckpointError(f"{origin}: not a safetensors file: {error}") from error
    return tensors, header.get("__metadata__", {})


def flatten_state(state: object) -> tuple[dict[str, Tensor], str]:
    """Split nested dicts, lists, tuples of tensors and plain values into tensors by path and a JSON skeleton.

    A flat dict of tensors keeps its names. Raises `CheckpointError` for what is neither tensor nor plain.
    """
    tensors: dict[str, Tensor] = {}
    return tensors, json.dumps(_skeleton(state, "", tensors))


def unflatten_state(tensors: Mapping[str, Tensor], skeleton: str, origin: str) -> object:
    """Rebuild what `flatten_state` split, types and key order included. Raises `CheckpointError` naming `origin`."""
    try:
        return _rebuild(json.loads(skeleton), tensors)
    except (ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"{origin}: its skeleton does not fit its tensors: {error!r}") from error


def _skeleton(value: object, path: str, tensors: dict[str, Tensor]) -> object:
    if isinstance(value, Tensor):
        if path in tensors:
            raise CheckpointError(f"state: two tensors are named {path!r}")
        tensors[path] = value
        return ["tensor", path]
    if isinstance(value, Mapping):
        if not all(isinstance(key, str | int) for key in value):
            raise CheckpointError(f"state: keys at {path!r} must be text or whole numbers")
        return ["dict", [[key, _skeleton(item, _join(path, key), tensors)] for key, item in value.items()]]
    if isinstance(value, list | tuple):
        kind = "list" if isinstance(value, list) else "tuple"
        return [kind, [_skeleton(item, _join(path, index), tensors) for index, item in enumerate(value)]]
    if value is None or type(value) in (bool, int, float, str):
        return ["plain", value]
    raise CheckpointError(f"state: {type(value).__name__} at {path!r} is neither tensor nor plain value")


def _rebuild(node: Sequence[object], tensors: Mapping[str, Tensor]) -> object:
    kind, value = node
    match kind, value:
        case "tensor", str():
            return tensors[value]
        case "dict", list():
            return {key: _rebuild(item, tensors) for key, item in value}
        case "list", list():
            return [_rebuild(item, tensors) for item in value]
        case "tuple", list():
            return tuple(_rebuild(item, tensors) for item in value)
        case "plain", None | bool() | int() | float() | str():
            return value
    raise ValueError(f"unknown node {kind!r}")


def _join(path: str, key: str | int) -> str:
    return f"{path}/{key}" if path else str(key)
