"""Weights travel whole, and only ever get newer."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from actors.weight_store_actor import WeightStoreActor
from learner.weights import WeightSet, WeightStore, flatten
from world.errors import CheckpointError


class _Model(nn.Module):
    """Parameters of several types, a scalar, an empty one, and buffers."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.first = nn.Linear(3, 5)
        self.narrow = nn.Linear(5, 7).to(torch.bfloat16)
        self.norm = nn.BatchNorm1d(5)
        self.scale = nn.Parameter(torch.randn(()))
        self.nothing = nn.Parameter(torch.empty(0, 4))
        self.register_buffer("mask", torch.rand(9) > 0.5)


def _equal(left: dict[str, Tensor], right: dict[str, Tensor]) -> bool:
    return list(left) == list(right) and all(torch.equal(left[name], right[name]) for name in left)


def test_weights_are_read_bit_equal_to_the_published_ones() -> None:
    source = _Model(0)
    weights = flatten(source.state_dict(), epoch=2, version=5)
    assert weights.order == (2, 5)
    # What comes out of shared memory may not be written to.
    weights.buffer.setflags(write=False)
    assert _equal(source.state_dict(), weights.tensors())


def test_the_buffer_does_not_change_with_the_model() -> None:
    model = _Model(0)
    weights = flatten(model.state_dict())
    before = weights.buffer.copy()
    with torch.no_grad():
        model.scale.add_(1)
    np.testing.assert_array_equal(weights.buffer, before)


def test_inconsistent_weight_sets_cannot_be_made() -> None:
    with pytest.raises(CheckpointError, match="buffer should be uint8"):
        WeightSet(0, 0, ("a",), ((3,),), ("float32",), np.zeros(12, np.uint8))
    with pytest.raises(CheckpointError, match="distinct"):
        WeightSet(0, 0, ("a", "a"), ((4,), (4,)), ("float32", "float32"), np.zeros(32, np.uint8))
    with pytest.raises(CheckpointError, match="unknown"):
        WeightSet(0, 0, ("a",), ((4,),), ("object",), np.zeros(16, np.uint8))
    with pytest.raises(CheckpointError, match="complex64"):
        flatten({"a": torch.zeros(2, dtype=torch.complex64)})


def test_versions_only_rise() -> None:
    store, state = WeightStore(), {"a": torch.zeros(2)}
    assert store.newest() is None
    assert store.publish(flatten(state, epoch=1, version=3))
    assert not store.publish(flatten(state, epoch=1, version=3))
    assert not store.publish(flatten(state, epoch=1, version=2))
    assert not store.publish(flatten(state, epoch=0, version=9))
    assert store.publish(flatten(state, epoch=2, version=0))
    newest = store.newest(newer_than=(1, 99))
    assert newest is not None
    assert newest.order == (2, 0)
    assert store.newest(newer_than=(2, 0)) is None


def test_a_restarted_store_has_the_newest_weights(tmp_path: Path) -> None:
    weights = flatten(_Model(0).state_dict(), epoch=1, version=7)
    WeightStore(tmp_path).publish(weights)
    again = WeightStore(tmp_path).newest()
    assert again is not None
    assert (again.order, again.names, again.shapes, again.dtypes) == (
        weights.order,
        weights.names,
        weights.shapes,
        weights.dtypes,
    )
    np.testing.assert_array_equal(again.buffer, weights.buffer)
    assert not WeightStore(tmp_path).publish(weights)


def test_death_while_publishing_leaves_the_last_weights(tmp_path: Path) -> None:
    state = {"a": torch.arange(4.0)}
    WeightStore(tmp_path).publish(flatten(state, epoch=1, version=1))
    whole = (tmp_path / WeightStore.FILE).read_bytes()
    (tmp_path / f"{WeightStore.FILE}.partial").write_bytes(whole[:50])
    store = WeightStore(tmp_path)
    newest = store.newest()
    assert newest is not None
    assert newest.order == (1, 1)
    assert store.publish(flatten(state, epoch=1, version=2))
    assert [path.name for path in tmp_path.iterdir()] == [WeightStore.FILE]


def test_a_damaged_file_is_named_and_not_used(tmp_path: Path) -> None:
    WeightStore(tmp_path).publish(flatten({"a": torch.arange(4.0)}, epoch=1, version=1))
    path = tmp_path / WeightStore.FILE
    whole = path.read_bytes()
    for damaged, message in (
        (whole[:-1] + b"x", "fails its checksum"),
        (whole[:-3], "not a safetensors file"),
        (b"", "not a safetensors file"),
        (whole.replace(b'"xxh3"', b'"xxh4"'), "fails its checksum"),
        (whole.replace(b'"order"', b'"other"'), "metadata are incomplete"),
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match=f"{WeightStore.FILE}: .*{message}"):
            WeightStore(tmp_path)


def test_a_process_whose_weights_cannot_be_read_is_there_and_says_so_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / WeightStore.FILE).write_bytes(b"damaged")
    actor = WeightStoreActor(str(tmp_path))
    with pytest.raises(CheckpointError, match=WeightStore.FILE):
        actor.report()
