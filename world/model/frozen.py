"""A world model made ready to answer, and never to learn: the same function, computed with less work.

Axes: N windows, H × W cells of a window, D width, Q query slots, S key slots, V tokens.

What is done once for each set of weights, instead of at every tick: tables are summed, gains of norms enter the
weights that follow them, tokens that stand for nothing get no logits. On a CPU matrices are packed for oneDNN, which
then computes activation, product and residual in the pass that multiplies; where the processor multiplies bfloat16,
parameters and activations are of that type.
"""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world.field import UNSEEN
from world.model.blocks import AgentBlock, GatedMLP, GlobalBlock, LocalBlock, RMSNorm, rotation
from world.model.norm import inverse_length
from world.model.tokens import CellEmbedding, TokenHead
from world.model.world_model import WorldModel
from world.sampling import BLOCK

_SAFE_SCORE = 64.0
"""exp(64) times any number of slots is far from the largest bfloat16, and exp(-64) from the smallest."""
_HINT = 1 << 13
"""Rows that packed matrices are laid out for: about as many cells as 64 windows have. Any other number is right too."""


def frozen(model: WorldModel, dtype: torch.dtype, num_tokens: int, *, packed: bool = True) -> WorldModel:
    """Return a copy of the model that answers alike, within rounding, and knows of the first `num_tokens` alone.

    With `packed`, and on a CPU for which oneDNN packs such matrices, its blocks are oneDNN's calls, which no compiler
    reads.
    """
    ready = copy.deepcopy(model).eval().requires_grad_(False)
    dynamics = ready.dynamics
    dynamics.cell_embedding = _SummedEmbedding(dynamics.cell_embedding, dtype)
    for head in ("cell_head", "status_head"):
        setattr(dynamics, head, _ShortHead(getattr(dynamics, head), num_tokens))
    if packed and model.device.type == "cpu" and _can_pack(dtype):
        _pack(ready, dtype)
    # What is read as numbers, and not as features, stays as it was.
    for part in (dynamics, ready.reader, ready.policy):
        part.to(dtype)
    return ready


def _can_pack(dtype: torch.dtype) -> bool:
    """Return whether oneDNN packs matrices of this type for this processor: those of bfloat16 not for every one."""
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return False
    return dtype != torch.bfloat16 or bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
            case AgentBlock():
                setattr(module, name, _PackedAgents(child, dtype))
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
        summed: Tensor = F.embedding_bag(index.flatten(0, -2), self.weight, mode="sum")
        return summed.view(*given.shape, -1)


class _ShortHead(TokenHead):
    """`TokenHead` over the first tokens alone, in two products; as many more as make whole blocks are never answered.

    What each token becomes, by way, is one row of a bag, which the slot weighs.
    """

    weight: Tensor
    offset: Tensor
    answers: Tensor
    ways: Tensor

    def __init__(self, head: TokenHead, num_tokens: int) -> None:
        nn.Module.__init__(self)
        parts = (head.project, head.way, head.point)
        self.newest, self.widths = head.newest, [part.out_features for part in parts]
        more = -num_tokens % BLOCK
        table, bias = head.table.weight[:num_tokens].detach(), head.bias[:num_tokens].detach().clone()
        bias[UNSEEN] = float("-inf")
        self.register_buffer("weight", _with_gain(torch.cat([part.weight for part in parts]), head.norm))
        self.register_buffer("offset", torch.cat([part.bias for part in parts]).detach())
        self.register_buffer("answers", F.pad(table, (0, 0, 0, more)))
        self.register_buffer("bias", F.pad(bias, (0, more), value=float("-inf")))
        self.register_buffer("ways", head._ways.detach().flatten(0, 1).clone())

    def forward(self, x: Tensor, candidates: Tensor, arrived: Tensor | None = None) -> Tensor:
        named, way, point = torch.split(F.linear(_scaled(x), self.weight, self.offset), self.widths, dim=-1)
        ways = torch.arange(self.widths[1], device=x.device)
        row = candidates[..., self.newest, None] * self.widths[1] + ways
        weights = way.to(self.ways.dtype).reshape(-1, self.widths[1])
        becoming = F.embedding_bag(row.flatten(0, -2), self.ways, per_sample_weights=weights, mode="sum")
        named = named + becoming.view(named.shape)
        named = named if arrived is None else named + arrived
        logits = F.linear(named, self.answers, self.bias).float()
        return logits.scatter_add_(-1, candidates, point.float())


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
    """Return x (…, D) at unit length: an `RMSNorm` whose `_gain` is in the weights that follow."""
    return x * inverse_length(x)


