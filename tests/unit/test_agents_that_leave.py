"""Agents of a `ParallelEnv` that leave at different ticks: who is gone sees nothing, and nothing is asked of it."""

import sys
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from gymnasium import spaces
from pettingzoo import ParallelEnv

from learner.batches import MaskingConfig, make_batch
from learner.losses import LossConfig, cells_asked, world_model_loss
from tests.model_cases import small_config, stirred_model
from world.difference import difference
from world.envs.grounded import Int32Array, ViewLayout, gone, nowhere
from world.envs.pettingzoo import PettingZooGrounded
from world.evaluation.events import event_scores
from world.evaluation.metrics import MetricRow
from world.evaluation.one_step import HeldOut, ask, edit_scores
from world.field import MAP, SCREEN, UNSEEN
from world.live import LiveWorld, fork_dream, resume
from world.model.tokenizer import PatchTokenizer
from world.provenance import stories
from world.snapshot import Snapshot, TickEffects, WorldId
from world.store.codec import decode_snapshot, effects_of, effects_payload, encode_snapshot
from world.tick import TickConfig, Ticked, Ticker
from world.trajectory import ELSEWHERE, STAY, Transitions

LIVES = (3, 6, 9)
"""The step that each agent leaves with. World tick 1 is the reset, so step n leads to tick n + 1."""
NUM_COLOURS = 50
SEES = 3


