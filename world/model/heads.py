"""Heads over an agent's slot: reward, continuation.

Axes: … any leading axes, D width, Z bins.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world.model.blocks import RMSNorm


def symlog(x: Tensor) -> Tensor:
    """Compress by sign(x)·log(1 + |x|) (Hafner et al. 2023, arXiv 2301.04104, eq. 9)."""
    return torch.sign(x) * torch.log1p(torch.abs(x))


def symexp(x: Tensor) -> Tensor:
    """Invert `symlog`."""
    return torch.sign(x) * torch.expm1(torch.abs(x))


class TwoHotHead(nn.Module):
    """A distribution over exponentially spaced bins, trained on two-hot targets (arXiv 2301.04104, eq. 9–10)."""

    bins: Tensor

    def __init__(self, width: int, num_bins: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.logits = nn.Linear(width, num_bins)
        # The bias too: a random one over bins that reach to ±22,025 makes an untrained head expect anything.
        nn.init.zeros_(self.logits.weight)
        nn.init.zeros_(self.logits.bias)
        # Mirrored, because the middle of torch.linspace(-10, 10) is off zero by its rounding.
        positive = torch.linspace(0.0, 10.0, num_bins // 2 + 1)
        self.register_buffer("bins", torch.cat([-positive.flip(0), positive[1:]]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (…, Z) of slots (…, D)."""
        return self.logits(self.norm(x))  # type: ignore[no-any-return]

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Return the cross-entropy (…) of logits (…, Z) against values (…)."""
        return -(self.two_hot(target) * F.log_softmax(logits.float(), dim=-1)).sum(-1)

    def mean(self, logits: Tensor) -> Tensor:
        """Return the expected value (…) of logits (…, Z); summed from both ends, so that symmetry gives exactly 0."""
        weighted = F.softmax(logits.float(), dim=-1) * symexp(self.bins)
        return (weighted + weighted.flip(-1)).sum(-1) / 2

    def two_hot(self, value: Tensor) -> Tensor:
        """Return weights (…, Z) on the two bins next to symlog(value), in proportion to nearness."""
        position = symlog(value.float()).clamp(self.bins[0], self.bins[-1])
        upper = torch.searchsorted(self.bins, position.contiguous()).clamp(1, len(self.bins) - 1)
        low, high = self.bins[upper - 1], self.bins[upper]
        share = (position - low) / (high - low)
        weights = torch.zeros(*value.shape, len(self.bins), device=value.device)
        weights.scatter_(-1, (upper - 1)[..., None], (1 - share)[..., None])
        return weights.scatter_add_(-1, upper[..., None], share[..., None])


class RewardHead(TwoHotHead):
    """p(r | z, a)."""


class ContinuationHead(nn.Module):
    """p(γ | z, a): whether the agent's story goes on. Truncation is not an end."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = RMSNorm(width)
        self.logit = nn.Linear(width, 1)
        nn.init.zeros_(self.logit.weight)

    def forward(self, x: Tensor) -> Tensor:
        """Return logits (…) of slots (…, D); positive: it goes on."""
        return self.logit(self.norm(x))[..., 0]  # type: ignore[no-any-return]

    def loss(self, logits: Tensor, terminated: Tensor) -> Tensor:
        """Return the binary cross-entropy (…) against `terminated` (…)."""
        return F.binary_cross_entropy_with_logits(logits.float(), 1.0 - terminated.float(), reduction="none")
