"""Habits: what tokens never do, as counted in all truth that was learned from.

A network believes a little of everything, and what it believes of impossible things adds up over the cells and ticks of
a dream. Three of them are told by counting, whatever tokens look like: some are seen where an agent is and nowhere
else, some never where an agent is, and some come to a cell only from one beside it, which they leave.

Axes: R rows, A agents, H × W cells of a window, V tokens.
"""

import math
from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from world.field import UNSEEN
from world.sight import in_sight, stood_on_afterwards, tokens_beside
from world.trajectory import ELSEWHERE

_ENOUGH: Final = 300
"""Cases in which something never happened, or would have by chance, before it counts as never. A wide margin, for cases
repeat: what stays is counted at every tick, and a row as often as it is drawn."""
_SURE: Final = math.log(100.0)
"""How much likelier the likeliest of what is barred may be than the likeliest of what is left. Beyond, counting is not
to be trusted against a network that was never as sure of anything impossible."""

_OPEN, _HIDDEN, _STOOD_ON = range(3)
"""Kinds of cells: nobody stands there afterwards, and it is in sight with all four beside it; the same, and it is not;
somebody stands there."""


class Habits(nn.Module):
    """Counts of what each token did. Where agents have no poses nothing is counted, and nothing barred."""

    counts: Tensor
    """(5, V) cells in which it was seen where somebody stands, and elsewhere; in which it came from a cell beside it
    that it left, from one where it stayed, and from none. Of float32, for counts are averaged and published as weights
    are: what never happened stays zero."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(5, vocab_size))

    def note(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Count columns (…, A, …) of `Transitions` of a map, in truth."""
        rows = _Rows(columns)
        beside = tokens_beside(rows.before) == rows.after[..., None]
        stays = tokens_beside(rows.after) == rows.after[..., None]
        seen, came = rows.after != UNSEEN, rows.after != rows.before
        stood, comes = rows.kinds == _STOOD_ON, came & (rows.kinds == _OPEN)
        left, held = (beside & ~stays).any(-1), beside.any(-1)
        cases = (stood, ~stood, comes & left, comes & held & ~left, comes & ~held)
        size = self.counts.shape[1]
        found = torch.stack([torch.bincount(rows.after[seen & case], minlength=size) for case in cases])
        self.counts += found.to(self.counts)

    def barred(self, logits: Tensor, kinds: Tensor, beside: Tensor) -> Tensor:
        """Return logits (…, V) without what can never be in cells of these kinds (…), beside which, and in which, were
        tokens (…, 5); but where nearly nothing would be left, as they are.
        """
        bars, carried = self._bars(logits.shape[-1])
        told = logits + bars[kinds]
        comes = carried[beside] & (kinds == _OPEN)[..., None]
        told.scatter_(-1, beside, torch.where(comes, logits.gather(-1, beside), told.gather(-1, beside)))
        is_left = told.amax(-1, keepdim=True) >= logits.amax(-1, keepdim=True) - _SURE
        return torch.where(is_left, told, logits)

    def _bars(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Return minus infinity by kind (3, V) for what can never be there, else zero; and what is carried (V,)."""
        here, elsewhere, left, stayed, nowhere = self.counts
        worn = (here >= _ENOUGH) & (elsewhere == 0)
        # Few cells are stood on: most tokens would never have been seen there if they were as common there.
        bare = (here == 0) & (elsewhere * here.sum() >= _ENOUGH * elsewhere.sum()) & (here.sum() >= _ENOUGH)
        carried = (left >= _ENOUGH) & (left > stayed) & (nowhere == 0)
        bars = torch.zeros(3, len(worn), device=worn.device)
        bars = bars.masked_fill(torch.stack([worn | carried, worn, bare]), -math.inf)
        # Who answers may leave out what stands for nothing, or fill up to whole blocks.
        more = max(0, num_tokens - len(worn))
        return F.pad(bars, (0, more))[:, :num_tokens], F.pad(carried, (0, more))[:num_tokens]


class _Rows:
    """What is counted of columns (…, A, …): newest tokens `before`, and `after` (R, A, H, W), and `kinds` of cells."""

    def __init__(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        # Who went farther than one cell is where nothing tells.
        told = (columns["displacement"] != ELSEWHERE).all(axis=-1)

        def of(column: NDArray[np.generic]) -> Tensor:
            return torch.from_numpy(column[told].astype(np.int64))

        self.before, self.after = of(columns["tokens"][..., 0]), of(columns["next_tokens"])
        poses, displacement = of(columns["poses"]), of(columns["displacement"])
        self.kinds = kinds_of(self.before, of(columns["ages"][..., -1]), poses, displacement)


def kinds_of(tokens: Tensor, ages: Tensor, poses: Tensor, displacement: Tensor) -> Tensor:
    """Return the kinds (R, A, H, W) of cells with these newest tokens, seen so long ago (R, A, H, W), in windows of
    agents that move from poses (R, A, 2) by classes (R, A).
    """
    stood = stood_on_afterwards(poses, displacement, *tokens.shape[2:])
    return torch.where(stood, _STOOD_ON, torch.where(in_sight(tokens, ages), _OPEN, _HIDDEN))
