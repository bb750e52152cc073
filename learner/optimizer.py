"""The optimizer: Muon for the matrices of blocks, AdamW for all else, at one learning rate.

Muon gives every direction of a matrix the same length of step (Jordan et al. 2024,
https://kellerjordan.github.io/posts/muon/); scaled as in Liu et al. 2025 (arXiv 2502.16982, section 2.2), its steps are
as large as AdamW's. Tables, heads, biases and kernels are no maps between features, and are AdamW's.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from world.model.blocks import GatedMLP, GlobalBlock


class Optimizer:
    """Both, as one."""

    def __init__(self, model: nn.Module, *, learning_rate: float, weight_decay: float, muon: bool) -> None:
        """With `muon` off, AdamW has everything."""
        matrices = _matrices(model) if muon else []
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


def _matrices(model: nn.Module) -> list[Tensor]:
    """Return the matrices by which blocks map features to features."""
    found: list[Tensor] = []
    for block in model.modules():
        if isinstance(block, GatedMLP):
            found += [block.up.weight, block.down.weight]
        elif isinstance(block, GlobalBlock):
            found += [block.query.weight, block.key_value.weight, block.out.weight]
    return found
