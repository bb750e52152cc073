"""A world model made ready to answer, and never to learn: the same function, computed with less work.

Axes: N windows, H × W cells of a window, D width, Q query slots, S key slots, V tokens.

What is done once for each set of weights, instead of at every tick: tables are summed, gains of norms enter the
weights that follow them, tokens that stand for nothing get no logits. On a CPU matrices are packed for oneDNN, which
then computes activation, product and residual in the pass that multiplies; where the processor multiplies bfloat16,
parameters and activations are of that type.
"""

import copy
from typing import Literal

import torch
from torch import Tensor, nn

from world.model.blocks import GatedMLP, GlobalBlock, LocalBlock, RMSNorm, rotation, turned
from world.model.dynamics import CellEmbedding, TokenHead
from world.model.world_model import WorldModel

Precision = Literal["auto", "float32", "bfloat16"]
_EPSILON = torch.finfo(torch.float32).eps
_HINT = 1 << 13
"""Rows that packed matrices are laid out for: about as many cells as 64 windows have. Any other number is right too."""


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Return what to compute in; `auto` is bfloat16 on a GPU, and on a CPU that has instructions for it."""
    if precision == "float32":
        return torch.float32
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    native = device.type != "cpu" or able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return torch.bfloat16 if precision == "bfloat16" or native else torch.float32


def frozen(model: WorldModel, dtype: torch.dtype, num_tokens: int) -> WorldModel:
    """Return a copy of the model that answers alike, within rounding; it draws none but the first `num_tokens`."""
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    dynamics = ready.dynamics
    dynamics.cell_embedding = _SummedEmbedding(dynamics.cell_embedding, dtype)
    for head in ("cell_head", "status_head"):
        setattr(dynamics, head, _ShortHead(getattr(dynamics, head), num_tokens))
    if model.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _pack(ready, dtype)
    # What is read as numbers, and not as features, stays as it was.
    for part in (dynamics, ready.policy):
        part.to(dtype)
    return ready


def refresh(ready: WorldModel, model: WorldModel, dtype: torch.dtype, num_tokens: int) -> WorldModel:
    """Return `ready` with the weights of `model`. On a GPU they move in place: what was compiled holds on to them."""
    newer = frozen(model, dtype, num_tokens)
    if model.device.type == "cpu":
        return newer
    with torch.no_grad():
        for mine, its in zip(_tensors(ready), _tensors(newer), strict=True):
            mine.copy_(its)
    return ready


def _tensors(model: WorldModel) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _pack(module: nn.Module, dtype: torch.dtype) -> None:
    for name, child in module.named_children():
        match child:
            case LocalBlock():
                setattr(module, name, _PackedLocal(child, dtype))
            case GlobalBlock():
                setattr(module, name, _PackedGlobal(child, dtype))
            case GatedMLP():
                setattr(module, name, _PackedMLP(child, dtype))
            case _:
                _pack(child, dtype)


class _SummedEmbedding(CellEmbedding):
    """`CellEmbedding` whose tables are put together once."""

    weight: Tensor

    def __init__(self, embedding: CellEmbedding, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_tokens = len(embedding.table.weight)
        self.register_buffer("weight", embedding.summed().detach().to(dtype))

    def forward(self, tokens: Tensor, ages: Tensor, given: Tensor) -> Tensor:
        index = CellEmbedding.index(tokens, ages, given, self.num_tokens)
        summed: Tensor = nn.functional.embedding_bag(index.flatten(0, -2), self.weight, mode="sum")
        return summed.view(*given.shape, -1)


class _ShortHead(TokenHead):
    """`TokenHead` over the first tokens alone."""

    answers: Tensor

    def __init__(self, head: TokenHead, num_tokens: int) -> None:
        nn.Module.__init__(self)
        self.norm, self.project, self.point = head.norm, head.project, head.point
        self.register_buffer("answers", head.table.weight[:num_tokens].detach().clone())
        self.register_buffer("bias", head.bias[:num_tokens].detach().clone())

    @property
    def _answers(self) -> Tensor:
        return self.answers


class _Packed(nn.Module):
    """A matrix (out, in) as oneDNN wants it, with what may be fused into its product."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self._weight = torch.ops.mkldnn._reorder_linear_weight(weight.detach().to(dtype).contiguous(), _HINT)

    def forward(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "none", [], "")  # type: ignore[no-any-return]

    def silu(self, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, self._weight, None, "swish", [], "")  # type: ignore[no-any-return]

    def times(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, None, "mul")  # type: ignore[no-any-return]

    def plus(self, x: Tensor, other: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise.binary(x, other, self._weight, None, "add")  # type: ignore[no-any-return]


def _scaled(x: Tensor) -> Tensor:
    """Return x (…, D) at unit scale: an `RMSNorm` whose gain is in the weights that follow."""
    length = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=torch.float32)
    scale: Tensor = length.square_().div_(x.shape[-1]).add_(_EPSILON).rsqrt_()
    return x * scale.to(x.dtype)