class Waning(ParallelEnv[str, Any, int]):  # type: ignore[misc]
    """Three agents stand or walk where they see each other's ground, the colours of which change with every tick.

    Each leaves after its own number of steps, and sees its last one, unless `leaves_blind`.
    """

    metadata = {"name": "waning"}  # noqa: RUF012
    view_layout = ViewLayout(rows=SEES + 1, cols=SEES, map_rows=SEES, tile_px=2)
    leaves_blind = False

    def __init__(self) -> None:
        self.possible_agents = ["first", "second", "third"]
        self.agents: list[str] = []

    def observation_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Box(0, 255, (2 * (SEES + 1), 2 * SEES, 3), np.uint8)

    def action_space(self, agent: str) -> spaces.Space[Any]:
        return spaces.Discrete(2)

    def reset(self, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        self.agents, self.step_number = self.possible_agents.copy(), 0
        self.places = {"first": [5, 5], "second": [5, 6], "third": [6, 9]}
        return self._views(self.agents), self._infos(self.agents)

    def step(self, actions: dict[str, int]) -> tuple[dict[str, Any], ...]:
        assert set(actions) == set(self.agents)
        self.step_number += 1
        for agent, action in actions.items():
            self.places[agent][0] += action if self.step_number % 2 else -action
        present, lives = self.agents, dict(zip(self.possible_agents, LIVES, strict=True))
        over = {agent: self.step_number >= lives[agent] for agent in present}
        self.agents = [agent for agent in present if not over[agent]]
        seeing = self.agents if self.leaves_blind else present
        return (
            self._views(seeing),
            dict.fromkeys(present, 1.0),
            over,
            dict.fromkeys(present, False),
            self._infos(seeing),
        )

    def colours(self, y: Int32Array, x: Int32Array) -> Int32Array:
        """Return what places look like now, from 0."""
        return (y * 7 + x * 3 + self.step_number) % NUM_COLOURS

    def _views(self, agents: list[str]) -> dict[str, Any]:
        views = {}
        for agent in agents:
            y, x = np.indices((SEES, SEES), np.int32) + np.array(self.places[agent])[:, None, None] - SEES // 2
            status = np.full((1, SEES), self.step_number, np.int32)
            cells = np.concatenate([self.colours(y, x), status]).astype(np.uint8)
            views[agent] = np.repeat(5 * cells.repeat(2, 0).repeat(2, 1)[..., None], 3, 2)
        return views

    def _infos(self, agents: list[str]) -> dict[str, Any]:
        return {agent: {"pose": tuple(self.places[agent])} for agent in agents}


class Unplaced(Waning):
    """The same without a map: each agent has a screen of its own."""

    view_layout = ViewLayout(rows=SEES + 1, cols=SEES, map_rows=0, tile_px=2)


class Blind(Waning):
    """Who leaves sees no more what it left by."""

    leaves_blind = True


class Walking:
    """All go to and fro."""

    def act(self, env: object, tick: int) -> Int32Array:
        """Return the joint action (3,)."""
        return np.array([1, 0, 1], np.int32)


class Lived:
    """A world of one such environment that lived, and what it did."""

    def __init__(self, env: Waning, num_ticks: int, *, version: int = 0) -> None:
        self.env, grounded = env, PettingZooGrounded(env, name="waning_worlds:make")
        self.spec = grounded.spec
        layout = self.spec.layout
        patches = np.broadcast_to(
            5 * np.arange(NUM_COLOURS, dtype=np.uint8)[:, None, None, None],
            (NUM_COLOURS, layout.tile_px, layout.tile_px, 3),
        )
        self.tokenizer = PatchTokenizer(layout, np.array(patches), NUM_COLOURS + 2)
        self.ticker = Ticker(self.spec, self.tokenizer, TickConfig(), small_config())
        if version:
            weights = stirred_model(self.spec, self.tokenizer.vocab_size).state_dict()
            self.ticker.load_weights(weights, version)
        snapshot = Snapshot.empty("grounded", 5, layout, len(self.spec.agents), 4)
        self.world = LiveWorld(WorldId("w"), "waning_worlds:make", snapshot, grounded, Walking(), ended=True)
        self.ticked: list[Ticked] = []
        for _ in range(num_ticks):
            self.tick()

    def tick(self) -> TickEffects:
        """Live one tick more."""
        self.ticked += self.ticker.tick([self.world])
        return self.ticked[-1].effects

    @property
    def rows(self) -> Transitions:
        """All training data."""
        return Transitions.stack([ticked.row for ticked in self.ticked if ticked.row is not None])


def test_an_agent_is_nowhere_from_the_step_after_the_one_it_left_with() -> None:
    env = PettingZooGrounded(Waning(), name="waning")
    env.reset(0)
    for number in range(1, max(LIVES) + 1):
        step = env.step(np.zeros(3, np.int32))
        assert gone(step.observed.poses).tolist() == [number > life for life in LIVES]
        assert step.terminated.tolist() == [number >= life for life in LIVES]
    assert gone(env.reset(0).poses).sum() == 0, "with a new episode all are back"


def test_an_agent_that_is_not_shown_what_it_leaves_by_is_nowhere_at_once() -> None:
    env = PettingZooGrounded(Blind(), name="blind")
    env.reset(0)
    for number in range(1, max(LIVES) + 1):
        assert gone(env.step(np.zeros(3, np.int32)).observed.poses).tolist() == [number >= life for life in LIVES]


def test_agents_that_have_left_are_far_from_everything_and_from_each_other() -> None:
    poses = np.concatenate([nowhere(4096), np.array([[0, 0], [1 << 29, -(1 << 29)]], np.int32)])
    apart = np.abs(poses[:, None].astype(np.int64) - poses[None]).max(axis=-1)
    assert apart[~np.eye(len(poses), dtype=bool)].min() >= 1 << 16
    assert apart.max() < 1 << 31, "differences fit into 32 bits"
    assert gone(poses).tolist() == [True] * 4096 + [False] * 2


@pytest.mark.parametrize("kind", [Waning, Blind])
def test_what_is_seen_is_never_overwritten_by_what_somebody_saw_who_has_left(kind: type[Waning]) -> None:
    lived = Lived(kind(), 1)
    for number in range(1, max(LIVES)):
        effects = lived.tick()
        here = ~gone(effects.poses)
        assert here.tolist() == [number < life or (number == life and kind is Waning) for life in LIVES]
        y, x = lived.ticker.window_cells(lived.world)
        inner = slice(1, 1 + SEES)
        y, x = y[here, inner, inner], x[here, inner, inner]
        tokens, _, seen_at = lived.world.snapshot.field.layers[MAP].read(y, x)
        np.testing.assert_array_equal(tokens[..., 0], lived.env.colours(y, x) + 1)
        assert (seen_at == effects.tick).all()
    assert lived.tokenizer.unknown_patches == 0


def test_a_place_that_only_somebody_saw_who_has_left_grows_old() -> None:
    lived = Lived(Waning(), 1 + LIVES[0])
    left = lived.world.snapshot.tick
    # In the corner of the first agent's view, where the second never looks.
    y, x = (np.array([value], np.int32) for value in lived.world.snapshot.poses[0] - 1)
    layer = lived.world.snapshot.field.layers[MAP]
    told = layer.read(y, x)
    assert told[2].tolist() == [left]
    for _ in range(LIVES[1] - LIVES[0]):
        lived.tick()
        for before, now in zip(told, layer.read(y, x), strict=True):
            np.testing.assert_array_equal(now, before)
    status, _, seen_at = lived.world.snapshot.field.layers[SCREEN].read(*np.indices((3, SEES), np.int32))
    assert seen_at[:, 0].tolist() == [left, lived.world.snapshot.tick, lived.world.snapshot.tick]
    assert status[:, 0, 0].tolist() == [1 + LIVES[0], 1 + LIVES[1], 1 + LIVES[1]]


def test_nothing_is_asked_of_the_window_of_an_agent_that_has_left() -> None:
    lived = Lived(Waning(), 1 + max(LIVES), version=1)
    rows = lived.rows
    left = gone(rows.poses)
    assert [int(ticks) for ticks in left.sum(axis=0)] == [max(LIVES) - life - 1 for life in LIVES[:2]] + [0]
    for name in ("tokens", "ages", "next_tokens"):
        assert not getattr(rows, name)[left].any(), name
    leaves = rows.displacement == ELSEWHERE
    assert leaves.sum(axis=0).tolist() == [1, 1, 0]
    assert (rows.displacement[left] == STAY).all()
    assert not rows.rewards[left].any() and rows.terminated[left].all()
    columns = {name: column[None] for name, column in rows.columns().items()}
    model = stirred_model(lived.spec, lived.tokenizer.vocab_size)
    batch = make_batch(
        columns,
        mask=model.mask,
        unknown_action=model.dynamics.unknown_action,
        config=MaskingConfig(),
        rng=np.random.default_rng(0),
    )
    asked = cells_asked(model, batch)
    agents = np.unravel_index(asked[asked >= 0].numpy(), batch.next_tokens.shape)[:2]
    assert not left[agents].any()
    assert set(agents[1].tolist()) == {0, 1, 2}, "those who are there are asked"
    assert torch.isfinite(world_model_loss(model, batch, LossConfig())["total"])


def test_what_others_see_of_the_place_that_an_agent_left_is_still_asked() -> None:
    lived = Lived(Waning(), 2 + LIVES[0])
    row = lived.ticked[-1].row
    assert row is not None and gone(lived.world.snapshot.poses).tolist() == [True, False, False]
    _, y, x = lived.world.snapshot.field.window_cells(row.poses[0], 1)
    seen = row.next_tokens[0, 0] != UNSEEN
    near = np.abs(np.stack([y[0], x[0]]) - lived.world.snapshot.poses[1][:, None, None]).max(axis=0) <= SEES // 2
    assert seen.any() and not seen.all()
    np.testing.assert_array_equal(seen, near)


def test_without_a_map_the_screen_of_an_agent_that_has_left_grows_old_and_is_not_asked_for() -> None:
    lived = Lived(Unplaced(), 1 + max(LIVES))
    rows = lived.rows
    for agent, life in enumerate(LIVES):
        assert rows.next_tokens[:life, agent].all() and not rows.next_tokens[life:, agent].any()
        assert (np.diff(rows.ages[life:, agent, 0, 0, -1].astype(int)) >= 0).all()
    assert rows.ages[-1, 0, 0, 0, -1] > rows.ages[-1, 1, 0, 0, -1] > rows.ages[-1, 2, 0, 0, -1]
    assert (rows.displacement == STAY).all()


@pytest.mark.parametrize("kind", [Waning, Unplaced, Blind])
def test_logged_ticks_of_agents_that_left_repeat_exactly_over_episodes(kind: type[Waning]) -> None:
    lived = Lived(kind(), 40, version=1)
    spec = lived.spec
    again = Snapshot.empty("grounded", 5, spec.layout, len(spec.agents), 4)
    for ticked in lived.ticked:
        again.apply(effects_of(effects_payload(ticked.effects)))
        again, _ = decode_snapshot(encode_snapshot(again))
    assert again.digest() == lived.world.snapshot.digest() and again.episode > 2


def test_a_world_from_which_agents_have_left_is_resumed_where_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    module = type(sys)("waning_worlds")
    module.make = Waning  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "waning_worlds", module)
    lived = Lived(Waning(), 2 + LIVES[0])
    kept, _ = decode_snapshot(encode_snapshot(lived.world.keyframe()))
    since = [lived.tick() for _ in range(LIVES[1] - LIVES[0])]
    resumed = resume(WorldId("w"), env_name="waning_worlds:make", snapshot=kept, effects=since)
    assert not resumed.lost_episode and not resumed.ended
    assert resumed.snapshot.digest() == lived.world.snapshot.digest()
    assert gone(resumed.snapshot.poses).tolist() == [True, True, False]


