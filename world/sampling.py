"""Drawing from what a model believes, by draws that are keyed by (world's seed, tick): no generator has to be kept.

Axes: B worlds, V outcomes, C cells of a world.
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
_DOUBT = 0.005
"""A chance that is as far from 0 and from 1 is in doubt."""
_NEARLY = 0.3
"""As many things are expected as there are, where they are as nearly."""
_PATH = 4
"""Cells in doubt hang together over up to 2 to the power of so many steps."""


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
    """Return indices (…) from logits (…, V) by inverting their distribution at draws (…)."""
    return inverted(chances_of(logits, temperature=temperature, least_chance=least_chance), draws)


def chances_of(logits: Tensor, *, temperature: float = 1.0, least_chance: float = 0.0) -> Tensor:
    """Return the chances (…, V) of outcomes by their logits; those below the least are 0, and missing from the sum.

    At a temperature of 0 the likeliest is sure.
    """
    if temperature == 0.0:
        return torch.nn.functional.one_hot(logits.argmax(-1), logits.shape[-1]).float()
    chances = torch.softmax(logits.float() if temperature == 1.0 else logits.float() / temperature, dim=-1)
    if 0.0 < least_chance * logits.shape[-1] < 1.0:
        # Of few enough outcomes the likeliest is above it.
        return torch.nn.functional.threshold(chances, least_chance, 0.0, inplace=True)
    if least_chance:
        likeliest = chances.amax(-1, keepdim=True)
        return chances.masked_fill(chances < torch.clamp(likeliest, max=least_chance), 0.0)
    return chances


def inverted(chances: Tensor, draws: Tensor) -> Tensor:
    """Return indices (…) by inverting chances (…, V), whatever their sum, at draws (…); any, where all are 0.

    In two steps, a block of outcomes and one within it, since running sums over all V would cost more than the
    exponentials do.
    """
    if not draws.numel():
        return torch.zeros(draws.shape, dtype=torch.int64, device=draws.device)
    if rest := -chances.shape[-1] % BLOCK:
        chances = torch.nn.functional.pad(chances, (0, rest))
    blocks = chances.view(*draws.shape, -1, BLOCK)
    sums = blocks.sum(-1).cumsum(-1)
    wanted = _within((draws * sums[..., -1])[..., None], sums)
    block = torch.searchsorted(sums, wanted, right=True).clamp(max=sums.shape[-1] - 1)
    before = torch.nn.functional.pad(sums, (1, 0)).gather(-1, block)
    inside = blocks.gather(-2, block[..., None].expand(*block.shape, BLOCK))[..., 0, :].cumsum(-1)
    place = torch.searchsorted(inside, _within(wanted - before, inside), right=True).clamp(max=BLOCK - 1)
    return (block * BLOCK + place)[..., 0]


def in_doubt(chances: Tensor) -> Tensor:
    """Return whether no outcome of chances (…, V) is nearly sure (…)."""
    return chances.amax(-1) < (1.0 - _DOUBT) * chances.sum(-1)


def together(chances: Tensor, places: Tensor, draws: Tensor, counted: Tensor, now: Tensor, watched: Tensor) -> Tensor:
    """Return indices (B, C) from chances (B, C, V) of cells at places (B, C, 2), so that what is somewhere among
    neighbours is there once.

    Drawn each by itself, a thing that may have gone to one of five cells would be in none of them, or in two, at every
    third tick. So cells in doubt that touch each other, of those that count (B, C), are drawn for one outcome, which
    most of their doubt is about. Those that hold it `now` (B, C), with those beside them along rows and columns, are
    drawn by one draw, and those that touch each other elsewhere by another: by systematic sampling (Madow 1949), which
    keeps the chance of every cell, and of which as many are drawn as are expected. Where about as many are expected as
    there are now, and all cells beside them are `watched` (B, C), they are made as many.
    """
    chances = chances / chances.sum(-1, keepdim=True).clamp(min=1e-12)
    apart = (places[:, :, None] - places[:, None]).abs()
    is_near = apart.amax(-1) <= 1
    mates = _joined(is_near, counted).to(chances.dtype)
    doubtful = ((chances > _DOUBT) & (chances < 1.0 - _DOUBT)).to(chances.dtype)
    count, expected = mates @ doubtful, mates @ (chances * doubtful)
    # Most of the doubt is about it, and in most cells it is not: what moves, rather than what it moves over.
    doubt = mates @ (chances * (1.0 - chances) * doubtful)
    weight = torch.where((doubtful > 0) & (count > 1.5), doubt * (1.0 - expected / count.clamp(min=1.0)), 0.0)
    most, shared = weight.max(-1)
    is_shared = most > 0
    alike = (shared[:, :, None] == shared[:, None]) & is_shared[:, :, None] & is_shared[:, None]
    holds = now == shared
    # From each of the first cells, whether the second is there or beside it, and holds what they share.
    reached = (apart.sum(-1) <= 1) & alike & holds[:, None]
    mates = _mates(is_near, alike, reached)
    chance = _kept(chances.gather(-1, shared[..., None]), mates, holds, watched)
    order = _order(reached)
    before = ((mates * (order[:, None] < order[:, :, None])) @ chance)[..., 0]
    chance = chance[..., 0]
    first = mates.argmax(-1)
    at = (draws.gather(-1, first) - before) % 1.0
    # Its own draw says what else is in a cell; of the first, whose draw was taken for all, what is left of it.
    is_first = first == torch.arange(first.shape[1], device=first.device)
    left = ((at - chance) / (1.0 - chance).clamp(min=1e-6)).clamp(0.0, _BELOW_ONE)
    others = inverted(chances.scatter(-1, shared[..., None], 0.0), torch.where(is_first, left, draws))
    return torch.where(is_shared, torch.where(at < chance, shared, others), inverted(chances, draws))


def _kept(chance: Tensor, mates: Tensor, holds: Tensor, watched: Tensor) -> Tensor:
    """Return the chances (B, C, 1) of what cells share, by which as many are expected among mates (B, C, C) as hold it
    (B, C), where that is nearly so and none could have left unwatched.
    """
    expected = mates @ chance
    held = mates @ holds[..., None].to(chance.dtype)
    unwatched = mates @ (holds & ~watched)[..., None].to(chance.dtype)
    is_kept = (held > 0) & (unwatched == 0) & ((expected - held).abs() < _NEARLY)
    return torch.where(is_kept, (chance * held / expected.clamp(min=1e-12)).clamp(max=1.0), chance)


def together_in_worlds(worlds: Tensor, *of_cells: Tensor) -> Tensor:
    """Return the same for cells (n,) of several worlds (n,), in rising order: all that `together` is told, but which
    count, of cells (n, …).
    """
    if not len(worlds):
        return worlds
    number = torch.arange(len(worlds), device=worlds.device) - torch.searchsorted(worlds, worlds)
    num_worlds, most = int(worlds[-1]) + 1, int(number.max()) + 1

    def padded(of: Tensor) -> Tensor:
        by_world = of.new_zeros(num_worlds, most, *of.shape[1:])
        by_world[worlds, number] = of
        return by_world

    chances, places, draws, now, watched = map(padded, of_cells)
    counted = padded(torch.ones_like(worlds, dtype=torch.bool))
    return together(chances, places, draws, counted, now, watched)[worlds, number]


def _mates(is_near: Tensor, alike: Tensor, reached: Tensor) -> Tensor:
    """Return which cells (B, C, C) are drawn by one draw, of those that are `alike` (B, C, C): which have `reached` a
    common one (B, C, C), or are near each other (B, C, C) and have reached none.
    """
    lone = ~reached.any(-1)
    links = reached | reached.transpose(1, 2) | (is_near & lone[:, :, None] & lone[:, None])
    return _joined(links & alike, alike.diagonal(dim1=1, dim2=2)).to(torch.float32)


def _order(reached: Tensor) -> Tensor:
    """Return the turns (B, C) of cells in a row in which all that have reached one cell (B, C, C) lie together, and
    those that have reached two between them.
    """
    index = torch.arange(reached.shape[-1], device=reached.device, dtype=torch.float32)
    middle = (reached.float() @ index) / reached.sum(-1).clamp(min=1)
    return middle.argsort(stable=True).argsort()


def _joined(links: Tensor, counted: Tensor) -> Tensor:
    """Return whether cells hang together (B, C, C) by links (B, C, C), from one that counts (B, C) to the next."""
    joined = (links & counted[:, :, None] & counted[:, None]).float()
    for _ in range(_PATH):
        joined = (joined @ joined).clamp(max=1.0)
    return joined


def _within(wanted: Tensor, sums: Tensor) -> Tensor:
    """Return sums wanted (…, 1) that fall, whatever was rounded, on an outcome of running sums (…, V) that can be."""
    return torch.minimum(wanted.clamp(min=0.0), sums[..., -1:] * _BELOW_ONE)
