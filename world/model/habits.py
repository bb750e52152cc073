"""What tokens never do, as counted in all truth that was learned from.

A network believes a little of everything, and what it believes of impossible things adds up over the cells and ticks of
a dream. Three of them are told by counting, whatever tokens look like: some are seen where an agent is and nowhere
else, some nowhere where an agent is, and some come to a cell from one beside it alone. What never happened in n cases
happens in fewer than 3 / n, with a confidence of 95% (Hanley and Lippman-Hand 1983, "If nothing goes wrong, is
everything all right?").

Axes: B worlds, A agents, H × W cells of a window, V tokens.
"""

from collections.abc import Mapping
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from world.field import NOW, UNSEEN
from world.model.slots import places_in_windows, steps_of
from world.trajectory import ELSEWHERE

_ENOUGH: Final = 300
"""Cases from which on what never happened never will: a hundredth of them are 3."""
_BESIDE: Final = ((0, 0), (-1, 0), (1, 0), (0, -1), (0, 1))
_IN_SIGHT, _OUT_OF_SIGHT, _STOOD_ON = range(3)


class Habits(nn.Module):
    """How often each token was seen where agents are, and elsewhere; and came to a cell from beside it, and otherwise.

    Where agents have no poses nothing is counted, and nothing barred.
    """

    counts: Tensor
    """(4, V) float32, for counts are averaged and published as weights are."""

    def __init__(self, vocab_size: int) -> None:
        super().__init__()
        self.register_buffer("counts", torch.zeros(4, vocab_size))

    def note(self, columns: Mapping[str, NDArray[np.generic]]) -> None:
        """Count columns (…, A, …) of `Transitions` of maps, as they were in truth."""
        agents = columns["poses"].shape[-2]
        rows = {
            name: torch.from_numpy(np.array(columns[name], np.int64)).view(-1, agents, *shape)
            for name, shape in (
                ("tokens", columns["tokens"].shape[-3:]),
                ("ages", columns["ages"].shape[-3:]),
                ("next_tokens", columns["tokens"].shape[-3:-1]),
                ("poses", (2,)),
                ("displacement", ()),
            )
        }
        # Who went farther is where nothing tells.
        stayed = (rows["displacement"] != ELSEWHERE).all(1)
        tokens, ages, after, poses, displacement = (of[stayed] for of in rows.values())
        seen = after != UNSEEN
        kinds = kinds_of(tokens[..., 0], ages[..., -1], poses, displacement)
        beside = tokens_beside(tokens[..., 0])
        came = seen & (kinds == _IN_SIGHT) & (after != tokens[..., 0])
        from_beside = (beside == after[..., None]).any(-1)
        cases = (
            seen & (kinds == _STOOD_ON),
            seen & (kinds != _STOOD_ON),
            came & from_beside,
            came & ~from_beside,
        )
        found = torch.stack([torch.bincount(after[case], minlength=self.counts.shape[1]) for case in cases])
        self.counts += found.to(self.counts)

    def barred(self, logits: Tensor, kinds: Tensor, beside: Tensor) -> Tensor:
        """Return logits (…, V) without what can never be there, of cells of kinds (…) with tokens `beside` (…, 5)."""
        bars, carried = self._bars(logits.shape[-1])
        told = logits + bars[kinds]
        comes = carried[beside] & (kinds == _IN_SIGHT)[..., None]
        kept = torch.where(comes, logits.gather(-1, beside), told.gather(-1, beside))
        return told.scatter(-1, beside, kept)

    def _bars(self, num_tokens: int) -> tuple[Tensor, Tensor]:
        """Return minus infinity by kind (3, V) for what can never be there, else zero; and what is carried (V,)."""
        here, elsewhere, from_beside, otherwise = self.counts
        worn = (here >= _ENOUGH) & (elsewhere == 0)
        bare = (elsewhere >= _ENOUGH) & (here == 0)
        carried = (from_beside >= _ENOUGH) & (otherwise == 0)
        bars = torch.zeros(3, len(worn), device=worn.device)
        bars = bars.masked_fill(torch.stack([worn | carried, worn, bare]), float("-inf"))
        # Who answers may leave out what stands for nothing, or fill up to whole blocks.
        more = max(0, num_tokens - len(worn))
        return F.pad(bars, (0, more))[:, :num_tokens], F.pad(carried, (0, more))[:num_tokens]


def kinds_of(tokens: Tensor, ages: Tensor, poses: Tensor, displacement: Tensor) -> Tensor:
    """Return of what kind cells (B, A, H, W) are whose newest tokens were seen so long ago, (B, A, H, W) both: whether
    somebody stands there after agents moved from poses (B, A, 2) by classes (B, A), and else whether they are in sight
    now with all four beside them.
    """
    height, width = tokens.shape[2:]
    place, inside = places_in_windows(poses, poses + steps_of(displacement), height, width)
    stood = torch.zeros_like(tokens).flatten(2).scatter_add(2, place, inside.to(tokens.dtype)) > 0
    in_sight = (ages == NOW) & (tokens != UNSEEN)
    all_in_sight = torch.stack([_moved(in_sight, dy, dx) for dy, dx in _BESIDE]).all(0)
    return torch.where(stood.view_as(tokens), _STOOD_ON, torch.where(all_in_sight, _IN_SIGHT, _OUT_OF_SIGHT))


def tokens_beside(tokens: Tensor) -> Tensor:
    """Return the tokens (B, A, H, W, 5) in cells (B, A, H, W) of windows and in the four beside each."""
    return torch.stack([_moved(tokens, dy, dx) for dy, dx in _BESIDE], dim=-1)


def _moved(cells: Tensor, dy: int, dx: int) -> Tensor:
    """Return what lies so far from each cell (…, H, W); beyond the window nothing."""
    height, width = cells.shape[-2:]
    return F.pad(cells, (1, 1, 1, 1))[..., 1 + dy : 1 + dy + height, 1 + dx : 1 + dx + width]
