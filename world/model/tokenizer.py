"""Tokenizers p(o | z): observations to tokens and back. Frozen before the first tick of a run, and versioned.

Axes: A observations, R × C cells, p pixels on a side of a cell, V tokens. Token 0 is UNSEEN and never an observation.
"""

import hashlib
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import Int32Array, Uint8Array, ViewLayout
from world.field import Uint16Array

_MIXER = np.random.default_rng(20_510_668).integers(1, 2**63, size=1 << 14, dtype=np.uint64) | np.uint64(1)


class Tokenizer(Protocol):
    """What replay, Redis and the model need of any tokenizer."""

    layout: ViewLayout
    vocab_size: int
    """V: tokens are 1 … V - 1."""
    num_tokens: int
    """Tokens that stand for something, UNSEEN among them: those from here on are never observed."""
    noise: float
    """Mean squared error, on a scale of 255, with which it draws back what it read; 0 for exact ones."""

    @property
    def digest(self) -> str:
        """Names this tokenizer's content: equal digests, equal tokens."""

    def encode(self, views: Uint8Array | Int32Array) -> Uint16Array:
        """Return tokens (A, R, C) of observations."""

    def decode(self, tokens: Uint16Array) -> Uint8Array:
        """Return images (…, R·p, C·p, 3) of tokens (…, R, C)."""

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Return what `world.model.tokenizer_files` saves."""


def patches_of(views: Uint8Array, layout: ViewLayout) -> Uint8Array:
    """Cut images (A, ≥ R·p, ≥ C·p, 3) into patches (A, R, C, p, p, 3); rests at the lower and right edge fall away."""
    p, rows, cols = layout.tile_px, layout.rows, layout.cols
    cut = views[:, : rows * p, : cols * p]
    return np.ascontiguousarray(cut.reshape(-1, rows, p, cols, p, 3).transpose(0, 1, 3, 2, 4, 5))


def image_of(patches: Uint8Array) -> Uint8Array:
    """Join patches (…, R, C, p, p, 3) into images (…, R·p, C·p, 3)."""
    *lead, rows, cols, p, _, channels = patches.shape
    joined = np.moveaxis(patches, -4, -3)
    return np.ascontiguousarray(joined).reshape(*lead, rows * p, cols * p, channels)


class PatchTokenizer:
    """A static codebook of the distinct patches met in warm-up; later ones go to the nearest, and are counted.

    Such a codebook lifted Craftax-classic above every learned tokenizer (Dedieu et al. 2025, arXiv 2502.01591).
    """

    noise = 0.0

    def __init__(self, layout: ViewLayout, codebook: Uint8Array, vocab_size: int) -> None:
        """Take the patches (V' ≤ V - 1, p, p, 3) that tokens 1 … V' stand for."""
        assert len(codebook) < vocab_size
        self.layout, self.codebook, self.vocab_size = layout, codebook, vocab_size
        self.num_tokens = len(codebook) + 1
        self.unknown_patches = 0
        keys = _patch_keys(codebook)
        self._order = np.argsort(keys)
        self._keys = keys[self._order]

    @property
    def digest(self) -> str:
        """Of the codebook."""
        return hashlib.blake2b(self.codebook.tobytes(), digest_size=8).hexdigest()

    def encode(self, views: Uint8Array | Int32Array) -> Uint16Array:
        """Return tokens (A, R, C) of images (A, height, width, 3)."""
        return self.encode_patches(patches_of(views.astype(np.uint8, copy=False), self.layout))

    def encode_patches(self, patches: Uint8Array) -> Uint16Array:
        """Return tokens (…) of patches (…, p, p, 3)."""
        flat = patches.reshape(-1, *self.codebook.shape[1:])
        keys = _patch_keys(flat)
        found = np.searchsorted(self._keys, keys).clip(0, len(self._keys) - 1)
        tokens: Uint16Array = (self._order[found] + 1).astype(np.uint16)
        missed = np.flatnonzero(self._keys[found] != keys)
        if len(missed):
            self.unknown_patches += len(missed)
            tokens[missed] = [self._nearest(flat[i]) for i in missed]
        return tokens.reshape(patches.shape[:-3])

    def decode(self, tokens: Uint16Array) -> Uint8Array:
        """Return images (…, R·p, C·p, 3); UNSEEN and unused tokens are black."""
        blank = np.zeros((1, *self.codebook.shape[1:]), np.uint8)
        table = np.concatenate([blank, self.codebook])
        return image_of(table[np.where(tokens < len(table), tokens, 0)])

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The codebook."""
        return {"codebook": self.codebook}

    def _nearest(self, patch: Uint8Array) -> int:
        difference = self.codebook.astype(np.int32) - patch.astype(np.int32)
        return int((difference**2).sum(axis=(1, 2, 3)).argmin()) + 1


class DiscreteTokenizer:
    """Discrete observations are tokens already: value v is token v + 1."""

    noise = 0.0

    def __init__(self, layout: ViewLayout) -> None:
        self.layout = layout
        self.vocab_size = self.num_tokens = layout.num_values + 1

    @property
    def digest(self) -> str:
        """Of the vocabulary's size: nothing else is chosen."""
        return f"discrete-{self.layout.num_values}"

    def encode(self, views: Uint8Array | Int32Array) -> Uint16Array:
        """Return tokens (A, R, C) of values (A, R·C)."""
        tokens: Uint16Array = (views.reshape(-1, self.layout.rows, self.layout.cols) + 1).astype(np.uint16)
        return tokens

    def decode(self, tokens: Uint16Array) -> Uint8Array:
        """Return images (…, 7·R, 7·C, 3): each value a shade of its own."""
        shade = (_MIXER[:3] * tokens.astype(np.uint64)[..., None] >> np.uint64(40)).astype(np.uint8)
        shade[tokens == 0] = 0
        return np.ascontiguousarray(shade.repeat(7, axis=-3).repeat(7, axis=-2))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """Nothing is learned."""
        return {"num_values": np.array([self.layout.num_values], np.int32)}


def build_codebook(patches: Uint8Array, max_size: int) -> Uint8Array:
    """Return the distinct patches (≤ max_size, p, p, 3) among patches (n, p, p, 3), the most frequent first."""
    keys = _patch_keys(patches)
    _, first, counts = np.unique(keys, return_index=True, return_counts=True)
    order = np.lexsort((first, -counts))[:max_size]
    return patches[first[order]]


def _patch_keys(patches: Uint8Array) -> NDArray[np.uint64]:
    """Return 64-bit keys (n,) of patches (n, …): a random linear form modulo 2^64, then mixed."""
    flat = patches.reshape(len(patches), -1)
    mixer = _MIXER[: flat.shape[1]]
    assert flat.shape[1] <= len(_MIXER), "a patch has more bytes than the mixer has keys"
    keys: NDArray[np.uint64] = flat.astype(np.uint64) @ mixer
    return keys ^ (keys >> np.uint64(29))
