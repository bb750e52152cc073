"""A run's configuration: impossible values are refused, and what is stored comes back as it was."""

import json
import math
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from actors.host_config import WorldHostConfig
from cluster.config import RunConfig
from cluster.presets import PRESETS, of_env, preset
from cluster.run_folder import RunFolder, continued, read_run
from cluster.supervisor_config import SupervisorConfig
from cluster.worlds import plan_worlds
from learner.learner import LearnerConfig
from learner.limiter import LimiterConfig, RateLimiter
from learner.loop import LoopConfig
from learner.prefetch import PrefetchConfig
from world.envs.catalog import make_env, make_policy
from world.errors import ConfigError, RunFolderError
from world.model.dynamics import DynamicsConfig


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_possible_and_survives_the_run_folder(name: str, tmp_path: Path) -> None:
    config = preset(name)
    assert config.preset == name
    folder = RunFolder.open(tmp_path)
    run_id = folder.begin(config)
    assert folder.stored() == (run_id, config)
    folder.close()


def test_an_unknown_preset_is_refused_with_the_known_ones() -> None:
    with pytest.raises(ConfigError, match="homestead-tiny"):
        preset("homstead")


def test_any_environment_may_be_run_with_as_many_agents_as_it_has() -> None:
    config = of_env(preset("homestead-tiny"), "FrozenLake-v1")
    assert (config.env, config.num_agents) == ("FrozenLake-v1", None)
    for policy in config.recording.policies:
        make_policy(policy, make_env("FrozenLake-v1").spec, 0)


def test_worlds_of_other_sizes_are_recorded_by_the_same_policies() -> None:
    base = preset("homestead-tiny")
    assert of_env(base, "homestead:64x64").recording == base.recording


@pytest.mark.parametrize(
    "make",
    [
        lambda: RunConfig(preset="x", env="homestead", num_worlds=0),
        lambda: RunConfig(preset="x", env="homestead", num_dreams=-1),
        lambda: RunConfig(preset="x", env="homestead", seed=-1),
        lambda: RunConfig(preset="x", env="homestead", seed=10**9),
        lambda: RunConfig(preset="x", env="homestead", learner_gpus=2),
        lambda: RunConfig(preset="x", env="homestead", host_gpus=0.5),
        lambda: replace(preset("homestead-base"), host_gpus=0.0),
        lambda: replace(preset("homestead-base"), host_gpus=1.5),
        lambda: replace(preset("homestead-base"), num_hosts=0),
        lambda: replace(preset("homestead-base"), learner=LearnerConfig(past_ticks=30, sequence_ticks=4)),
        lambda: RunConfig(preset="x", env="homestead", host=WorldHostConfig(credit_items=10_000)),
        lambda: RunConfig(preset="x", env="homestead", host=WorldHostConfig(chunk_ticks=1000)),
        lambda: RunConfig(preset="x", env="homestead", host=WorldHostConfig(chunk_ticks=1)),
        lambda: WorldHostConfig(commit_every_s=0),
        lambda: WorldHostConfig(max_chunks_in_flight=0),
        lambda: WorldHostConfig(niceness=-1),
        lambda: WorldHostConfig(grounded_ticks_per_s=-1),
        lambda: SupervisorConfig(call_s=0),
        lambda: SupervisorConfig(drain_within_s=-1),
        lambda: SupervisorConfig(failures_in_a_row=0),
        lambda: LoopConfig(publish_every_steps=0),
        lambda: LoopConfig(evaluate_every_s=float("nan")),
        lambda: PrefetchConfig(num_sequences=1, length=0, num_agents=1),
    ],
)
def test_an_impossible_value_is_refused_in_one_sentence(make: Callable[[], object]) -> None:
    with pytest.raises(ConfigError) as refusal:
        make()
    assert "\n" not in str(refusal.value)


def test_a_second_run_on_one_folder_is_refused(tmp_path: Path) -> None:
    held = RunFolder.open(tmp_path)
    with pytest.raises(RunFolderError, match="another run"):
        RunFolder.open(tmp_path)
    held.close()
    RunFolder.open(tmp_path).close()


def test_a_folder_of_another_schema_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path)
    folder.begin(preset("smoke"))
    folder.close()
    file = tmp_path / "run.json"
    written = json.loads(file.read_text()) | {"schema_version": 999}
    file.write_text(json.dumps(written))
    with pytest.raises(RunFolderError, match="schema 999"):
        read_run(tmp_path)
    assert json.loads(file.read_text()) == written


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1}', '{"schema_version": "1"}'])
def test_a_damaged_folder_is_refused_in_a_sentence(content: str, tmp_path: Path) -> None:
    (tmp_path / "run.json").write_text(content)
    with pytest.raises(RunFolderError, match="--run-dir"):
        read_run(tmp_path)