def _with_gain(weight: Tensor, norm: RMSNorm) -> Tensor:
    return weight.detach() * norm.weight.detach()


class _PackedMLP(GatedMLP):
    """`GatedMLP` in three products."""

    def __init__(self, mlp: GatedMLP, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        gate, value = _with_gain(mlp.up.weight, mlp.norm).chunk(2)
        self.gate, self.value, self.back = (_Packed(weight, dtype) for weight in (gate, value, mlp.down.weight))

    def forward(self, x: Tensor) -> Tensor:
        flat = x.flatten(0, -2)
        normed = _scaled(flat)
        hidden = self.value.times(normed, self.gate.silu(normed))
        return self.back.plus(hidden, flat).view_as(x)


class _PackedLocal(LocalBlock):
    """`LocalBlock` with the gain in its kernel."""

    def __init__(self, block: LocalBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.mix = block.mix
        with torch.no_grad():
            self.mix.weight.mul_(block.norm.weight[:, None, None, None])
        self.mlp = _PackedMLP(block.mlp, dtype)

    def mixed(self, x: Tensor) -> Tensor:
        return x + self.mix(_scaled(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)  # type: ignore[no-any-return]


class _PackedGlobal(GlobalBlock):
    """`GlobalBlock` with one product for queries, keys and values, and heads that share keys side by side."""

    def __init__(self, block: GlobalBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.num_key_heads, self.head_width = block.num_heads, block.num_key_heads, block.head_width
        # The scale of attention enters the queries' weights.
        asking = block.query.weight.detach() * self.head_width**-0.5
        self.all = _Packed(_with_gain(torch.cat([asking, block.key_value.weight.detach()]), block.norm), dtype)
        self.back = _Packed(block.out.weight, dtype)
        self.mlp = _PackedMLP(block.mlp, dtype)

    def forward(self, x: Tensor, others: Tensor, place: Tensor, others_place: Tensor) -> Tensor:
        num, queries, width = x.shape
        slots = torch.cat([x, others], dim=1)
        heads, groups = self.num_key_heads, self.num_heads // self.num_key_heads
        parts = self.all(_scaled(slots.flatten(0, 1))).view(num, -1, self.num_heads + 2 * heads, self.head_width)
        cos, sin = rotation(torch.cat([place, others_place], dim=1), self.head_width)
        rotated = turned(parts[:, :, :-heads], cos[:, :, None].to(x.dtype), sin[:, :, None].to(x.dtype))
        query = rotated[:, :queries, : self.num_heads].view(num, queries, heads, groups, -1).permute(0, 2, 3, 1, 4)
        key, value = rotated[:, :, self.num_heads :].transpose(1, 2), parts[:, :, -heads:].transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            chances = torch.softmax(query.flatten(2, 3) @ key.transpose(-1, -2), dim=-1)
            attended = (chances @ value).view(num, heads, groups, queries, -1).permute(0, 3, 1, 2, 4)
        told = self.back.plus(attended.reshape(-1, width), x.flatten(0, 1))
        return self.mlp(told.view_as(x))  # type: ignore[no-any-return]
