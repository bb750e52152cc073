"""Recurrent memory h' = f(h, z, a): a selective state of constant size, one for each agent.

Axes: … any leading axes, L ticks, D components, E width of the input.

It holds what the field cannot: where an agent was heading, what it has just tried. It goes stale under new weights,
so whatever must survive belongs in the field. Kept in float16 between ticks, because it is committed with each.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from world.model.blocks import RMSNorm


class RecurrentMemory(nn.Module):
    """Diagonal state-space recurrence with input-dependent step (Gu and Dao 2023, arXiv 2312.00752, section 3.2)."""

    def __init__(self, size: int, input_width: int) -> None:
        super().__init__()
        self.size = size
        self.norm = RMSNorm(input_width)
        self.step_and_input = nn.Linear(input_width, 2 * size)
        # Time constants from one tick to some hundred, so that some component is right at the start.
        self.log_rate = nn.Parameter(-torch.linspace(0.0, 5.0, size))

    def forward(self, memory: Tensor, evidence: Tensor) -> Tensor:
        """Return the memory (…, D) after evidence (…, E)."""
        decay, entry = self._coefficients(evidence)
        return decay * memory + entry

    def scan(self, memory: Tensor, evidence: Tensor, is_first: Tensor) -> Tensor:
        """Return the memory before each tick (…, L, D), from the first (…, D), evidence (…, L, E), is_first (…, L).

        Where an episode begins, memory is zero. Equal to calling `forward` tick by tick, in a number of passes that
        grows with the logarithm of L (Hillis and Steele 1986, doi 10.1145/7902.7903).
        """
        decay, entry = self._coefficients(evidence)
        # Tick t maps memory h to decay·h + entry; shifted by one, so that it stands before its tick.
        decay = torch.cat([torch.ones_like(decay[..., :1, :]), decay[..., :-1, :]], dim=-2)
        entry = torch.cat([memory[..., None, :], entry[..., :-1, :]], dim=-2)
        going_on = (~is_first)[..., None]
        decay, entry = decay * going_on, entry * going_on
        reach = 1
        while reach < decay.shape[-2]:
            earlier_decay = F.pad(decay[..., :-reach, :], (0, 0, reach, 0), value=1.0)
            earlier_entry = F.pad(entry[..., :-reach, :], (0, 0, reach, 0))
            decay, entry = decay * earlier_decay, entry + decay * earlier_entry
            reach *= 2
        return entry

    def _coefficients(self, evidence: Tensor) -> tuple[Tensor, Tensor]:
        step, entry = self.step_and_input(self.norm(evidence)).float().chunk(2, dim=-1)
        decay = torch.exp(-F.softplus(step) * self.log_rate.exp())
        return decay, (1 - decay) * torch.tanh(entry)
