"""What a start promises: another training's weights and tokenizer, whole or refused with a sentence."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch

from cluster.presets import preset
from learner.checkpoint import Manifest, save_checkpoint
from learner.learner import Learner, LearnerConfig
from learner.limiter import LimiterState
from learner.restored import restore
from learner.start import bring, gently, shipped, start_path
from tests.model_cases import homestead_rows, small_config
from world.errors import CheckpointError, ConfigError
from world.evaluation.one_step import HeldOut
from world.model.tokenizer_files import load_tokenizer, save_tokenizer
from world.model.world_model import WorldModel
from world.warmup import TOKENIZER_FILE, spec_of

SPEC = homestead_rows()[0]


def _learner(*, seed: int, memory_size: int = 4) -> Learner:
    spec, tokenizer, rows = homestead_rows()
    config = small_config(memory_size=memory_size)
    return Learner(LearnerConfig(), config, spec, tokenizer, HeldOut(rows[100:], None), seed=seed)


@pytest.fixture
def trained(tmp_path: Path) -> Path:
    """A run folder with one checkpoint, of step 7."""
    tokenizer, learner = homestead_rows()[1], _learner(seed=1)
    run = tmp_path / "trained"
    (run / "warmup").mkdir(parents=True)
    save_tokenizer(tokenizer, run / "warmup" / TOKENIZER_FILE)
    manifest = Manifest(
        step=7,
        weights_epoch=1,
        weights_version=3,
        limiter=LimiterState(inserts=0, samples=0),
        replay={},
        random={},
        model_config=asdict(small_config()),
        tokenizer_digest=tokenizer.digest,
        made={"command": "worlds train"},
    )
    save_checkpoint(run / "checkpoints", learner.state_parts(), manifest)
    return run


def test_a_run_begins_with_anothers_averaged_weights_and_tokenizer_and_no_more(trained: Path, tmp_path: Path) -> None:
    start, warmup = tmp_path / "run" / "start", tmp_path / "run" / "warmup"
    assert bring(str(trained), start, warmup, small_config(), SPEC) == 7
    assert load_tokenizer(warmup / TOKENIZER_FILE).digest == homestead_rows()[1].digest
    names = {path.name for path in start.iterdir()}
    assert names == {"average.safetensors", "manifest.json", TOKENIZER_FILE}
    restored, own = restore(start), _learner(seed=5)
    own.begin_from(restored.weights, step=restored.step)
    assert own.step == 7
    for name, tensor in _learner(seed=1).state_parts()["average"].items():  # type: ignore[attr-defined]
        assert torch.equal(own.model.state_dict()[name], tensor)
        assert torch.equal(own.state_parts()["average"][name], tensor)  # type: ignore[index]
    own.train_step({name: column[None, :2] for name, column in homestead_rows()[2].columns().items()})
    assert own.step == 8


def test_going_on_from_trained_weights_is_done_at_a_tenth_of_the_peak_and_less_and_less() -> None:
    schedule = gently(LearnerConfig(), 12_000).schedule
    shares = [schedule.share(step, 0.0) for step in (12_001, 20_000, 48_000)]
    assert shares == pytest.approx([0.1, 0.0775, 0.05], rel=0.01)
    assert gently(LearnerConfig(), 12_000).averaging > LearnerConfig().averaging
    assert 0 < gently(LearnerConfig(), 7).schedule.share(8, 0.0) < 0.2


def test_bringing_it_twice_is_bringing_it_once(trained: Path, tmp_path: Path) -> None:
    start, warmup = tmp_path / "run" / "start", tmp_path / "run" / "warmup"
    for _ in range(2):
        bring(str(trained), start, warmup, small_config(), SPEC)
    assert restore(start).step == 7 and sorted(path.name for path in start.parent.iterdir()) == ["start", "warmup"]


def test_weights_of_another_model_are_refused(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="other sizes"):
        bring(str(trained), tmp_path / "start", tmp_path / "warmup", small_config(memory_size=5), SPEC)
    assert not (tmp_path / "start").exists() and not (tmp_path / "warmup").exists()
    with pytest.raises(ConfigError, match="are seen as"):
        bring(
            str(trained),
            tmp_path / "start",
            tmp_path / "warmup",
            small_config(),
            replace(SPEC, layout=replace(SPEC.layout, rows=11)),
        )
    with pytest.raises(CheckpointError, match=r"this program builds \(dynamics\.action\.weight is"):
        bring(str(trained), tmp_path / "start", tmp_path / "warmup", small_config(), replace(SPEC, num_actions=99))
    assert not (tmp_path / "start").exists() and not (tmp_path / "warmup").exists()
    with pytest.raises(CheckpointError, match="do not fit"):
        _learner(seed=2, memory_size=5).begin_from(restore(trained).weights, step=7)


def test_a_start_without_its_tokenizer_says_where_to_put_it(trained: Path, tmp_path: Path) -> None:
    checkpoint, warmup = trained / "checkpoints" / "step-00000007", tmp_path / "run" / "warmup"
    # `worlds run` and `worlds train` have no option that names it.
    aside = (trained / "warmup" / TOKENIZER_FILE).rename(tmp_path / TOKENIZER_FILE)
    told = f"put the right one at {checkpoint / TOKENIZER_FILE}, or"
    with pytest.raises(CheckpointError, match=f"no {TOKENIZER_FILE} beside it; {told}"):
        bring(str(trained), tmp_path / "run" / "start", warmup, small_config(), SPEC)
    aside.rename(checkpoint / TOKENIZER_FILE)
    assert bring(str(trained), tmp_path / "run" / "start", warmup, small_config(), SPEC) == 7


def test_a_start_that_is_not_there_or_damaged_is_told(trained: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such checkpoint"):
        start_path("no/such/folder")
    (trained / "checkpoints" / "step-00000007" / "average.safetensors").write_bytes(b"rot")
    with pytest.raises(CheckpointError, match="average"):
        bring(str(trained), tmp_path / "start", tmp_path / "warmup", small_config(), SPEC)


@pytest.mark.parametrize("name", shipped())
def test_what_is_shipped_fits_its_preset_and_is_small(name: str, tmp_path: Path) -> None:
    config = preset(name)
    spec = spec_of(config.env, config.num_agents)
    bring(name, tmp_path / "start", tmp_path / "warmup", config.model, spec)
    restored = restore(tmp_path / "start", tokenizer=tmp_path / "warmup" / TOKENIZER_FILE)
    assert (restored.env_name, restored.num_agents) == (config.env, config.num_agents), "what it may be judged in"
    WorldModel(config.model, spec, restored.tokenizer.vocab_size).load_state_dict(restored.weights)
    assert sum(file.stat().st_size for file in start_path(name).iterdir()) <= 10_000_000
