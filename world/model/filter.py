"""Latent filter q(z | h, o): what the cells are, given what the field remembers of them and what is seen now.

Axes: A agents, R × C cells of a view.
"""

import math

import numpy as np

from world.envs.grounded import Int32Array, Uint8Array
from world.field import UNSEEN, Uint16Array
from world.model.tokenizer import Tokenizer, patches_of

_STAY_LOG_ODDS = math.log(0.95 / 0.05)
"""Prior of a cell that is looked at again: it is what it was."""
_SAMPLES_PER_CELL = 16.0
"""Independent measurements that the pixels of one cell are worth; noise and blur come in patches, not in pixels."""


class Filter:
    """Bayes' rule on each cell between two hypotheses: it is still what is remembered, or it is what was read.

    An exact tokenizer makes the reading the posterior. A lossy one draws back what it read with some error, and
    under noise its code flips between neighbours that look alike; there the memory of the field decides.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer

    def infer(self, views: Uint8Array | Int32Array, remembered: Uint16Array) -> Uint16Array:
        """Return the posterior's tokens (A, R, C) from observations and the tokens remembered there (A, R, C)."""
        read = self._tokenizer.encode(views)
        if not self._tokenizer.noise:
            return read
        doubtful = (remembered != UNSEEN) & (remembered != read)
        if not doubtful.any():
            return read
        images = views.astype(np.uint8, copy=False)
        surprise = self._error(images, remembered) - self._error(images, read)
        evidence = _SAMPLES_PER_CELL * surprise / (2 * self._tokenizer.noise)
        return np.where(doubtful & (evidence < _STAY_LOG_ODDS), remembered, read)

    def _error(self, images: Uint8Array, tokens: Uint16Array) -> "np.typing.NDArray[np.float32]":
        """Return the mean squared difference (A, R, C) between what is seen and what tokens look like."""
        layout = self._tokenizer.layout
        drawn = patches_of(self._tokenizer.decode(tokens), layout).astype(np.float32)
        error: np.typing.NDArray[np.float32] = ((patches_of(images, layout) - drawn) ** 2).mean(axis=(3, 4, 5))
        return error
