"""Frozen tokenizers on disk: safetensors, with the layout and the digest beside the arrays, all under a checksum."""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from world.durable import write_file
from world.envs.grounded import ViewLayout
from world.errors import CheckpointError
from world.model.fsq import FsqTokenizer
from world.model.tokenizer import DiscreteTokenizer, PatchTokenizer, Tokenizer


def save_tokenizer(tokenizer: Tokenizer, path: Path) -> None:
    """Write a tokenizer; the file appears whole or not at all, for all worlds are of its tokens. Raises `DiskFull`."""
    kinds = {PatchTokenizer: "patch", DiscreteTokenizer: "discrete", FsqTokenizer: "fsq"}
    about = {
        "kind": kinds[type(tokenizer)],
        "vocab_size": str(tokenizer.vocab_size),
        "digest": tokenizer.digest,
        "layout": json.dumps(asdict(tokenizer.layout)),
    }
    about["checksum"] = _checksum(about)
    write_file(path, save({name: np.ascontiguousarray(array) for name, array in tokenizer.arrays().items()}, about))


def load_tokenizer(path: Path) -> Tokenizer:
    """Read a tokenizer back. Raises `CheckpointError` if it is missing, malformed, or not what its digest says."""
    try:
        with safe_open(path, framework="numpy") as file:
            about = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        tokenizer = _rebuild(about, arrays)
        intact = tokenizer.digest == about["digest"] and _checksum(about) == about["checksum"]
    except (OSError, SafetensorError, KeyError, ValueError, TypeError, RuntimeError, AssertionError) as error:
        raise CheckpointError(
            f"tokenizer {path}: cannot be read ({error}); restore the file, or begin a new run folder"
        ) from error
    if not intact:
        raise CheckpointError(
            f"tokenizer {path}: its content is not what its digest says; restore the file, or begin a new run folder"
        )
    return tokenizer


def _checksum(about: dict[str, str]) -> str:
    """Of kind, vocabulary, layout and digest: the digest knows the arrays alone."""
    rest = json.dumps({name: text for name, text in about.items() if name != "checksum"}, sort_keys=True)
    return hashlib.blake2b(rest.encode(), digest_size=8).hexdigest()


def _rebuild(about: dict[str, str], arrays: dict[str, NDArray[np.generic]]) -> Tokenizer:
    layout = ViewLayout(**json.loads(about["layout"]))
    match about["kind"]:
        case "patch":
            return PatchTokenizer(layout, arrays["codebook"].astype(np.uint8), int(about["vocab_size"]))
        case "discrete":
            return DiscreteTokenizer(layout)
        case "fsq":
            return FsqTokenizer.from_arrays(layout, arrays)
        case other:
            raise ValueError(f"unknown kind {other!r}")
