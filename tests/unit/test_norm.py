"""The norm written out is torch's own, forward and backward, in either precision."""

import pytest
import torch
from torch import Tensor

from world.model.norm import inverse_length, rms_norm

_EPSILON = torch.finfo(torch.float32).eps


def _three(norm: Tensor, x: Tensor, gain: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    weights = torch.linspace(-1.0, 1.0, norm.numel()).view(norm.shape)
    by_x, by_gain = torch.autograd.grad((norm.float() * weights).sum(), (x, gain))
    return norm.detach(), by_x, by_gain


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_it_is_torchs_own(dtype: torch.dtype, tolerance: float) -> None:
    torch.manual_seed(0)
    x = (3 * torch.randn(5, 7, 24)).to(dtype).requires_grad_()
    gain = (0.5 + torch.rand(24)).requires_grad_()
    mine = _three(rms_norm(x, gain), x, gain)
    its = _three(torch.nn.functional.rms_norm(x.float(), (24,), gain, _EPSILON), x, gain)
    for got, expected in zip(mine, its, strict=True):
        assert (got.float() - expected.float()).abs().max() <= tolerance * expected.float().abs().max()
    assert mine[0].dtype == mine[1].dtype == dtype and mine[2].dtype == torch.float32


def test_what_is_no_more_than_zero_stays_zero_and_small_features_are_not_shrunk() -> None:
    gain = torch.ones(8)
    assert not rms_norm(torch.zeros(3, 8), gain).any()
    small = torch.full((1, 8), 1e-2, dtype=torch.bfloat16)
    assert rms_norm(small, gain).float().sub(1.0).abs().max() < 0.01


def test_slots_that_lie_apart_in_memory_are_normed_too() -> None:
    x = torch.randn(4, 6, 8).transpose(0, 1)
    torch.testing.assert_close(rms_norm(x, torch.ones(8)), torch.nn.functional.rms_norm(x, (8,), None, _EPSILON))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_one_over_a_length_is_of_the_type_of_what_it_scales_and_never_infinite(dtype: torch.dtype) -> None:
    x = torch.tensor([[3.0, 4.0], [0.0, 0.0]], dtype=dtype, requires_grad=True)
    found = inverse_length(x)
    assert found.dtype == dtype
    torch.testing.assert_close(found[0].detach(), torch.tensor([0.2], dtype=dtype), rtol=1e-2, atol=0)
    found.sum().backward()
    assert found.isfinite().all() and x.grad is not None and x.grad.isfinite().all()
