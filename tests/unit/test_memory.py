"""What recurrent memory promises: a scan is a walk, and episodes do not leak into each other."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner.batches import Batch, MaskingConfig, make_batch
from learner.losses import _scanned_memory
from tests.model_cases import CountingEnv, counting_ticker, counting_world, small_config, stirred_model
from world.envs.grounded import EnvSpec
from world.errors import ConfigError
from world.live import LiveWorld
from world.model.dynamics import DynamicsConfig
from world.model.memory.recurrent import RecurrentMemory
from world.model.slots import Slots
from world.model.world_model import WorldModel
from world.tick import Ticker
from world.trajectory import Transitions


def _memory() -> RecurrentMemory:
    torch.manual_seed(0)
    return RecurrentMemory(5, 7)


def test_a_scan_is_equal_to_walking_tick_by_tick() -> None:
    memory, evidence = _memory(), torch.randn(2, 3, 6, 7)
    h = torch.randn(2, 3, 5)
    before = memory.scan(h, evidence, torch.zeros(2, 3, 6, dtype=torch.bool))
    assert before.shape == (2, 3, 6, 5)
    for tick in range(6):
        torch.testing.assert_close(before[:, :, tick], h)
        h = memory(h, evidence[:, :, tick])


def test_where_an_episode_begins_memory_is_zero_at_exactly_that_tick() -> None:
    memory, evidence = _memory(), torch.randn(1, 6, 7)
    is_first = torch.tensor([[False, False, False, True, False, False]])
    plain = memory.scan(torch.ones(1, 5), evidence, torch.zeros_like(is_first))
    reset = memory.scan(torch.ones(1, 5), evidence, is_first)
    torch.testing.assert_close(reset[:, :3], plain[:, :3])
    assert (reset[:, 3] == 0).all()
    assert (reset[:, 4] != 0).all()
    alone = memory.scan(torch.full((1, 5), 9.0), evidence[:, 3:], torch.tensor([[True, False, False]]))
    torch.testing.assert_close(reset[:, 3:], alone)


def test_memory_before_a_tick_knows_nothing_of_that_tick() -> None:
    memory, evidence = _memory(), torch.randn(1, 4, 7)
    other = evidence.clone()
    other[:, 2] += 1
    is_first = torch.zeros(1, 4, dtype=torch.bool)
    mine, its = (memory.scan(torch.ones(1, 5), x, is_first) for x in (evidence, other))
    torch.testing.assert_close(mine[:, :3], its[:, :3], rtol=0, atol=0)
    assert (mine[:, 3] != its[:, 3]).any()


def test_memory_stays_within_what_float16_can_hold() -> None:
    memory, h = _memory(), torch.full((1, 5), 60000.0)
    for _ in range(50):
        h = memory(h, torch.randn(1, 7) * 1000)
        assert h.half().isfinite().all()
    assert (memory(torch.zeros(1, 5), torch.randn(1, 7) * 1e4).abs() <= 1).all()


def test_the_learner_scans_the_memory_that_the_host_had() -> None:
    """From any tick on, the memory before each later tick is the host's, but for its rounding to float16."""
    env = CountingEnv(length=5)
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    rows, reset_at = _rows(world, ticker, 11)
    batch = _batch(ticker.model, rows)
    scanned = _scanned_memory(ticker.model, batch)
    assert scanned.shape == (len(rows), 2, 4)
    assert (rows.memory[1:5] != 0).any()
    torch.testing.assert_close(scanned, torch.from_numpy(rows.memory.astype(np.float32)), rtol=2e-2, atol=2e-3)
    assert reset_at == [0, 6]
    assert rows.is_first.tolist() == [True, False, False, False, False, True, False, False, False]
    assert (rows.memory[rows.is_first] == 0).all() and (scanned[torch.from_numpy(rows.is_first)] == 0).all()


def test_a_sequence_from_the_middle_of_an_episode_begins_with_the_memory_of_its_first_tick() -> None:
    env = CountingEnv()
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    rows, _ = _rows(world, ticker, 9)
    rows = rows[2:]
    columns = {name: column.reshape(2, 3, *column.shape[1:]) for name, column in rows.columns().items()}
    batch = make_batch(columns, mask=65, unknown_action=5, config=MaskingConfig(), rng=np.random.default_rng(0))
    scanned = _scanned_memory(ticker.model, batch)
    recorded = torch.from_numpy(rows.memory.astype(np.float32))
    torch.testing.assert_close(scanned[[0, 3]], recorded[[0, 3]], rtol=0, atol=0)
    torch.testing.assert_close(scanned, recorded, rtol=2e-2, atol=2e-3)
    assert ((recorded[1:] - recorded[:-1]).abs().amax(dim=(1, 2)) > 0.01).all(), "memory moves at every tick"


def test_evidence_holds_action_reward_and_cells_but_no_memory() -> None:
    env = CountingEnv()
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    rows, _ = _rows(world, ticker, 4)
    model, batch = ticker.model, _batch(ticker.model, rows)
    base = model.evidence(batch.slots, batch.actions, batch.rewards)
    assert (model.evidence(batch.slots, (batch.actions + 1) % 5, batch.rewards) != base).any(-1).all()
    assert (model.evidence(batch.slots, batch.actions, batch.rewards + 1) != base).any(-1).all()
    forgetful = Slots(**{**_fields(batch.slots), "memory": torch.zeros_like(batch.slots.memory)})
    torch.testing.assert_close(model.evidence(forgetful, batch.actions, batch.rewards), base, rtol=0, atol=0)


def test_small_views_have_evidence_of_the_same_width() -> None:
    for cols, map_rows in ((3, 2), (3, 0), (4, 4)):
        env = CountingEnv(map_rows=map_rows, cols=cols)
        model = stirred_model(env.spec, 65)
        world, ticker = counting_world(env), counting_ticker(env, version=1)
        rows, _ = _rows(world, ticker, 2)
        batch = _batch(model, rows)
        evidence = model.evidence(batch.slots, batch.actions, batch.rewards)
        assert evidence.shape == (1, 2, 11 * 16 + 16 + 1)


def test_a_gain_makes_memory_louder_when_learning_begins_and_changes_nothing_else() -> None:
    spec, config = CountingEnv().spec, small_config()
    plain, loud = (_seeded(spec, replace(config.dynamics, memory_gain=gain)) for gain in (1.0, 10.0))
    for name, weight in plain.items():
        assert torch.equal(loud[name], 10 * weight if name == "dynamics.memory_slots.weight" else weight), name
    with pytest.raises(ConfigError, match="memory_gain must be positive"):
        replace(config.dynamics, memory_gain=0.0)


def _seeded(spec: EnvSpec, dynamics: DynamicsConfig) -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return WorldModel(replace(small_config(), dynamics=dynamics), spec, 65).state_dict()


def _rows(world: LiveWorld, ticker: Ticker, ticks: int) -> tuple[Transitions, list[int]]:
    rows, resets = [], []
    for tick in range(ticks):
        row = ticker.tick([world])[0].row
        if row is None:
            resets.append(tick)
        else:
            rows.append(row)
    return Transitions.stack(rows), resets


def _batch(model: WorldModel, rows: Transitions) -> Batch:
    columns = {name: column[None] for name, column in rows.columns().items()}
    batch = make_batch(columns, mask=model.mask, unknown_action=5, config=MaskingConfig(), rng=np.random.default_rng(0))
    return batch


def _fields(slots: Slots) -> dict[str, torch.Tensor]:
    return {name: getattr(slots, name) for name in Slots.__dataclass_fields__}