def test_a_folder_that_cannot_be_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (file := tmp_path / "README.md").write_text("no folder")
    (tmp_path / "run.json").mkdir()
    for path in (file, tmp_path):
        with pytest.raises(RunFolderError, match="--run-dir"):
            read_run(path)


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    with pytest.raises(RunFolderError, match="--run-dir"):
        RunFolder.open(blocked / "run")


def test_what_is_stored_wins_and_what_contradicts_it_is_refused() -> None:
    stored = replace(preset("smoke"), seed=3)
    assert continued(stored, seed=None, preset=None, env=None) == stored
    assert continued(stored, seed=3, preset="smoke") == stored
    with pytest.raises(ConfigError, match="seed 3"):
        continued(stored, seed=4)
    with pytest.raises(ConfigError, match="preset 'smoke'"):
        continued(stored, preset="homestead-tiny")
    with pytest.raises(ConfigError, match=r"redis://:\*\*\*@b") as refused:
        continued(replace(stored, redis_url="redis://:hidden@a"), redis_url="redis://:hidden@b")
    assert "hidden" not in str(refused.value)


def test_worlds_are_the_same_ones_whenever_they_are_planned_and_others_in_another_run() -> None:
    config = preset("homestead-tiny")
    assert plan_worlds(config, "a" * 32) == plan_worlds(config, "a" * 32)
    ids = [
        {planned.world for group in plan_worlds(config, run_id) for planned in group} for run_id in ("a" * 32, "b" * 32)
    ]
    assert len(ids[0]) == config.num_worlds + config.num_dreams
    assert not ids[0] & ids[1]


def test_seeds_of_worlds_are_distinct_and_below_those_of_held_out_worlds() -> None:
    for seed in (0, 999_999):
        grounded, dreamed = plan_worlds(replace(preset("homestead-small"), seed=seed), "a" * 32)
        seeds = [planned.seed for planned in (*grounded, *dreamed)]
        assert len(set(seeds)) == len(seeds)
        assert max(seeds) < 1 << 40


def test_a_limiter_that_would_deadlock_is_refused_before_anything_starts() -> None:
    with pytest.raises(ConfigError, match="deadlock"):
        replace(preset("smoke"), limiter=LimiterConfig(samples_per_insert=0.01, max_ahead_items=64, min_items=1))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *((name, 0) for name in ("width", "hidden", "num_heads", "num_key_heads", "token_width")),
        *((name, -1) for name in ("encoder_blocks", "action_blocks", "num_recalled", "num_hubs", "num_heads")),
        ("memory_gain", math.nan),
    ],
)
def test_networks_that_cannot_be_built_are_refused_by_name(name: str, value: float) -> None:
    with pytest.raises(ConfigError, match=f"dynamics.{name} must be"):
        DynamicsConfig(**{name: value})


def test_the_lock_is_not_inherited_by_the_processes_of_a_run(tmp_path: Path) -> None:
    folder = RunFolder.open(tmp_path)
    assert not os.get_inheritable(folder._lock)
    folder.close()


def test_collection_may_run_ahead_by_a_chunk_of_every_world_however_many_agents() -> None:
    for name in PRESETS:
        config = preset(name)
        assert config.limiter_for(config.num_agents or 1) == config.limiter, "presets have room enough"
    config = preset("homestead-tiny")
    for agents in (8, 16):
        room = config.limiter_for(agents)
        chunks = config.num_worlds * agents * config.host.chunk_ticks
        assert room.min_items + room.max_ahead_items == chunks + config.num_hosts * config.host.credit_items
        assert room == replace(config.limiter, max_ahead_items=room.max_ahead_items)


@pytest.mark.parametrize("name", PRESETS)
@pytest.mark.parametrize("agents", [1, 8, 64])
def test_a_batch_may_be_sampled_whole_however_many_agents(name: str, agents: int) -> None:
    config = preset(name)
    room = config.limiter_for(agents)
    batch = PrefetchConfig(
        num_sequences=config.learner.batch_sequences, length=config.learner.sampled_ticks, num_agents=agents
    )
    limiter = RateLimiter(room)
    while limiter.request_inserts(room.max_insert_items):
        pass
    assert limiter.request_samples(batch.num_items)
    assert room.max_ahead_items >= room.least_ahead_items
