"""Trials of memory: found as they were, scored as they should be, and learned with the recurrence open or closed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from learner import memory_bench
from learner.memory_bench import CONDITIONS, TASKS, chance, judge, model_config, record, summary, train
from tests.model_cases import CountingEnv, counting_ticker, counting_world, stirred_model
from world.envs.catalog import make_env, make_policy
from world.envs.gymnasium import GymnasiumGrounded
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.tiles import Action, Thing
from world.errors import ConfigError
from world.evaluation.trials import Trials, beliefs, cue_trials, gate_trials, remembered, surprise
from world.live import begin
from world.model.tokenizer import DiscreteTokenizer, PatchTokenizer, build_codebook
from world.model.world_model import WorldModelConfig
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions

NAME = "homestead-hidden:24x24x1"


def test_gate_trials_are_those_that_truth_knows() -> None:
    env = make_env(NAME)
    assert isinstance(env, HomesteadGrounded)
    env.reset(0)
    world = begin(WorldId("w"), env_name=NAME, seed=1, memory_size=16)
    world.policy, live = make_policy("gatekeeper", env.spec, 1), world.env
    assert isinstance(live, HomesteadGrounded)
    codebook = build_codebook(np.concatenate([env.survey(), live.survey()]), 400)
    tokenizer = PatchTokenizer(env.spec.layout, codebook, 512)
    ticker = Ticker(env.spec, tokenizer, TickConfig(event_rate=0.0), WorldModelConfig())
    ticker.tick([world])
    rows, truth = [], []
    for _ in range(200):
        ahead = live.simulation.ahead(0)
        is_gate = live.simulation.thing_at[ahead] == Thing.GATE_CLOSED
        (ticked,) = ticker.tick([world])
        assert ticked.row is not None
        rows.append(ticked.row)
        if is_gate and ticked.row.actions[0, 0] == Action.USE:
            truth.append((len(rows) - 1, live.simulation.thing_at[ahead] == Thing.GATE_OPEN))
    trials = gate_trials(Transitions.stack(rows), tokenizer)
    assert list(zip(trials.row.tolist(), trials.happened.tolist(), strict=True)) == truth
    assert len(truth) > 5 and {opened for _, opened in truth} == {True, False}
    assert (trials.asked > 0).sum() == len(trials)
    with pytest.raises(ConfigError, match="none of them"):
        gate_trials(Transitions.stack(rows), DiscreteTokenizer(CountingEnv().spec.layout))


def test_cue_trials_are_looks_back_at_what_truth_has_there() -> None:
    name = "MiniGrid-MemoryS11-v0"
    world = begin(WorldId("w"), env_name=name, seed=1, memory_size=16)
    live = world.env
    assert isinstance(live, GymnasiumGrounded)
    world.policy = make_policy("chooser", live.spec, 1)
    patches = np.array([[0, 0, 0], [1, 0, 0], [2, 5, 0], [5, 1, 0], [6, 1, 0]], np.uint8)
    tokenizer = PatchTokenizer(live.spec.layout, patches.reshape(-1, 1, 1, 3), 16)
    ticker = Ticker(live.spec, tokenizer, TickConfig(), WorldModelConfig())
    rows, is_key, looking_back = [], [], []
    for _ in range(300):
        (ticked,) = ticker.tick([world])
        if ticked.row is not None:
            rows.append(ticked.row)
            is_key.append(live.truth.grid.get(1, live.truth.height // 2 - 1).type == "key")
            looking_back.append(live.truth.agent_dir == 2)
    trials = cue_trials(Transitions.stack(rows), tokenizer)
    assert tokenizer.unknown_patches == 0 and len(trials) > 3
    assert trials.happened.tolist() == [is_key[row] for row in trials.row]
    assert all(looking_back[row] for row in trials.row)
    assert ((trials.asked > 0).sum(axis=(1, 2, 3)) == np.bincount(trials.row, minlength=len(rows))).all()
    with pytest.raises(ConfigError, match="none of them"):
        cue_trials(Transitions.stack(rows), DiscreteTokenizer(CountingEnv().spec.layout))


def test_remembering_afterwards_is_what_a_host_would_have_committed() -> None:
    env = CountingEnv(length=5)
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    rows = [ticker.tick([world])[0].row for _ in range(12)]
    ticks = Transitions.stack([row for row in rows if row is not None])
    again = remembered(ticker.model, replace(ticks, memory=np.zeros_like(ticks.memory)))
    assert (ticks.memory != 0).any()
    np.testing.assert_allclose(again.memory.astype(np.float32), ticks.memory.astype(np.float32), rtol=2e-2, atol=2e-3)


def test_beliefs_are_those_of_the_trials_own_rows() -> None:
    env = CountingEnv()
    world, ticker = counting_world(env), counting_ticker(env)
    rows = [ticker.tick([world])[0].row for _ in range(9)]
    ticks = Transitions.stack([row for row in rows if row is not None])
    model = stirred_model(env.spec, 65)
    asked = np.zeros(ticks.next_tokens.shape, np.uint16)
    row, agent = np.array([2, 2, 5]), np.array([0, 1, 1])
    asked[row, agent, 1, 3] = [7, 9, 11]
    believed = beliefs(model, ticks, Trials(row, agent, np.ones(3, np.bool_), asked))
    assert believed.shape == (3,) and (believed > 0).all() and (believed < 1).all()
    alone = Trials(np.array([0]), np.array([1]), np.ones(1, np.bool_), asked[5:6])
    np.testing.assert_allclose(beliefs(model, ticks[5:6], alone), believed[2:], rtol=1e-4)
    assert beliefs(model, ticks, Trials(row[:0], agent[:0], np.ones(0, np.bool_), asked)).shape == (0,)


def test_surprise_and_chance_are_counted_in_bits() -> None:
    happened = np.array([True, True, False, False])
    np.testing.assert_allclose(surprise(np.array([0.5, 1.0, 0.25, 1.0]), happened), [1.0, 0.0, 2 - np.log2(3), 20.0])
    assert chance(happened) == {"bits": 1.0, "right": 0.5}
    assert chance(np.array([True, True, True, False]))["right"] == 0.75
    told = summary([(np.array([0.9, 0.9, 0.1, 0.1]), happened), (np.array([0.5, 0.5, 0.5, 0.9]), happened)])
    assert told["trials"] == 4 and told["right_by_seed"] == [1.0, 0.25]
    assert told["right_interval"][0] <= told["right"] <= told["right_interval"][1]


@pytest.mark.parametrize("remembers", CONDITIONS)
def test_a_closed_recurrence_stays_zero_through_learning_and_an_open_one_does_not(remembers: str) -> None:
    task = replace(TASKS["cue"], num_worlds=1, held_out_worlds=1, world_ticks=400, steps=2)
    recorded = record(task)
    model = train(recorded, task, remembers, seed=0)
    memory = remembered(model, recorded.held_out[0]).memory
    assert memory.any() == (remembers == "recurrent")
    assert (model.dynamics.recall is not None) == (remembers == "episodic")
    believed, happened = judge(recorded, task, model)
    assert len(believed) == len(happened) > 3
    assert torch.isfinite(torch.from_numpy(believed)).all()
    assert model_config(remembers).memory_size == memory.shape[-1]


def test_the_bench_tells_of_every_condition_beside_chance_and_one_who_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    brief = replace(TASKS["cue"], num_worlds=1, held_out_worlds=1, world_ticks=300, steps=1)
    monkeypatch.setattr(memory_bench, "TASKS", {"cue": brief})
    found = memory_bench.bench_memory()
    told = found["details"]["cue"]
    assert set(CONDITIONS) | {"chance", "oracle"} <= set(told) and told["oracle"] == {"bits": 0.0, "right": 1.0}
    assert found["value"] == told["nothing"]["bits"] - told["recurrent"]["bits"]
    for condition in CONDITIONS:
        assert told[condition]["trials"] > 3 and len(told[condition]["bits_by_seed"]) == 2
        assert told[condition]["bits_interval"][0] <= told[condition]["bits"] <= told[condition]["bits_interval"][1]
