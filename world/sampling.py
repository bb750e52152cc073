"""Drawing from what a model believes, by draws that are keyed by (world's seed, tick): no generator has to be kept.

Axes: B worlds, V outcomes.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

DrawArray = NDArray[np.float32]
BLOCK = 32
"""Outcomes that are summed up together. A multiple of it needs no copy."""
_BELOW_ONE = 1.0 - 2.0**-23


def draws_for(seeds: Sequence[int], tick: Sequence[int], count: int) -> DrawArray:
    """Return uniform draws (B, count) in [0, 1), by counter: equal for equal (seed, tick)."""
    return np.stack(
        [
            # As uint64: numpy makes a list that holds a number beyond 2^63 into floats, and seeds would collide.
            np.random.Generator(np.random.Philox(key=np.array([seed & (2**64 - 1), at], np.uint64))).random(
                count, np.float32
            )
            for seed, at in zip(seeds, tick, strict=True)
        ]
    )


def sample(logits: Tensor, draws: Tensor, *, temperature: float = 1.0, least_chance: float = 0.0) -> Tensor:
    """Return indices (…) from logits (…, V) by inverting their distribution at draws (…).

    In two steps, a block of outcomes and one within it, since running sums over all V would cost more than the
    exponentials do.
    """
    if not logits.numel():
        return torch.zeros(draws.shape, dtype=torch.int64, device=draws.device)
    if temperature == 0.0:
        return logits.argmax(-1)
    chances = torch.softmax(logits.float() if temperature == 1.0 else logits.float() / temperature, dim=-1)
    if 0.0 < least_chance * logits.shape[-1] < 1.0:
        # Of few enough outcomes the likeliest is above it.
        chances = torch.nn.functional.threshold(chances, least_chance, 0.0, inplace=True)
    elif least_chance:
        likeliest = chances.amax(-1, keepdim=True)
        chances = chances.masked_fill(chances < torch.clamp(likeliest, max=least_chance), 0.0)
    if rest := -chances.shape[-1] % BLOCK:
        chances = torch.nn.functional.pad(chances, (0, rest))
    blocks = chances.view(*draws.shape, -1, BLOCK)
    sums = blocks.sum(-1).cumsum(-1)
    wanted = _within((draws * sums[..., -1])[..., None], sums)
    block = torch.searchsorted(sums, wanted, right=True)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(-1, block)
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, BLOCK))[..., 0, :].cumsum(-1)
    place = torch.searchsorted(inside, _within(wanted - before, inside), right=True)
    return (block * BLOCK + place)[..., 0]


def _within(wanted: Tensor, sums: Tensor) -> Tensor:
    """Return sums wanted (…, 1) that fall, whatever was rounded, on an outcome of running sums (…, V) that can be."""
    return torch.minimum(wanted.clamp(min=0.0), sums[..., -1:] * _BELOW_ONE)
