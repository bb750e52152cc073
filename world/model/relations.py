"""What agents have to do with each other, and with what is beside them.

Axes: B worlds, A agents, N = B·A windows, H × W cells of a window, P = H·W, D width, E width of tokens.
"""

import torch
from torch import Tensor, nn

from world.model.blocks import GatedMLP, GlobalBlock, RMSNorm
from world.model.slots import Slots

_NEAR = 2
"""Cells, in rows and columns, within which an agent meets another: both may head for the cell between them."""


class Encounters(nn.Module):
    """What each agent learns of those who are near: where they stand, who acts first, who both are, and what they do;
    and each of its status slots of what the other has in its place.

    Who gets a cell, or what lies on it, or what passes from hand to hand, is decided between two; it is heard at once,
    not over the cells between them.
    """

    def __init__(self, width: int, hidden: int, num_actions: int) -> None:
        super().__init__()
        self.where = nn.Embedding(2 * (2 * _NEAR + 1) ** 2, width)
        self.own_action = nn.Embedding(num_actions + 1, width)
        self.other_action = nn.Embedding(num_actions + 1, width)
        for table in (self.where, self.own_action, self.other_action):
            nn.init.normal_(table.weight, std=0.3)
        self.mlp = GatedMLP(width, hidden)
        self.own, self.other = nn.Linear(width, width), nn.Linear(width, width)
        self.deal = GatedMLP(width, hidden)
        self.norm = RMSNorm(width)
        self.others_slot = nn.Linear(width, width)
        self.passing = GatedMLP(width, hidden // 2)

    def forward(self, slots: Slots, agents: Tensor, actions: Tensor, status: Tensor) -> tuple[Tensor, Tensor]:
        """Return for each agent (B, A, D), and for each of its status slots (B, A, S, D), the sum over those within two
        cells, given agents (B, A, D), the joint action (B, A), and status slots (B, A, S, D) at unit scale.
        """
        offset = slots.poses[:, None] - slots.poses[:, :, None]
        near = (offset.abs() <= _NEAR).all(-1) & ~torch.eye(actions.shape[1], dtype=torch.bool, device=actions.device)
        offset = offset.clamp(-_NEAR, _NEAR) + _NEAR
        first = slots.turns[:, None] < slots.turns[:, :, None]
        where = (offset[..., 0] * (2 * _NEAR + 1) + offset[..., 1]) * 2 + first
        met = self.where(where) + self.own_action(actions)[:, :, None] + self.other_action(actions)[:, None]
        # Apart, or who they are would drown where they stand and what they do.
        both = met + self.own(agents)[:, :, None] + self.other(agents)[:, None]
        dealt = self.deal.change(both)
        # Only what was learned of them: who they are by themselves would be noise in every crowd.
        heard = (self.mlp.change(met) + dealt) * near[..., None]
        # Slot by slot, since what one gives is what the other gets.
        held = status[:, :, None] + self.others_slot(status)[:, None] + self.norm(both + dealt)[..., None, :]
        passed = self.passing.change(held) * near[..., None, None]
        return heard.sum(2), passed.sum(2)


class Reach(nn.Module):
    """Which of the nine cells about it each agent acts upon; what it finds there, and what it does to it.

    Kernels that mix neighbours add up direction and content, and what an action does depends on their product: on what
    lies where the agent is heading. So a cell, mostly one, is chosen by heading and action, then read and told.
    """

    def __init__(self, width: int, hidden: int, token_width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.which = nn.Linear(width, 9)
        nn.init.normal_(self.which.weight, std=0.1)
        self.norm_before, self.norm_after = RMSNorm(width), RMSNorm(width)
        self.read = nn.Linear(2 * width, width)
        self.name = nn.Linear(token_width, width, bias=False)
        nn.init.normal_(self.name.weight, std=0.3)
        self.mlp = GatedMLP(width, hidden)
        self.intent = nn.Linear(width, width)
        self.effect = nn.Linear(width, width)

    def where(self, agents: Tensor) -> Tensor:
        """Return shares (N, 9) of the cells about agents (N, D) who know their heading and action."""
        return torch.softmax(self.which(self.norm(agents)).float(), dim=-1).to(agents.dtype)

    def found(self, shares: Tensor, agents: Tensor, tokens: Tensor, before: Tensor, after: Tensor) -> Tensor:
        """Return what agents (N, D) find in their shares (N, 9) of the cells about them.

        Of those nine, embedded tokens (N, 9, E); of all cells, features (N, H, W, D) before actions and with them.
        """
        cells = torch.cat([self.norm_before(about(before)), self.norm_after(about(after))], dim=-1)
        read = self.read((shares[..., None] * cells).sum(1)) + self.name((shares[..., None] * tokens).sum(1))
        return read + self.mlp.change(agents + read)  # type: ignore[no-any-return]


def places_about(poses: Tensor, reach: int = 1) -> Tensor:
    """Return the places (B, J, n, 2) within `reach` rows and columns of poses (B, J, 2), nine for one, row by row."""
    step = torch.arange(-reach, reach + 1, device=poses.device)
    return poses[:, :, None] + torch.cartesian_prod(step, step)


def about(cells: Tensor) -> Tensor:
    """Return the nine cells (N, 9, D) about the centre of windows (N, H, W, D), row by row."""
    y, x = cells.shape[1] // 2, cells.shape[2] // 2
    assert min(y, x) > 0 and min(cells.shape[1:3]) > 2, "windows have a margin"
    return cells[:, y - 1 : y + 2, x - 1 : x + 2].flatten(1, 2)


class Hubs(nn.Module):
    """A world's own slots, which read the screens of all its agents and what these do: what joins screens that share
    no map.

    Cost is linear in agents, and their number is free (γ-World's hub tokens).
    """

    def __init__(self, num_hubs: int, width: int, read: GlobalBlock) -> None:
        super().__init__()
        self.start = nn.Parameter(torch.randn(num_hubs, width) * width**-0.5)
        self.read = read

    def forward(self, cells: Tensor, agents: Tensor, grid: Tensor, num_agents: int) -> Tensor:
        """Return hubs (B, hubs, D) from the cells of all screens (N, P, D), at places (P, 2), and agents (N, D)."""
        read = torch.cat([cells, agents[:, None].to(cells.dtype)], dim=1)
        read = read.reshape(-1, num_agents * read.shape[1], read.shape[2])
        batch, num_hubs = len(read), len(self.start)
        places = torch.cat([grid, grid.new_zeros(1, 2)]).repeat(num_agents, 1).expand(batch, -1, -1)
        hubs = self.start.to(cells.dtype).expand(batch, -1, -1)
        return self.read(hubs, read, grid.new_zeros(batch, num_hubs, 2), places)  # type: ignore[no-any-return]
