"""The kinds of mixing: local over neighbouring cells, global over all slots, and of agents over all slots.

Axes: N windows, H × W cells of a window, P = H·W, Q query slots, S key slots, D width, d width of one head.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world.model.norm import rms_norm


class RMSNorm(nn.Module):
    """Root-mean-square norm (Zhang and Sennrich 2019, arXiv 1910.07467) in the precision of what it is given."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Return x (…, D) at unit scale."""
        return rms_norm(x, self.weight)


class GatedMLP(nn.Module):
    """SwiGLU (Shazeer 2020, arXiv 2002.05202), pre-norm, residual."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.up = nn.Linear(width, 2 * hidden, bias=False)
        self.down = nn.Linear(hidden, width, bias=False)
        nn.init.zeros_(self.down.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return x (…, D) plus its transformed self."""
        return x + self.change(x)

    def change(self, x: Tensor) -> Tensor:
        """Return the transformed x (…, D) alone."""
        gate, value = self.up(self.norm(x)).chunk(2, dim=-1)
        return self.down(F.silu(gate) * value)  # type: ignore[no-any-return]


class LocalBlock(nn.Module):
    """Depthwise 3×3 mixing of neighbouring cells, then a gated MLP on each.

    A change in a tile world depends on the cells next to it: at equal time this reached more than twice the
    changed-token F1 of attention alone.
    """

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.mix = nn.Conv2d(width, width, 3, padding=1, groups=width)
        self.mlp = GatedMLP(width, hidden)

    def forward(self, x: Tensor) -> Tensor:
        """Return cells (N, H, W, D), each mixed with its eight neighbours and transformed."""
        return self.mlp(self.mixed(x))  # type: ignore[no-any-return]

    def mixed(self, x: Tensor) -> Tensor:
        """Return the cells after mixing alone; `mlp`, which looks at one cell at a time, is still to come."""
        return x + self.mix(self.norm(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


def rotation(places: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Return cosines and sines (N, S, d / 2) by which slots at places (N, S, 2) turn: half by row, half by column."""
    quarter = head_width // 4
    frequency = 100.0 ** (-torch.arange(quarter, device=places.device, dtype=torch.float32) / quarter)
    angle = (places.float()[..., None] * frequency).flatten(-2)
    return angle.cos(), angle.sin()


def turned(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turn heads x (…, d) by cosines and sines (…, d / 2).

    Rotary embedding (Su et al. 2021, arXiv 2104.09864), once for each axis.
    """
    even, odd = x.chunk(2, dim=-1)
    return torch.cat([even * cos - odd * sin, even * sin + odd * cos], dim=-1)


def attend(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention (N, heads, Q, d) of queries (N, heads, Q, d) over keys and values (N, heads, S, d).

    On a CPU two batched products: for some hundred slots, forward and backward in bfloat16 on one core took 36 ms
    where torch's fused kernel took 130.
    """
    if query.device.type != "cpu":
        return F.scaled_dot_product_attention(query, key, value)
    weights = torch.softmax(query @ key.transpose(-1, -2) * query.shape[-1] ** -0.5, dim=-1)
    return weights.to(value.dtype) @ value


class GlobalBlock(nn.Module):
    """Attention of query slots over key slots with grouped keys, then a gated MLP; pre-norm, residual."""

    def __init__(self, width: int, hidden: int, *, num_heads: int, num_key_heads: int) -> None:
        super().__init__()
        self.num_heads, self.num_key_heads = num_heads, num_key_heads
        self.head_width = width // num_heads
        self.norm = RMSNorm(width)
        self.query = nn.Linear(width, num_heads * self.head_width, bias=False)
        self.key_value = nn.Linear(width, 2 * num_key_heads * self.head_width, bias=False)
        self.out = nn.Linear(num_heads * self.head_width, width, bias=False)
        self.mlp = GatedMLP(width, hidden)
        nn.init.zeros_(self.out.weight)

    def forward(self, x: Tensor, others: Tensor, place: Tensor, others_place: Tensor) -> Tensor:
        """Return slots x (N, Q, D) after attending to themselves and `others` (N, S, D).

        Places (N, Q, 2) and (N, S, 2) are rows and columns relative to the window.
        """
        queries = x.shape[1]
        normed = self.norm(torch.cat([x, others], dim=1))
        cos, sin = (part[:, None] for part in rotation(torch.cat([place, others_place], dim=1), self.head_width))
        query = self.query(normed[:, :queries]).unflatten(-1, (self.num_heads, self.head_width)).transpose(1, 2)
        key, value = (
            part.unflatten(-1, (self.num_key_heads, self.head_width)).transpose(1, 2)
            for part in self.key_value(normed).chunk(2, dim=-1)
        )
        cos, sin = cos.to(query.dtype), sin.to(query.dtype)
        query, key = turned(query, cos[:, :, :queries], sin[:, :, :queries]), turned(key, cos, sin)
        groups = self.num_heads // self.num_key_heads
        key, value = (part.repeat_interleave(groups, dim=1) for part in (key, value))
        attended = attend(query, key, value.to(query.dtype))
        return self.mlp(x + self.out(attended.transpose(1, 2).flatten(2)))  # type: ignore[no-any-return]


class CellAttention(nn.Module):
    """`GlobalBlock` in the place of a `LocalBlock`: every cell of a window attends to every other."""

    def __init__(self, block: GlobalBlock) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        """Return cells (N, H, W, D)."""
        num, height, width, _ = x.shape
        rows, cols = torch.arange(height, device=x.device), torch.arange(width, device=x.device)
        place = torch.cartesian_prod(rows, cols).expand(num, -1, -1)
        mixed: Tensor = self.block(x.flatten(1, 2), x[:, 0, :0], place, place[:, :0])
        return mixed.view_as(x)


class AgentBlock(nn.Module):
    """Attention of the agents alone, over all there is; the cells of a window hear of it through its agent.

    All cells would ask the same few things of what is far away, at nine times the multiplications.
    """

    def __init__(self, block: GlobalBlock, width: int) -> None:
        super().__init__()
        self.block = block
        self.norm = RMSNorm(width)
        self.tell = nn.Linear(width, width)
        nn.init.zeros_(self.tell.weight)
        nn.init.zeros_(self.tell.bias)

    def forward(
        self, cells: Tensor, own: Tensor, others: Tensor, place: Tensor, others_place: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return cells (N, H, W, D) and agents (N, 1, D), who attend to the cells and to others (N, S, D).

        Places (N, H·W + 1, 2), of the cells and the agent, and (N, S, 2) are rows and columns relative to the window.
        """
        read = torch.cat([cells.flatten(1, 2), others.to(cells.dtype)], dim=1)
        own = self.block(own, read, place[:, -1:], torch.cat([place[:, :-1], others_place], dim=1))
        return self.told(cells, own), own

    def told(self, cells: Tensor, own: Tensor) -> Tensor:
        """Return cells (N, H, W, D) once they have heard of their agents (N, 1, D)."""
        return cells + self.tell(self.norm(own))[:, :, None].to(cells.dtype)  # type: ignore[no-any-return]
