"""The optimizer: Muon for the matrices of blocks, AdamW for all else, at one learning rate.

Tables, heads, biases and kernels are no maps between features, and are AdamW's.
"""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import torch
from torch import Tensor, nn

from world.model.blocks import GatedMLP, GlobalBlock
from world.model.precision import dtype_of

BLOCKS: Final[tuple[type[nn.Module], ...]] = (GatedMLP, GlobalBlock)
_MAPS: Final[tuple[type[nn.Module], ...]] = (nn.Linear, nn.Conv2d)

_MOMENTUM = 0.95
_ITERATION = (3.4445, -4.7750, 2.0315)
_NUM_ITERATIONS = 5


class Muon(torch.optim.Optimizer):
    """Gives every direction of a matrix the same length of step (Jordan et al. 2024,
    https://kellerjordan.github.io/posts/muon/), scaled as in Liu et al. 2025 (arXiv 2502.16982, section 2.2), so that
    its steps are as large as AdamW's.

    `torch.optim.Muon` does the same one matrix after another, and always in bfloat16, which many a CPU has to emulate:
    there it took 1.07 of the 1.73 s of a step of `tiny`. Here equal matrices are done at once, in what the device
    multiplies.
    """

    def __init__(self, matrices: Iterable[Tensor], *, lr: float, weight_decay: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # type: ignore[override]
        """Improve all matrices that have a gradient."""
        assert closure is None
        for group in self.param_groups:
            for shape, matrices in _by_shape(group["params"]).items():
                gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
                steps = orthogonalized(self._nesterov(matrices, gradients))
                length = group["lr"] * 0.2 * max(shape) ** 0.5
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(steps.to(matrices[0].dtype)), alpha=-length)

    def _nesterov(self, matrices: list[Tensor], gradients: Tensor) -> Tensor:
        """Return gradients (n, R, C) moved towards their momentum, which moves towards them."""
        held: list[Tensor] = []
        for matrix, gradient in zip(matrices, gradients, strict=True):
            kept: dict[str, Any] = self.state[matrix]
            if not kept:
                kept["momentum_buffer"] = torch.zeros_like(gradient)
            held.append(kept["momentum_buffer"].lerp_(gradient, 1 - _MOMENTUM))
        return gradients.lerp(torch.stack(held), _MOMENTUM)


def orthogonalized(matrices: Tensor) -> Tensor:
    """Return matrices (n, R, C) with about equal singular values, between 0.5 and 1.5 or so, by Newton and Schulz."""
    a, b, c = _ITERATION
    x = matrices.to(dtype_of("auto", matrices.device))
    is_tall = x.shape[1] > x.shape[2]
    x = x.mT if is_tall else x
    x = x / torch.linalg.matrix_norm(x, keepdim=True).clamp(min=1e-7)
    for _ in range(_NUM_ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return x.mT if is_tall else x


def _by_shape(matrices: Iterable[Tensor]) -> dict[torch.Size, list[Tensor]]:
    found: dict[torch.Size, list[Tensor]] = {}
    for matrix in matrices:
        if matrix.grad is not None:
            found.setdefault(matrix.shape, []).append(matrix)
    return found


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
        others = [parameter for parameter in model.parameters() if id(parameter) not in of_muon]
        maps = {id(part.weight) for part in model.modules() if isinstance(part, _MAPS)}
        self._peak = learning_rate
        self._parts: dict[str, torch.optim.Optimizer] = {
            "others": torch.optim.AdamW(
                [
                    # Maps decay; gains, biases and tables do not, of which most rows wait long for a gradient.
                    {"params": [p for p in others if id(p) in maps], "weight_decay": weight_decay},
                    {"params": [p for p in others if id(p) not in maps], "weight_decay": 0.0},
                ],
                lr=learning_rate,
                betas=(0.9, 0.99),
                eps=1e-8,
                fused=True,
            )
        }
        if matrices:
            self._parts["matrices"] = Muon(matrices, lr=learning_rate, weight_decay=weight_decay)

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


def _matrices(model: nn.Module, blocks: tuple[type[nn.Module], ...]) -> list[Tensor]:
    """Return the linear maps within blocks of these kinds, each once."""
    found: dict[int, Tensor] = {}
    for block in model.modules():
        if isinstance(block, blocks):
            found |= {id(part.weight): part.weight for part in block.modules() if isinstance(part, nn.Linear)}
    return list(found.values())
