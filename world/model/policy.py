"""What an agent does, and what it expects of it: π(a | z, h) and v(z, h), of what both read in its window. They see
tokens and memory, never pixels.

Axes: N windows, P cells of a window, D width, U actions, Z bins of return.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world.model.blocks import GatedMLP, RMSNorm
from world.model.heads import TwoHotHead
from world.model.norm import inverse_length

UNIFORM_SHARE = 0.01
"""Of every policy, so that no action is ever impossible (arXiv 2301.04104, table 2)."""


class Reader(nn.Module):
    """Reads one vector from a window: the cells in view, weighted by what the agent asks of them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.query = nn.Linear(width, width, bias=False)
        self.norm = RMSNorm(width)
        self.mix = nn.Linear(2 * width, width)
        self.mlp = GatedMLP(width, 2 * width)

    def forward(self, cells: Tensor, agent: Tensor) -> Tensor:
        """Return (N, D) from cells (N, P, D) and the agent's own slot (N, D)."""
        # Cells enter at unit scale (`RMSNorm`), of which no copy is made: it is scores and shares that are scaled.
        gain, scale = self.norm.weight.to(cells.dtype), inverse_length(cells) * cells.shape[-1] ** 0.5
        scores = (cells @ (self.query(agent) * gain)[..., None].to(cells.dtype)) * scale
        shares = torch.softmax(scores * cells.shape[-1] ** -0.5, dim=-2) * scale
        read = (shares.to(cells.dtype).transpose(-1, -2) @ cells)[:, 0] * gain
        return self.mlp(self.mix(torch.cat([agent, read], dim=-1)))  # type: ignore[no-any-return]


class Policy(nn.Module):
    """π(a | z, h)."""

    def __init__(self, width: int, num_actions: int) -> None:
        super().__init__()
        self.logits = nn.Linear(width, num_actions)

    def forward(self, read: Tensor) -> Tensor:
        """Return log-probabilities (N, U) for what was read (N, D)."""
        probabilities = F.softmax(self.logits(read).float(), dim=-1)
        return torch.log((1 - UNIFORM_SHARE) * probabilities + UNIFORM_SHARE / probabilities.shape[-1])


class Value(nn.Module):
    """v(z, h), as a distribution over returns."""

    def __init__(self, width: int, num_bins: int) -> None:
        super().__init__()
        self.head = TwoHotHead(width, num_bins)

    def forward(self, read: Tensor) -> Tensor:
        """Return logits (N, Z) over bins of return for what was read (N, D)."""
        return self.head(read)  # type: ignore[no-any-return]
