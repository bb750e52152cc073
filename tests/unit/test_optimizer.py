"""What the optimizer promises: every parameter has one optimizer, and matrices of blocks are Muon's."""

from copy import deepcopy

import pytest
import torch

from learner.optimizer import BLOCKS, Muon, Optimizer
from tests.model_cases import small_config
from world.model.world_model import WorldModel
from world.warmup import spec_of


def _model() -> WorldModel:
    torch.manual_seed(0)
    return WorldModel(small_config(), spec_of("homestead:16x16x2"), 300)


def _step(model: WorldModel, optimizer: Optimizer, share: float) -> None:
    optimizer.forget_gradients()
    for parameter in model.parameters():
        parameter.grad = torch.linspace(-1, 1, parameter.numel()).view_as(parameter)
    optimizer.step(share)


@pytest.mark.parametrize("blocks", [BLOCKS, ()])
def test_every_parameter_is_improved_and_by_the_share_of_the_rate(blocks: tuple[type, ...]) -> None:
    lengths = []
    for share in (1.0, 0.5):
        model = _model()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        _step(model, Optimizer(model, learning_rate=1e-2, weight_decay=0.0, blocks=blocks), share)
        lengths.append({name: float((p.detach() - before[name]).norm()) for name, p in model.named_parameters()})
    moved = [name for name, p in before.items() if p.numel() > 1]
    for name in moved:
        assert lengths[0][name] > 0.0, name
        assert lengths[1][name] == pytest.approx(0.5 * lengths[0][name], rel=0.02), name


@pytest.mark.parametrize("shape", [(64, 24), (24, 64), (32, 32)])
def test_muon_steps_as_torchs_own_does(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    start, gradients = torch.randn(2, *shape), torch.randn(6, 2, *shape)
    ours, theirs = ([matrix.clone().requires_grad_() for matrix in start] for _ in range(2))
    mine = Muon(ours, lr=0.1, weight_decay=0.1)
    reference = torch.optim.Muon(theirs, lr=0.1, weight_decay=0.1, adjust_lr_fn="match_rms_adamw")
    for gradient in gradients:
        for optimizer, matrices in ((mine, ours), (reference, theirs)):
            for matrix, own in zip(matrices, gradient, strict=True):
                matrix.grad = own.clone()
            optimizer.step()
    for mine_moved, theirs_moved, began in zip(ours, theirs, start, strict=True):
        # Theirs is always in bfloat16, which rounds to one part in 256.
        apart, moved = (mine_moved - theirs_moved).detach().norm(), (theirs_moved - began).detach().norm()
        assert float(apart) < 0.03 * float(moved)


def test_muon_steps_as_far_in_every_direction_of_a_matrix() -> None:
    model = _model()
    weight = model.get_parameter("dynamics.acting.0.mlp.down.weight")
    before = weight.detach().clone()
    optimizer = Optimizer(model, learning_rate=1e-2, weight_decay=0.0)
    torch.manual_seed(1)
    weight.grad = torch.randn_like(weight) * torch.logspace(0, -2, len(weight))[:, None]
    optimizer.step(1.0)
    lengths = torch.linalg.svdvals(weight.detach() - before)
    assert lengths.max() < 3 * lengths.min(), "gradients differ a hundredfold by direction, steps do not"


def test_it_goes_on_from_what_it_kept() -> None:
    one, other = _model(), _model()
    first = Optimizer(one, learning_rate=1e-2, weight_decay=0.01)
    _step(one, first, 1.0)
    second = Optimizer(other, learning_rate=1e-2, weight_decay=0.01)
    other.load_state_dict(one.state_dict())
    second.load_state_dict(deepcopy(first.state_dict()))
    for model, optimizer in ((one, first), (other, second)):
        _step(model, optimizer, 1.0)
    torch.testing.assert_close(one.state_dict(), other.state_dict(), rtol=0, atol=0)
    without = Optimizer(_model(), learning_rate=1e-2, weight_decay=0.01, blocks=())
    with pytest.raises(KeyError):
        second.load_state_dict(without.state_dict())
