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

from world.model.blocks import GatedMLP, GlobalBlock, LocalBlock, RMSNorm, rotation
from world.model.tokens import CellEmbedding, TokenHead
from world.model.world_model import WorldModel

Precision = Literal["auto", "float32", "bfloat16"]
_EPSILON = torch.finfo(torch.float32).eps
_SAFE_SCORE = 64.0
"""exp(64) times any number of slots is far from the largest bfloat16, and exp(-64) from the smallest."""
_HINT = 1 << 13
"""Rows that packed matrices are laid out for: about as many cells as 64 windows have. Any other number is right too."""


def dtype_of(precision: Precision, device: torch.device) -> torch.dtype:
    """Return what to compute in; `auto` is bfloat16 on a GPU, and on a CPU that has instructions for it."""
    if precision == "float32":
        return torch.float32
    able = torch.cpu.get_capabilities() if device.type == "cpu" else {}
    native = device.type != "cpu" or able.get("avx512_bf16", False) or able.get("amx_bf16", False)
    return torch.bfloat16 if precision == "bfloat16" or native else torch.float32


def frozen(model: WorldModel, dtype: torch.dtype, num_tokens: int, *, packed: bool = True) -> WorldModel:
    """Return a copy of the model that answers alike, within rounding, and knows of the first `num_tokens` alone.

    With `packed`, and on a CPU that oneDNN is built for, its blocks are oneDNN's calls, which no compiler reads.
    """
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    dynamics = ready.dynamics
    dynamics.cell_embedding = _SummedEmbedding(dynamics.cell_embedding, dtype)
    for head in ("cell_head", "status_head"):
        setattr(dynamics, head, _ShortHead(getattr(dynamics, head), num_tokens))
    if packed and model.device.type == "cpu" and torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        _pack(ready, dtype)
    # What is read as numbers, and not as features, stays as it was.
    for part in (dynamics, ready.policy):
        part.to(dtype)
    return ready


def refresh(ready: WorldModel, newer: WorldModel) -> None:
    """Move newer weights into `ready`, which was frozen without packing: what was compiled holds on to its tensors."""
    with torch.no_grad():
        for mine, its in zip(_tensors(ready), _tensors(newer), strict=True):
            mine.copy_(its)


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
    ways: Tensor

    def __init__(self, head: TokenHead, num_tokens: int) -> None:
        nn.Module.__init__(self)
        self.norm, self.project, self.point, self.way = head.norm, head.project, head.point, head.way
        self.newest = head.newest
        self.register_buffer("answers", head.table.weight[:num_tokens].detach().clone())
        self.register_buffer("bias", head.bias[:num_tokens].detach().clone())
        self.register_buffer("ways", head._ways.detach().clone())

    @property
    def _answers(self) -> Tensor:
        return self.answers

    @property
    def _ways(self) -> Tensor:
        return self.ways


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
        return self.back.plus(self._hidden(flat), flat).view_as(x)

    def change(self, x: Tensor) -> Tensor:
        return self.back(self._hidden(x.flatten(0, -2))).view_as(x)  # type: ignore[no-any-return]

    def _hidden(self, flat: Tensor) -> Tensor:
        normed = _scaled(flat)
        return self.value.times(normed, self.gate.silu(normed))


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
    """`GlobalBlock` with one product for keys and values, and heads that share keys side by side. Queries are apart: an
    `AgentBlock` asks with one slot of more than a hundred.

    Columns are in another order: the halves that turn into each other stand apart, for all heads together, so that
    turning runs over long rows.
    """

    def __init__(self, block: GlobalBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.num_key_heads, self.head_width = block.num_heads, block.num_key_heads, block.head_width
        key, value = block.key_value.weight.detach().chunk(2)
        # The scale of attention enters the queries' weights.
        query = self._halved(block.query.weight.detach() * self.head_width**-0.5)
        self.ask = _Packed(_with_gain(query, block.norm), dtype)
        self.answer = _Packed(_with_gain(torch.cat([self._halved(key), value]), block.norm), dtype)
        self.back = _Packed(block.out.weight, dtype)
        self.mlp = _PackedMLP(block.mlp, dtype)

    def forward(self, x: Tensor, others: Tensor, place: Tensor, others_place: Tensor) -> Tensor:
        num, queries, width = x.shape
        slots = torch.cat([x, others], dim=1)
        keys, groups = self.num_key_heads, self.num_heads // self.num_key_heads
        normed = _scaled(slots.flatten(0, 1))
        cos, sin = (part.to(x.dtype) for part in rotation(torch.cat([place, others_place], dim=1), self.head_width))
        asked = self.ask(normed.view(num, -1, width)[:, :queries].flatten(0, 1)).view(num, queries, -1)
        query = self._turned(asked, cos[:, :queries], sin[:, :queries])
        answers = self.answer(normed).view(num, slots.shape[1], -1)
        key, value = answers.split(keys * self.head_width, dim=-1)
        key = self._turned(key, cos, sin).transpose(1, 2)
        query = query.view(num, queries, keys, groups, -1).permute(0, 2, 3, 1, 4)
        value = value.view(num, -1, keys, self.head_width).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            attended = _attended(query.flatten(2, 3), key, value)
        attended = attended.view(num, keys, groups, queries, -1).permute(0, 3, 1, 2, 4)
        told = self.back.plus(attended.reshape(-1, width), x.flatten(0, 1))
        return self.mlp(told.view_as(x))  # type: ignore[no-any-return]

    def _halved(self, weight: Tensor) -> Tensor:
        """Return the rows of heads with all first halves before all second ones."""
        return weight.view(-1, 2, self.head_width // 2, weight.shape[-1]).transpose(0, 1).reshape(weight.shape)

    def _turned(self, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Return heads (N, S, heads, d) of halved columns (N, S, heads·d), turned by (N, S, d / 2)."""
        heads = x.shape[-1] // self.head_width
        even, odd = x.chunk(2, dim=-1)
        cos, sin = cos.repeat(1, 1, heads), sin.repeat(1, 1, heads)
        turned = (torch.addcmul(even * cos, odd, sin, value=-1), torch.addcmul(even * sin, odd, cos))
        return torch.cat([half.view(*x.shape[:2], heads, -1) for half in turned], dim=-1)


def _attended(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
    """Return attention (…, Q, d) of scaled queries (…, Q, d) over keys and values (…, S, d).

    Where no product can be large, exponentials need no maximum taken off, which is half of what a softmax costs.
    """
    scores = query @ key.transpose(-1, -2)
    largest = torch.linalg.vector_norm(query, dim=-1).amax() * torch.linalg.vector_norm(key, dim=-1).amax()
    if float(largest) > _SAFE_SCORE:
        return torch.softmax(scores, dim=-1) @ value
    weights = scores.exp_()
    sums = weights.sum(dim=-1, keepdim=True, dtype=torch.float32)
    return (weights @ value) / sums.to(value.dtype)