def test_who_has_left_does_not_come_back_in_a_dream_and_writes_nothing_there() -> None:
    lived = Lived(Waning(), 2 + LIVES[0], version=1)
    snapshot = fork_dream(lived.world.snapshot, 9)
    dream = LiveWorld(WorldId("d"), "waning_worlds:make", snapshot, None, None)
    chunks, status = snapshot.field.layers[MAP].num_chunks, snapshot.field.status()
    for _ in range(5):
        row = lived.ticker.tick([dream])[0].row
        assert row is not None and not row.next_tokens[0, 0].any()
        np.testing.assert_array_equal(snapshot.poses[0], nowhere(3)[0])
        assert not gone(snapshot.poses[1:]).any()
        assert row.terminated[0, 0] and not row.rewards[0, 0] and row.rewards[0, 1:].all()
    assert snapshot.field.layers[MAP].num_chunks <= chunks + 1
    np.testing.assert_array_equal(snapshot.field.status()[0], status[0])


def test_scores_are_of_those_who_are_there() -> None:
    lived = Lived(Waning(), 1 + max(LIVES), version=1)
    rows, model = lived.rows, stirred_model(lived.spec, lived.tokenizer.vocab_size)
    left = gone(rows.poses)

    def scored(ticks: Transitions) -> dict[str, MetricRow]:
        answers = ask(model, HeldOut(ticks, None))
        return edit_scores(answers, lived.tokenizer) | event_scores(answers).metrics

    scores = scored(rows)
    # Whatever would be true of somebody who has left, nothing is better or worse for it.
    for name, column in {"displacement": ELSEWHERE, "next_status": 7, "rewards": 3.0, "terminated": False}.items():
        other = getattr(rows, name).copy()
        other[left] = column
        for metric, row in scored(replace(rows, **{name: other})).items():
            # What follows is asked given what truly became of all agents, so bits of cells hear of it.
            assert row == scores[metric] or metric.startswith("nll_bits"), (name, metric)
    ours = ask(model, HeldOut(rows, None)).foretold["ours"].displacement == rows.displacement
    assert scores["displacement"].value == pytest.approx(ours[~left].mean())
    believed = ask(model, HeldOut(rows, None)).foretold["ours"].ending[~left]
    assert scores["termination_brier"].value == pytest.approx(((believed - rows.terminated[~left]) ** 2).mean())


def test_history_tells_no_place_of_an_agent_that_has_left() -> None:
    lived = Lived(Waning(), 3 + LIVES[0])
    empty = Snapshot.empty("grounded", 5, lived.spec.layout, 3, 4)
    deeds = [story.deeds[0] for story in stories(empty, [ticked.effects for ticked in lived.ticked])]
    assert [deed.pose is None for deed in deeds] == [False] * (1 + LIVES[0]) + [True] * 2
    assert [deed.moved for deed in deeds[-2:]] == [(0, 0)] * 2
    earlier = Lived(Waning(), LIVES[0]).world.snapshot
    elsewhere = {agent: places for agent, *places in difference(earlier, lived.world.snapshot).poses}
    assert elsewhere[0] == [(5, 5), None]
