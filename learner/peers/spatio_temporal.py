"""The usual world model: a spatio-temporal transformer over an agent's last frames. No field, no poses, no ages.

Attention is factorised (Bertasius et al. 2021, arXiv 2102.05095, section 3; Genie, Bruce et al. 2024, arXiv
2402.15391, section 2): every slot attends to the same slot in earlier frames, then to all slots of its frame. From
frame t and the actions that follow it, the view at t + 1 is foretold, all of it at once.

Axes: N sequences (an agent's each), L frames, R × C cells of a view, P = R·C, S status cells, A agents, X = P + S + A
slots of a frame, D width, d width of one head, V tokens, U actions.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from learner.peers.frames import Frames
from world.model.blocks import GlobalBlock, RMSNorm, rotation, turned
from world.model.tokens import TokenHead, TokenTable

_REACH = 3
"""Side of the neighbourhood whose tokens may be pointed to: an agent that moves by one scrolls its view by one."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SpatioTemporalConfig:
    """Size; by default about the parameters and the width of `tiny`'s dynamics."""

    num_frames: int = 8
    """L: frames that it is told of."""
    width: int = 128
    hidden: int = 896
    """Width inside the gated MLPs."""
    num_heads: int = 4
    num_key_heads: int = 2
    num_blocks: int = 4
    token_width: int = 64
    """Width in which tokens are embedded and told apart."""


class TemporalAttention(nn.Module):
    """Causal attention of every slot to itself in earlier frames; pre-norm, residual, rotary in time."""

    def __init__(self, config: SpatioTemporalConfig) -> None:
        super().__init__()
        self.num_heads, self.num_key_heads = config.num_heads, config.num_key_heads
        self.head_width = config.width // config.num_heads
        self.norm = RMSNorm(config.width)
        self.query = nn.Linear(config.width, config.width, bias=False)
        self.key_value = nn.Linear(config.width, 2 * config.num_key_heads * self.head_width, bias=False)
        self.out = nn.Linear(config.width, config.width, bias=False)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, hidden: Tensor) -> Tensor:
        """Return slots (N, L, X, D); `hidden` (N, L, L) frames that each frame may not look at."""
        frames = x.shape[1]
        normed = self.norm(x)
        time = torch.stack([torch.arange(frames, device=x.device)] * 2, dim=-1)[None]
        cos, sin = (part.to(normed.dtype) for part in rotation(time, self.head_width))
        query = turned(self._heads(self.query(normed), self.num_heads), cos, sin)
        key, value = (self._heads(part, self.num_key_heads) for part in self.key_value(normed).chunk(2, dim=-1))
        key, groups = turned(key, cos, sin), self.num_heads // self.num_key_heads
        key, value = (part.repeat_interleave(groups, dim=2) for part in (key, value))
        mask = torch.zeros(hidden.shape, dtype=query.dtype, device=x.device).masked_fill(hidden, float("-inf"))
        scores = query @ key.transpose(-1, -2) * self.head_width**-0.5 + mask[:, None, None]
        attended = torch.softmax(scores, dim=-1).to(value.dtype) @ value
        return x + self.out(attended.permute(0, 3, 1, 2, 4).flatten(3))  # type: ignore[no-any-return]

    def _heads(self, x: Tensor, num_heads: int) -> Tensor:
        """Return (N, X, heads, L, d) from (N, L, X, heads·d)."""
        return x.reshape(*x.shape[:-1], num_heads, self.head_width).permute(0, 2, 3, 1, 4).contiguous()


