"""A bank of the model's own errors: what it drew where another token followed, to be met again as if it were known.

A dream is fed with what was dreamed. A model that only ever knew truth has never seen its own mistakes; here some
cells hold one, while what is asked for stays the truth, so that it learns to mend what it broke. That is where
something tells an error: where agents stand, who they are, and elsewhere, that nobody is there. Of anything else
nothing tells whether it is an error or chance, and who has met many errors takes back what chance brought.

What may hold errors is called dreamed, as it is in worlds that are: of what was seen nothing is to be doubted.

Axes: B sequences, L ticks, A agents, H × W cells of a window, K tokens a cell remembers, V tokens, R errors kept for
each token, M answers.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world.field import NOW, UNSEEN, Uint16Array
from world.window import stood_on

KEPT: Final = 8
"""R: of each true token, the newest wrong ones that were drawn in its place."""

_GHOSTS: Final = 1 / 64
"""How often, against agents that look wrong, a cell on which nobody stands shows an agent."""

Columns = Mapping[str, NDArray[np.generic]]


class ErrorBank:
    """Wrong tokens by the true ones they stood for; a ring for each."""

    def __init__(self, vocab_size: int) -> None:
        self.wrong: Uint16Array = np.zeros((vocab_size, KEPT), np.uint16)
        self.next = np.zeros(vocab_size, np.int64)

    @property
    def num_noted(self) -> int:
        """Errors that were ever noted."""
        return int(self.next.sum())

    def note(self, drawn: NDArray[np.integer], truth: NDArray[np.integer]) -> None:
        """Keep what was drawn (M,) where it is not the truth (M,)."""
        for token, other in zip(truth[drawn != truth].tolist(), drawn[drawn != truth].tolist(), strict=True):
            self.wrong[token, self.next[token] % KEPT] = other
            self.next[token] += 1

    def corrupt(self, columns: Columns, most: float, rng: np.random.Generator) -> dict[str, NDArray[np.generic]]:
        """Return columns (B, L, A, …) of maps in which some agents look wrong, as if it had just been dreamed, and some
        are seen where nobody is; rows that may hold such are called `dreamed` (B, L).

        Half of the rows stay as they are; in each of the others a share of the cells on which somebody stands is drawn
        from [0, most]. What was known moves one place down, as in the field: who doubts the newest token can point to
        the one before.
        """
        tokens, ages = columns["tokens"].copy(), columns["ages"].copy()
        shape = tokens.shape[:-1]
        rate = most * rng.random(shape[:2]) * (rng.random(shape[:2]) < 0.5)
        newest = tokens[..., 0].astype(np.intp)
        wrong = self.wrong[newest, rng.integers(0, KEPT, shape)]
        # Whoever looks like somebody else in a dream would do so for ever, if it believed its own eyes alone.
        shown = stood_on(columns["poses"].astype(np.int32), *shape[-2:])
        looks = newest[..., shape[-2] // 2, shape[-1] // 2].ravel()
        wrong = np.where(shown, wrong, rng.choice(looks, shape))
        chance = rate[:, :, None, None, None] * np.where(shown, 1.0, _GHOSTS)
        hit = (rng.random(shape, np.float32) < chance) & (wrong != UNSEEN) & ((newest != UNSEEN) | ~shown)
        tokens[hit, 1:], ages[hit, 1:-1] = tokens[hit, :-1], ages[hit, :-2]
        tokens[hit, 0], ages[hit, 0] = wrong[hit], NOW
        # What nobody had seen was seen when that was dreamed there.
        ages[hit & (newest == UNSEEN), -1] = NOW
        return {**columns, "tokens": tokens, "ages": ages, "dreamed": rate > 0.0}

    def state(self) -> dict[str, Tensor]:
        """Return what a checkpoint keeps."""
        return {"wrong": torch.from_numpy(self.wrong.astype(np.int32)), "next": torch.from_numpy(self.next.copy())}

    def load(self, state: Mapping[str, Tensor]) -> None:
        """Go on from a checkpoint. Raises `ValueError` if it is of another vocabulary."""
        wrong, following = state["wrong"].numpy(), state["next"].numpy()
        if wrong.shape != self.wrong.shape or following.shape != self.next.shape:
            raise ValueError(f"errors of {len(following)} tokens, expected {len(self.next)}")
        self.wrong, self.next = wrong.astype(np.uint16), following.astype(np.int64)
