"""The vocabulary: how tokens are read into cells, and how they are named.

Axes: N windows, H × W cells, K tokens a cell remembers, D width, E width of tokens, V tokens.
"""

import torch
from torch import Tensor, nn

from world.field import BROAD_BUCKETS, DEPTH, NUM_AGE_BUCKETS, NUM_BROAD_BUCKETS
from world.model.blocks import RMSNorm

NUM_WAYS = 4
"""In which a token may become another."""
_LOUD = 8.0
"""How far a step of learning moves what a token becomes: a few dozen examples are to do."""
_HEARD = 4.0
"""And what an exact age says."""


class TokenTable(nn.Module):
    """The vocabulary, shared by what is read and what is asked: 0 is UNSEEN, the last is MASK."""

    def __init__(self, vocab_size: int, width: int, num_tokens: int | None = None) -> None:
        """Of the vocabulary the first `num_tokens` stand for something: no other is ever an answer."""
        super().__init__()
        self.vocab_size, self.num_tokens = vocab_size, num_tokens or vocab_size
        self.mask = vocab_size
        self.weight = nn.Parameter(torch.randn(vocab_size + 1, width) * width**-0.5)
        self.becoming = nn.Parameter(torch.zeros(vocab_size, NUM_WAYS, width))
        """What each token becomes, by way."""


class ReadsTable(nn.Module):
    """A part that reads the table, which is not its own: it would be saved and sent once for each that reads it."""

    def __init__(self, table: TokenTable) -> None:
        super().__init__()
        self._read = (table,)

    @property
    def table(self) -> TokenTable:
        """The vocabulary."""
        return self._read[0]


class CellEmbedding(ReadsTable):
    """A cell's slot: its last tokens, their ages, when it was seen, and the token it has next, or MASK.

    Every part has a table of its own, made from the shared one; the sum is a single lookup.

    An age is told by what was added on the way to it, so that what is seldom met, the oldest, is told as what is a
    little younger. That of the newest token is told exactly, too: some things ripen so many ticks after they were
    picked, and at no other.
    """

    broad: Tensor

    def __init__(self, table: TokenTable, width: int) -> None:
        super().__init__(table)
        self.parts = nn.Parameter(torch.randn(DEPTH + 1, table.weight.shape[1], width) * width**-0.5)
        self.never = nn.Parameter(torch.randn(DEPTH + 1, 1, width) * 0.02)
        self.aging = nn.Parameter(torch.randn(DEPTH + 1, NUM_BROAD_BUCKETS - 1, width) * 0.02)
        self.exact_age = nn.Parameter(torch.zeros(NUM_AGE_BUCKETS, width))
        # With the weights: an index that had to be brought to a GPU at every step would keep it out of a CUDA graph.
        self.register_buffer("broad", torch.from_numpy(BROAD_BUCKETS), persistent=False)

    def forward(self, tokens: Tensor, ages: Tensor, given: Tensor) -> Tensor:
        """Return (N, H, W, D) from tokens (N, H, W, K), ages (N, H, W, K + 1) and given next tokens (N, H, W)."""
        index = self.index(tokens, ages, given, len(self.table.weight))
        summed = nn.functional.embedding_bag(index.flatten(0, -2), self.summed(), mode="sum")
        return summed.view(*given.shape, -1)

    def summed(self) -> Tensor:
        """Return the tables of all parts, one below the other: (K + 1)·(V + 1) tokens, then (K + 1) × ages."""
        vocabulary = torch.einsum("ve,ked->kvd", self.table.weight, self.parts).flatten(0, 1)
        ages = torch.cat([self.never, self.aging.cumsum(1)], dim=1)[:, self.broad]
        ages = torch.cat([ages[:1] + _HEARD * self.exact_age, ages[1:]])
        return torch.cat([vocabulary.float(), ages.flatten(0, 1)])

    @staticmethod
    def index(tokens: Tensor, ages: Tensor, given: Tensor, num_tokens: int) -> Tensor:
        """Return the rows (N, H, W, 2K + 2) of `summed` that make a cell; the shared table has `num_tokens`."""
        parts = torch.arange(DEPTH + 1, device=tokens.device)
        age_offsets = parts * NUM_AGE_BUCKETS + (DEPTH + 1) * num_tokens
        return torch.cat([torch.cat([tokens, given[..., None]], -1) + parts * num_tokens, ages + age_offsets], -1)


class TokenHead(ReadsTable):
    """Logits over the vocabulary: by the shared table, plus a pointer to the tokens that the cell remembers.

    The pointer lets a rare token (a landmark, what an agent stood on) be named without having been learned. What an
    agent that comes looks like is added just before the table: so each of its looks is learned from any other. So is
    what each token becomes, in a few ways between which the slot decides: three becomes four, or two; a door is opened.
    Such a map has as many cases as tokens, most of them rare, and each is learned here without bending any other.
    """

    def __init__(self, table: TokenTable, width: int, *, num_candidates: int, newest: int = 0) -> None:
        """Of the candidates, number `newest` is the token that the slot has now."""
        super().__init__(table)
        self.newest = newest
        self.norm = RMSNorm(width)
        self.project = nn.Linear(width, table.weight.shape[1])
        self.point = nn.Linear(width, num_candidates)
        self.way = nn.Linear(width, NUM_WAYS)
        self.bias = nn.Parameter(torch.zeros(table.vocab_size))

    def forward(self, x: Tensor, candidates: Tensor, arrived: Tensor | None = None) -> Tensor:
        """Return float32 logits (…, V) of slots (…, D) with candidate tokens (…, K); UNSEEN is never an answer. V is
        the number of tokens that stand for something.

        `arrived` (…, E): what whoever stands there looks like, as embedded tokens.
        """
        x = self.norm(x)
        ways = self._ways[candidates[..., self.newest]]
        named = self.project(x) + (self.way(x)[..., None] * ways).sum(-2)
        named = named if arrived is None else named + arrived.to(named.dtype)
        known = self.table.num_tokens
        logits = nn.functional.linear(named, self.table.weight[:known].to(named.dtype)).float() + self.bias[:known]
        logits = logits.scatter_add(-1, candidates, self.point(x).float())
        logits[..., 0] = float("-inf")
        return logits

    @property
    def _ways(self) -> Tensor:
        return _LOUD * self.table.becoming