class SpatioTemporal(nn.Module):
    """Views and actions in; beliefs of the next view out."""

    def __init__(
        self,
        config: SpatioTemporalConfig,
        *,
        vocab_size: int,
        num_tokens: int | None = None,
        num_actions: int,
        num_events: int,
        num_agents: int,
        view: tuple[int, int],
        status_cells: int,
    ) -> None:
        super().__init__()
        width, (rows, cols) = config.width, view
        self.config, self.view = config, view
        self.table = TokenTable(vocab_size, config.token_width, num_tokens)
        self.read = nn.Linear(config.token_width, width)
        self.place = nn.Parameter(torch.randn(rows * cols + status_cells, width) * 0.02)
        self.action = nn.Embedding(num_actions, width)
        self.agent = nn.Embedding(num_agents, width)
        self.own_action = nn.Embedding(num_actions, width)
        self.own = nn.Parameter(torch.randn(width) * 0.02)
        self.turn = nn.Linear(1, width)
        self.event = nn.Embedding(num_events + 1, width, padding_idx=0)
        nn.init.normal_(self.action.weight, std=0.3)
        nn.init.normal_(self.own_action.weight, std=0.3)
        nn.init.normal_(self.agent.weight, std=0.3)
        self.in_time = nn.ModuleList(TemporalAttention(config) for _ in range(config.num_blocks))
        self.in_space = nn.ModuleList(
            GlobalBlock(width, config.hidden, num_heads=config.num_heads, num_key_heads=config.num_key_heads)
            for _ in range(config.num_blocks)
        )
        self.cell_head = TokenHead(self.table, width, num_candidates=_REACH**2, newest=_REACH**2 // 2)
        self.status_head = TokenHead(self.table, width, num_candidates=1)

    def forward(self, frames: Frames) -> Tensor:
        """Return features (N, L, P + S, D) of what follows each frame; later frames are never looked at."""
        x = self._embedded(frames)
        num, length, slots, _ = x.shape
        time = torch.arange(length, device=x.device)
        hidden = (time[None] > time[:, None]) | (frames.episode[:, :, None] != frames.episode[:, None])
        rows, cols = self.view
        cells = torch.cartesian_prod(torch.arange(rows, device=x.device), torch.arange(cols, device=x.device))
        # What is nowhere stands in the middle, as the agent itself does.
        middle = cells.new_tensor([rows // 2, cols // 2]).expand(slots - rows * cols, -1)
        place = torch.cat([cells, middle]).expand(num * length, -1, -1)
        for in_time, in_space in zip(self.in_time, self.in_space, strict=True):
            x = in_time(x, hidden).flatten(0, 1)
            x = in_space(x, x[:, :0], place, place[:, :0]).unflatten(0, (num, length))
        return x[:, :, : len(self.place)]

    def logits(self, features: Tensor, cells: Tensor, status: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits of the next cells (N, L, P, V) and status (N, L, S, V) of features (N, L, P + S, D).

        Frames of cells (N, L, R, C) and status (N, L, S) are those that are followed: they may be pointed to.
        """
        num_cells = self.view[0] * self.view[1]
        return (
            self.cell_head(features[:, :, :num_cells], _neighbourhoods(cells)),
            self.status_head(features[:, :, num_cells:], status[..., None]),
        )

    def num_parameters(self) -> int:
        """Parameters of all parts."""
        return sum(parameter.numel() for parameter in self.parameters())

    def _embedded(self, frames: Frames) -> Tensor:
        """Return the slots (N, L, X, D): cells, status, agents."""
        num, length = frames.actions.shape[:2]
        tokens = torch.cat([frames.cells.flatten(2), frames.status], dim=2)
        seen = F.embedding(tokens, self.read(self.table.weight).float()) + self.place
        mine = frames.own[:, None, None].expand(-1, length, 1)
        # One's own action moves the whole view, so every slot is told of it.
        seen = seen + self.own_action(frames.actions.gather(2, mine))
        seen = seen + F.pad(self.event(frames.events).flatten(2, 3), (0, 0, 0, frames.status.shape[2]))
        who = torch.arange(frames.actions.shape[2], device=tokens.device)
        acting = self.action(frames.actions) + self.agent(who) + self.turn(frames.turns[..., None])
        acting = acting + (who == mine)[..., None] * self.own
        return torch.cat([seen, acting.to(seen.dtype)], dim=2).view(num, length, -1, seen.shape[-1])


def _neighbourhoods(cells: Tensor) -> Tensor:
    """Return the tokens (N, L, P, 9) around and at each cell of views (N, L, R, C); UNSEEN beyond the edge."""
    padded = F.pad(cells, [_REACH // 2] * 4)
    return padded.unfold(2, _REACH, 1).unfold(3, _REACH, 1).flatten(2, 3).flatten(-2)
