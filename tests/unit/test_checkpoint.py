"""A checkpoint is there whole or not at all, and training goes on from it as if it had never stopped."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from torch import nn

from learner.checkpoint import Manifest, has_checkpoint, load_newest, save_checkpoint
from learner.limiter import LimiterState
from learner.replay import ShardState
from learner.segments import Watermark
from learner.tensorfile import flatten_state, unflatten_state
from world.errors import CheckpointError

MANIFEST = Manifest(
    step=100,
    weights_epoch=1,
    weights_version=20,
    limiter=LimiterState(inserts=1000, samples=4000),
    replay={"r0": ShardState(17, Watermark(3, 4096)), "r1": ShardState(0, None)},
    random={"numpy": np.random.default_rng(0).bit_generator.state},
    model_config={"width": 8, "layers": [1, 2], "dropout": 0.1},
    tokenizer_digest="d1",
)


def _network() -> tuple[nn.Module, torch.optim.AdamW]:
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.SiLU(), nn.Linear(8, 1))
    decayed = [p for p in module.parameters() if p.ndim > 1]
    others = [p for p in module.parameters() if p.ndim <= 1]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": others, "weight_decay": 0.0, "lr": 3e-3}]
    return module, torch.optim.AdamW(groups, lr=1e-3, betas=(0.9, 0.95), amsgrad=True)


def _train(module: nn.Module, optimizer: torch.optim.AdamW, steps: range) -> list[float]:
    losses = []
    for step in steps:
        draw = torch.Generator().manual_seed(step)
        inputs = torch.randn(16, 4, generator=draw)
        loss = (module(inputs) - inputs.sum(dim=1, keepdim=True)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def _save(directory: Path, step: int) -> Path:
    parts = {"model": {"weight": torch.full((3,), float(step))}}
    return save_checkpoint(directory, parts, replace(MANIFEST, step=step))


def _steps(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


def test_training_goes_on_bit_equal_from_a_checkpoint(tmp_path: Path) -> None:
    module, optimizer = _network()
    _train(module, optimizer, range(10))
    parts = {"model": module.state_dict(), "optimizer": optimizer.state_dict()}
    save_checkpoint(tmp_path, parts, MANIFEST)
    wanted = _train(module, optimizer, range(10, 30))

    again, other = _network()
    checkpoint = load_newest(tmp_path)
    again.load_state_dict(checkpoint.parts["model"])  # type: ignore[arg-type]
    other.load_state_dict(checkpoint.parts["optimizer"])  # type: ignore[arg-type]
    assert _train(again, other, range(10, 30)) == wanted
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), again.parameters(), strict=True))


def test_the_manifest_comes_back_equal(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, MANIFEST)
    manifest = load_newest(tmp_path).manifest
    assert replace(manifest, files={}, digest="") == MANIFEST
    assert manifest.replay["r0"].watermark == Watermark(3, 4096)
    draw = np.random.default_rng(5)
    draw.bit_generator.state = manifest.random["numpy"]  # type: ignore[assignment]
    assert draw.random() == np.random.default_rng(0).random()


def test_nested_state_of_any_depth_round_trips() -> None:
    state = {
        "lists": [1, (2.5, None, "text", True), [], ()],
        7: {"deep": torch.arange(3, dtype=torch.bfloat16), "empty": {}},
        "infinite": float("inf"),
        "scalar": torch.tensor(3),
    }
    tensors, skeleton = flatten_state(state)
    again = unflatten_state(tensors, skeleton, "test")
    assert repr(again) == repr(state)


def test_tied_tensors_are_both_there(tmp_path: Path) -> None:
    shared = torch.arange(6.0)
    save_checkpoint(tmp_path, {"model": {"a": shared, "b": shared, "row": shared.view(2, 3)[0]}}, MANIFEST)
    model = load_newest(tmp_path).parts["model"]
    assert repr(model) == repr({"a": shared, "b": shared, "row": shared[:3]})


def test_state_that_would_have_to_be_pickled_is_refused() -> None:
    for state in ({"a": object()}, {"a": np.zeros(3)}, {("a", 1): 2}, [lambda: 1]):
        with pytest.raises(CheckpointError, match="state"):
            flatten_state(state)
    with pytest.raises(CheckpointError, match="two tensors are named 'a/b'"):
        flatten_state({"a/b": torch.zeros(1), "a": {"b": torch.zeros(1)}})


@pytest.mark.parametrize("name", ["model.safetensors", "manifest.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove", "empty"])
def test_damage_to_any_file_is_named_and_never_silently_passed_over(tmp_path: Path, name: str, damage: str) -> None:
    _save(tmp_path, 100)
    path = _save(tmp_path, 200) / name
    data = bytearray(path.read_bytes())
    if damage == "remove":
        path.unlink()
    elif damage == "flip":
        data[-9] ^= 1
        path.write_bytes(data)
    else:
        path.write_bytes(data[:-5] if damage == "cut" else b"")
    advice = r"step-00000100 is older and sound: rename step-00000200 to step-00000200\.damaged"
    with pytest.raises(CheckpointError, match=f"step-00000200/{name}: .*{advice}"):
        load_newest(tmp_path)
    path.parent.rename(tmp_path / "step-00000200.damaged")
    assert load_newest(tmp_path).manifest.step == 100


def test_when_no_checkpoint_is_sound_all_damage_is_told(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="holds no checkpoint"):
        load_newest(tmp_path)
    for step in (1, 2):
        (_save(tmp_path, step) / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"step-00000002.*step-00000001.*no sound checkpoint is left"):
        load_newest(tmp_path)


def test_a_save_that_died_leaves_the_last_checkpoint(tmp_path: Path) -> None:
    _save(tmp_path, 100)
    whole = _save(tmp_path, 200)
    # Died before the rename, with the manifest written or not.
    whole.rename(tmp_path / "step-00000200.partial")
    assert load_newest(tmp_path).manifest.step == 100
    (tmp_path / "step-00000200.partial" / "manifest.json").unlink()
    assert load_newest(tmp_path).manifest.step == 100
    _save(tmp_path, 200)
    assert load_newest(tmp_path).manifest.step == 200
    assert _steps(tmp_path) == ["step-00000100", "step-00000200"]


def test_a_step_may_be_saved_again_and_dying_then_loses_nothing(tmp_path: Path) -> None:
    _save(tmp_path, 100)
    final = _save(tmp_path, 100)
    assert _steps(tmp_path) == ["step-00000100"]
    # Died between the two renames.
    shutil.copytree(final, tmp_path / "step-00000100.partial")
    final.rename(tmp_path / "step-00000100.replaced")
    assert has_checkpoint(tmp_path) and final.exists()
    assert load_newest(tmp_path).manifest.step == 100


def test_only_the_newest_are_kept(tmp_path: Path) -> None:
    for step in (1, 2, 10, 20):
        _save(tmp_path, step)
    assert _steps(tmp_path) == ["step-00000002", "step-00000010", "step-00000020"]


def test_after_resuming_from_an_older_checkpoint_the_later_ones_are_set_aside(tmp_path: Path) -> None:
    _save(tmp_path, 100)
    _save(tmp_path, 200)
    _save(tmp_path, 150)
    assert load_newest(tmp_path).manifest.step == 150
    assert _steps(tmp_path) == ["step-00000100", "step-00000150", "step-00000200.abandoned"]


def test_a_refused_part_leaves_nothing_behind(tmp_path: Path) -> None:
    _save(tmp_path, 100)
    with pytest.raises(CheckpointError, match="neither tensor nor plain"):
        save_checkpoint(tmp_path, {"model": {"a": object()}}, replace(MANIFEST, step=200))
    assert _steps(tmp_path) == ["step-00000100"]


def test_manifests_of_another_schema_or_with_paths_are_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path, {}, replace(MANIFEST, schema_version=99))
    with pytest.raises(CheckpointError, match="of schema 99, this program reads 1"):
        load_newest(tmp_path)
    path = save_checkpoint(tmp_path, {"model": {}}, MANIFEST) / "manifest.json"
    fields = json.loads(path.read_text())
    fields["files"] = {"../../secret": fields["files"].pop("model.safetensors")}
    body = json.dumps({**fields, "digest": ""}, indent=2)
    path.write_text(json.dumps({**fields, "digest": xxhash.xxh3_128_hexdigest(body.encode())}, indent=2))
    with pytest.raises(CheckpointError, match="outside the checkpoint"):
        load_newest(tmp_path)
