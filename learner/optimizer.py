"""The optimizer: Muon for the matrices of blocks, AdamW for all else, at one learning rate.

Muon gives every direction of a matrix the same length of step (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); scaled as in Liu et al. 2025 (arXiv 2502.16982, section 2.2), its steps are
as large as AdamW's. Tables, heads, biases and kernels are no maps between features, and are AdamW's.
"""

from collections.abc import Mapping
from typing import Final

import torch
from torch import Tensor, nn

from world.model.blocks import GatedMLP, GlobalBlock

BLOCKS: Final[tuple[type[nn.Module], ...]] = (GatedMLP, GlobalBlock)


class Optimizer:
    """Both, as one."""

    def __init__(
        self,
        model: nn.Module,
        *,
        learning_rate: float,
        weight_decay: float,
        blocks: tuple[type[nn.Module], ...] = BLOCKS,
    ) -> None:
        """The linear maps within blocks of these kinds are Muon's; of no kind, AdamW has everything."""
        matrices = _matrices(model, blocks)
        of_muon = {id(parameter) for parameter in matrices}
        named = [(name, p) for name, p in model.named_parameters() if id(p) not in of_muon]
        self._peak = learning_rate
        self._parts: dict[str, torch.optim.Optimizer] = {
            "others": torch.optim.AdamW(
                [
                    # Matrices decay; gains, biases and tables do not.
                    {"params": [p for n, p in named if _decays(n, p)], "weight_decay": weight_decay},
                    {"params": [p for n, p in named if not _decays(n, p)], "weight_decay": 0.0},
                ],
                lr=learning_rate,
                betas=(0.9, 0.99),
                eps=1e-8,
                fused=True,
            )
        }
        if matrices:
            self._parts["matrices"] = torch.optim.Muon(
                matrices, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"
            )

    def forget_gradients(self) -> None:
        """Begin a step."""
        for part in self._parts.values():
            part.zero_grad(set_to_none=True)

    def step(self, share: float) -> None:
        """Improve the parameters by their gradients, at this share of the peak learning rate."""
        for part in self._parts.values():
            for group in part.param_groups:
                group["lr"] = self._peak * share
            part.step()

    def state_dict(self) -> dict[str, object]:
        """Return what a checkpoint keeps: moments, by part."""
        return {name: part.state_dict()["state"] for name, part in self._parts.items()}

    def load_state_dict(self, state: Mapping[str, object]) -> None:
        """Go on from a checkpoint. Raises `KeyError` or `ValueError` if it is of another model."""
        for name, part in self._parts.items():
            part.load_state_dict({**part.state_dict(), "state": state[name]})


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.dim() >= 2 and "table" not in name


def _matrices(model: nn.Module, blocks: tuple[type[nn.Module], ...]) -> list[Tensor]:
    """Return the linear maps within blocks of these kinds, each once."""
    found: dict[int, Tensor] = {}
    for block in model.modules():
        if isinstance(block, blocks):
            found |= {id(part.weight): part.weight for part in block.modules() if isinstance(part, nn.Linear)}
    return list(found.values())