def _gain(norm: RMSNorm) -> Tensor:
    """Return what a norm makes of a vector (D,) of ones beyond what `_scaled` does."""
    return norm.weight.detach() * float(norm.weight.shape[0] ** 0.5)


def _with_gain(weight: Tensor, norm: RMSNorm) -> Tensor:
    return weight.detach() * _gain(norm)


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
            self.mix.weight.mul_(_gain(block.norm)[:, None, None, None])
        self.mlp = _PackedMLP(block.mlp, dtype)

    def mixed(self, x: Tensor) -> Tensor:
        mixed: Tensor = self.mix(_scaled(x).permute(0, 3, 1, 2)).permute(0, 2, 3, 1)
        return mixed.add_(x)


class _PackedGlobal(GlobalBlock):
    """`GlobalBlock` with one product for keys and values, and heads that share keys side by side. Queries are apart:
    hubs are few, and ask all slots.

    Columns are in another order: the halves that turn into each other stand apart, for all heads together, so that
    turning runs over long rows.
    """

    def __init__(self, block: GlobalBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        self.num_heads, self.num_key_heads, self.head_width = block.num_heads, block.num_key_heads, block.head_width
        key, value = block.key_value.weight.detach().chunk(2)
        # The scale of attention enters the queries' weights.
        query = _halved(block.query.weight.detach() * self.head_width**-0.5, self.head_width)
        self.ask = _Packed(_with_gain(query, block.norm), dtype)
        self.answer = _Packed(_with_gain(torch.cat([_halved(key, self.head_width), value]), block.norm), dtype)
        self.back = _Packed(block.out.weight, dtype)
        self.mlp = _PackedMLP(block.mlp, dtype)

    def forward(self, x: Tensor, others: Tensor, place: Tensor, others_place: Tensor) -> Tensor:
        num, queries, width = x.shape
        slots = torch.cat([x, others], dim=1)
        keys, groups = self.num_key_heads, self.num_heads // self.num_key_heads
        normed = _scaled(slots.flatten(0, 1))
        places = torch.cat([place, others_place], dim=1)
        asked = self.ask(normed.view(num, -1, width)[:, :queries].flatten(0, 1)).view(num, queries, -1)
        query = self._turned(asked, place)
        answers = self.answer(normed).view(num, slots.shape[1], -1)
        key, value = answers.split(keys * self.head_width, dim=-1)
        key = self._turned(key, places).transpose(1, 2)
        query = query.view(num, queries, keys, groups, -1).permute(0, 2, 3, 1, 4)
        value = value.view(num, -1, keys, self.head_width).transpose(1, 2)
        with torch.autocast(x.device.type, enabled=False):
            attended = _attended(query.flatten(2, 3), key, value)
        attended = attended.view(num, keys, groups, queries, -1).permute(0, 3, 1, 2, 4)
        told = self.back.plus(attended.reshape(-1, width), x.flatten(0, 1))
        return self.mlp(told.view_as(x))  # type: ignore[no-any-return]

    def _turned(self, x: Tensor, place: Tensor) -> Tensor:
        """Return heads (N, S, heads, d) of halved columns (N, S, heads·d), turned by places (N, S, 2)."""
        heads = x.shape[-1] // self.head_width
        halves = _turned(x, place, self.head_width)
        return torch.cat([half.view(*x.shape[:2], heads, -1) for half in halves], dim=-1)


class _PackedAgents(AgentBlock):
    """`AgentBlock` for one slot that asks of more than a hundred.

    Shares and scores are scaled instead of cells, and what is read is averaged before it is mapped: by one matrix for
    each head, which is that of its values and of its output at once.
    """

    def __init__(self, agents: AgentBlock, dtype: torch.dtype) -> None:
        nn.Module.__init__(self)
        block = agents.block
        self.num_heads, self.num_key_heads, self.head_width = block.num_heads, block.num_key_heads, block.head_width
        key, value = _with_gain(block.key_value.weight, block.norm).chunk(2)
        self.ask = _Packed(_with_gain(block.query.weight * self.head_width**-0.5, block.norm), dtype)
        self.offer = _Packed(_halved(key, self.head_width), dtype)
        values = value.view(self.num_key_heads, self.head_width, -1).repeat_interleave(self._groups, dim=0)
        outs = block.out.weight.detach().view(-1, self.num_heads, self.head_width).transpose(0, 1)
        self.back = _Packed(torch.cat(list(outs @ values), dim=1), dtype)
        self.mlp = _PackedMLP(block.mlp, dtype)
        self.norm, self.tell = agents.norm, agents.tell

    @property
    def _groups(self) -> int:
        return self.num_heads // self.num_key_heads

    def forward(
        self, cells: Tensor, own: Tensor, others: Tensor, place: Tensor, others_place: Tensor
    ) -> tuple[Tensor, Tensor]:
        flat, few = cells.flatten(1, 2), _scaled(torch.cat([own, others], dim=1))
        scale = inverse_length(flat)
        asked = self._apart(self.ask(few[:, 0]))
        # Cells lie alike about every agent, which stands where nothing turns.
        scores = self._scores(flat, asked, place[:1, :-1]) * scale
        few_scores = self._scores(few, asked, torch.cat([place[:, -1:], others_place], dim=1))
        shares = torch.softmax(torch.cat([scores, few_scores], dim=1).float(), dim=1).to(flat.dtype)
        of_cells, of_few = shares.tensor_split((flat.shape[1],), dim=1)
        read = (of_cells * scale).transpose(1, 2) @ flat + of_few.transpose(1, 2) @ few
        own = self.mlp(self.back.plus(read.flatten(1), own[:, 0]))[:, None]
        return self.told(cells, own), own

    def _apart(self, asked: Tensor) -> Tensor:
        """Return what heads ask (N, heads·d) as (N, 2, key heads·d / 2, heads): each of the keys that are its own."""
        halves = asked.view(len(asked), self.num_heads, 2, -1).permute(0, 2, 3, 1)
        keys = torch.arange(self.num_key_heads, device=asked.device)
        is_own = keys[:, None] == torch.arange(self.num_heads, device=asked.device) // self._groups
        return (halves[:, :, None] * is_own[:, None]).flatten(2, 3)

    def _scores(self, slots: Tensor, asked: Tensor, place: Tensor) -> Tensor:
        """Return what heads find (N, S, heads) in slots (N, S, D) at places (N or 1, S, 2)."""
        offered = self.offer(slots.flatten(0, 1)).view(*slots.shape[:2], -1)
        even, odd = _turned(offered, place, self.head_width)
        scores: Tensor = even @ asked[:, 0] + odd @ asked[:, 1]
        return scores


def _halved(weight: Tensor, head_width: int) -> Tensor:
    """Return rows (heads·d, D) with all first halves before all second ones."""
    return weight.view(-1, 2, head_width // 2, weight.shape[-1]).transpose(0, 1).reshape(weight.shape)


def _turned(x: Tensor, place: Tensor, head_width: int) -> tuple[Tensor, Tensor]:
    """Return the halves (N, S, heads·d / 2) of halved columns x (N, S, heads·d), turned by places (N or 1, S, 2)."""
    cos, sin = (part.to(x.dtype).repeat(1, 1, x.shape[-1] // head_width) for part in rotation(place, head_width))
    even, odd = x.chunk(2, dim=-1)
    return torch.addcmul(even * cos, odd, sin, value=-1), torch.addcmul(even * sin, odd, cos)


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
