"""What a tick promises: nothing skipped, nothing repeated, and effects from which it can be had again."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from tests.model_cases import CountingEnv, CyclingPolicy, counting_ticker, counting_world, small_config, stirred_model
from world import live as live_module
from world.envs.catalog import make_env
from world.envs.grounded import Int32Array, Stepped
from world.envs.homestead.rules import Simulation
from world.errors import ConfigError, EnvironmentUnusable, LivingWorldsError
from world.live import LiveWorld, begin, fork_dream, resume
from world.model.tokenizer import PatchTokenizer, build_codebook
from world.snapshot import Snapshot, TickEffects, WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions

HOMESTEAD = "homestead:16x16x2"


def _copy(snapshot: Snapshot) -> Snapshot:
    """What a store would hold: nothing shared with the world that goes on."""
    return replace(snapshot, field=snapshot.field.copy(), poses=snapshot.poses.copy(), memory=snapshot.memory.copy())


def _homestead_ticker(*, version: int = 0, env_name: str = HOMESTEAD) -> Ticker:
    env = make_env(env_name)
    env.reset(1)
    tokenizer = PatchTokenizer(env.spec.layout, build_codebook(env.survey(), 200), 256)  # type: ignore[attr-defined]
    ticker = Ticker(env.spec, tokenizer, TickConfig(), small_config())
    if version:
        ticker.load_weights(stirred_model(env.spec, 256).state_dict(), version)
    return ticker


def _empty(like: Snapshot) -> Snapshot:
    return Snapshot.empty("grounded", like.seed, like.field.layout, like.field.num_agents, like.memory.shape[1])


def _assert_same_effects(mine: TickEffects, its: TickEffects) -> None:
    assert (mine.tick, mine.is_first, mine.state_digest) == (its.tick, its.is_first, its.state_digest)
    for name in ("poses", "actions", "events", "rewards", "terminated", "truncated", "memory"):
        np.testing.assert_array_equal(getattr(mine, name), getattr(its, name), err_msg=name)
    for name in ("layer", "y", "x", "token"):
        np.testing.assert_array_equal(getattr(mine.changes, name), getattr(its.changes, name), err_msg=name)


def _assert_same_rows(mine: Transitions | None, its: Transitions | None) -> None:
    assert (mine is None) == (its is None)
    if mine is not None and its is not None:
        for name, column in mine.columns().items():
            np.testing.assert_array_equal(column, its.columns()[name], err_msg=name)


@pytest.mark.parametrize("map_rows", [0, 3, 4])
def test_effects_repeat_hundreds_of_ticks_over_many_episodes(map_rows: int) -> None:
    env = CountingEnv(map_rows=map_rows, length=37)
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    again = _empty(world.snapshot)
    for _ in range(200):
        again.apply(ticker.tick([world])[0].effects)
    assert again.digest() == world.snapshot.digest()
    assert again.tick == 200 and again.episode == env.resets == 6


def test_effects_repeat_a_homestead() -> None:
    ticker = _homestead_ticker(version=1)
    world = begin(WorldId("w"), env_name=HOMESTEAD, seed=2, memory_size=4)
    again = _empty(world.snapshot)
    for _ in range(200):
        again.apply(ticker.tick([world])[0].effects)
    assert again.digest() == world.snapshot.digest()


def test_no_tick_is_skipped_or_repeated() -> None:
    env = CountingEnv(length=10)
    world, ticker = counting_world(env), counting_ticker(env)
    for tick in range(1, 34):
        ticked = ticker.tick([world])[0]
        in_episode = (tick - 1) % 11
        assert ticked.effects.tick == world.snapshot.tick == tick
        assert env.tick == in_episode and ticked.effects.is_first is (in_episode == 0)
        assert (ticked.row is None) is (in_episode == 0)
        assert (world.snapshot.field.status()[:, 0] == in_episode + 1).all()
        assert ticked.effects.terminated.all() == world.ended == (in_episode == 10)
        if ticked.row is not None:
            assert ticked.row.rewards[0, 0] == in_episode
            assert ticked.row.is_first.tolist() == [in_episode == 1]
            assert ticked.row.status[0, :, 0].tolist() == [in_episode] * 2
            assert ticked.row.next_status[0, :, 0].tolist() == [in_episode + 1] * 2
    assert (env.resets, env.steps) == (3, 30)


def test_a_row_tells_what_was_known_before_and_seen_after() -> None:
    env = CountingEnv()
    world, ticker = counting_world(env), counting_ticker(env)
    ticker.tick([world])
    for _ in range(30):
        before, poses = world.snapshot.field.windows(world.snapshot.poses, world.snapshot.tick, 1), env.poses.copy()
        row = ticker.tick([world])[0].row
        assert row is not None
        np.testing.assert_array_equal(row.tokens[0], before.tokens)
        np.testing.assert_array_equal(row.ages[0], before.ages)
        np.testing.assert_array_equal(row.poses[0], poses)
        padded = np.pad(env.cells, 16, constant_values=63) + 1
        seen = np.zeros((44, 44), np.bool_)
        for y, x in env.poses + 16:
            seen[y - 1 : y + 2, x - 1 : x + 2] = True
        for agent, (y, x) in enumerate(poses + 16):
            now = np.where(seen, padded, 0)[y - 2 : y + 3, x - 2 : x + 3]
            np.testing.assert_array_equal(row.next_tokens[0, agent], now)
        y, x = divmod(env.tick * 31 % 144, 12)
        for agent in range(2):
            chance = np.argwhere(row.by_chance[0, agent]) - 2 + poses[agent]
            assert chance.tolist() in ([], [[y, x]])


def test_a_reset_forgets_the_field_and_memory_of_the_episode_before() -> None:
    env = CountingEnv(length=6)
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    for _ in range(7):
        ticker.tick([world])
    assert world.ended and world.snapshot.memory.any()
    effects = ticker.tick([world])[0].effects
    assert effects.is_first and not effects.memory.any() and not effects.actions.any() and not effects.rewards.any()
    set_at = world.snapshot.field.layers[0].arrays()["set_at"]
    assert set_at.max() == 8 and set(np.unique(set_at)) == {-1, 8}


@pytest.mark.parametrize("map_rows", [0, 3])
@pytest.mark.parametrize("keyframe_at", range(1, 13))
@pytest.mark.parametrize("logged", [0, 1, 2, 7])
def test_a_resumed_world_goes_on_exactly_like_the_uninterrupted_one(
    map_rows: int, keyframe_at: int, logged: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the tick of the keyframe: a reset, the last of an episode, or any between."""

    def make(name: str = "", **_: object) -> CountingEnv:
        return CountingEnv(map_rows=map_rows, length=5)

    _resume_with(monkeypatch, make)
    env = make()
    world, ticker = counting_world(env), counting_ticker(env, version=1)
    for _ in range(keyframe_at):
        ticker.tick([world])
    keyframe = _copy(world.keyframe())
    effects = [ticker.tick([world])[0].effects for _ in range(logged)]
    again = resume(world.world, env_name="counting", snapshot=keyframe, effects=effects)
    assert not again.lost_episode
    assert (again.ended, again.is_first) == (world.ended, world.is_first)
    assert again.snapshot.digest() == world.snapshot.digest()
    assert again.env is not None and (again.ended or again.env.snapshot()[8:16] == env.snapshot()[8:16])
    for _ in range(8):
        mine, its = ticker.tick([world])[0], ticker.tick([again])[0]
        _assert_same_effects(its.effects, mine.effects)
        _assert_same_rows(its.row, mine.row)


@pytest.mark.parametrize("logged", [0, 9])
def test_a_resumed_homestead_goes_on_exactly_under_the_same_actions(logged: int) -> None:
    ticker = _homestead_ticker(version=1)
    world = begin(WorldId("w"), env_name=HOMESTEAD, seed=2, memory_size=4)
    for _ in range(40):
        ticker.tick([world])
    keyframe = _copy(world.keyframe())
    effects = [ticker.tick([world])[0].effects for _ in range(logged)]
    again = resume(world.world, env_name=HOMESTEAD, snapshot=keyframe, effects=effects)
    assert not again.lost_episode and world.env is not None and again.env is not None
    assert again.env.snapshot() == world.env.snapshot()
    for _ in range(30):
        mine = ticker.tick([world])[0]
        its = ticker.tick([again], mine.effects.actions[None])[0]
        _assert_same_effects(its.effects, mine.effects)
        _assert_same_rows(its.row, mine.row)
    assert again.env.snapshot() == world.env.snapshot()


class Forgetful(CountingEnv):
    """Does not reproduce its own past."""

    def step(self, actions: Int32Array) -> Stepped:
        """Rewards depend on how often this process has stepped."""
        step = super().step(actions)
        return replace(step, rewards=step.rewards + 100 * self.steps)


class Unrestorable(CountingEnv):
    """Cannot be restored."""

    def restore(self, blob: bytes) -> object:  # type: ignore[override]
        """Never."""
        raise EnvironmentUnusable("it was made by another version")


@pytest.mark.parametrize(("kind", "why"), [(Forgetful, "other rewards"), (Unrestorable, "another version")])
def test_an_environment_that_does_not_reproduce_its_past_begins_a_new_episode_and_keeps_the_history(
    kind: type[CountingEnv], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    _resume_with(monkeypatch, lambda *_, **__: kind(map_rows=0, length=50))
    env = kind(map_rows=0, length=50)
    world, ticker = counting_world(env), counting_ticker(env)
    for _ in range(4):
        ticker.tick([world])
    keyframe = _copy(world.keyframe())
    effects = [ticker.tick([world])[0].effects for _ in range(3)]
    again = resume(world.world, env_name="counting", snapshot=keyframe, effects=effects)
    assert why in again.lost_episode and again.ended
    assert again.snapshot.digest() == world.snapshot.digest()
    ticked = ticker.tick([again])[0].effects
    assert ticked.is_first and ticked.tick == 8 and again.snapshot.episode == 2


def test_a_lost_episode_is_forgotten_where_the_log_begins_another(monkeypatch: pytest.MonkeyPatch) -> None:
    _resume_with(monkeypatch, lambda *_, **__: Unrestorable(length=5))
    env = Unrestorable(length=5)
    world, ticker = counting_world(env), counting_ticker(env)
    for _ in range(3):
        ticker.tick([world])
    keyframe = _copy(world.keyframe())
    effects = [ticker.tick([world])[0].effects for _ in range(6)]
    again = resume(world.world, env_name="counting", snapshot=keyframe, effects=effects)
    assert not again.lost_episode and not again.ended
    mine, its = ticker.tick([world])[0], ticker.tick([again])[0]
    _assert_same_effects(its.effects, mine.effects)


def test_grounded_reset_and_dreamed_worlds_tick_together_and_answer_in_order() -> None:
    env, other = CountingEnv(), CountingEnv(length=3)
    ticker = counting_ticker(env, version=3)
    steady, brief = counting_world(env, seed=1), counting_world(other, seed=2, world="b")
    for _ in range(4):
        ticker.tick([steady, brief])
    assert brief.ended and not steady.ended
    dream = LiveWorld(WorldId("d"), "counting", fork_dream(steady.snapshot, 9), None, None)
    ticked = ticker.tick([brief, dream, steady])
    assert [tick.effects.is_first for tick in ticked] == [True, False, False]
    assert [world.snapshot.tick for world in (brief, dream, steady)] == [5, 5, 5]
    assert steady.snapshot.digest() == ticked[2].effects.state_digest
    assert dream.snapshot.digest() == ticked[1].effects.state_digest
    assert {tick.effects.weights_version for tick in ticked} == {3}


@pytest.mark.parametrize("map_rows", [0, 3, 4])
def test_a_dream_advances_and_is_repeated_from_its_effects(map_rows: int) -> None:
    env = CountingEnv(map_rows=map_rows)
    ticker, truth = counting_ticker(env, version=1), counting_world(env)
    for _ in range(5):
        ticker.tick([truth])
    origin = fork_dream(truth.snapshot, seed=11)
    dream = LiveWorld(WorldId("d"), "counting", _copy(origin), None, None)
    effects = [ticker.tick([dream])[0].effects for _ in range(60)]
    again = resume(WorldId("d"), env_name="counting", snapshot=_copy(origin), effects=effects)
    assert again.snapshot.digest() == dream.snapshot.digest() and again.snapshot.tick == 65
    assert any(len(tick.changes.token) for tick in effects)
    assert (dream.snapshot.poses == truth.snapshot.poses).all() or map_rows
    assert truth.snapshot.digest() == fork_dream(origin, truth.snapshot.seed).digest(), "the origin is untouched"
    half = resume(WorldId("d"), env_name="counting", snapshot=_copy(origin), effects=effects[:30])
    for tick in effects[30:]:
        _assert_same_effects(ticker.tick([half])[0].effects, tick)


def test_agents_of_a_homestead_never_dream_themselves_onto_one_cell() -> None:
    ticker = _homestead_ticker(version=1, env_name="homestead:16x16x8")
    world = begin(WorldId("w"), env_name="homestead:16x16x8", seed=3, memory_size=4)
    ticker.tick([world])
    dream = replace(world, snapshot=fork_dream(world.snapshot, 5), env=None, policy=None)
    for _ in range(60):
        ticker.tick([dream])
        assert len(np.unique(dream.snapshot.poses, axis=0)) == 8


def test_agents_of_a_dream_see_one_truth() -> None:
    env = CountingEnv(map_rows=4, cols=4)
    ticker, truth = counting_ticker(env, version=1), counting_world(env)
    for _ in range(3):
        ticker.tick([truth])
    dream = LiveWorld(WorldId("d"), "counting", fork_dream(truth.snapshot, seed=4), None, None)
    dream.snapshot.poses = np.array([[5, 5], [6, 6]], np.int32)
    for _ in range(20):
        row = ticker.tick([dream])[0].row
        assert row is not None
        places: dict[tuple[int, int], int] = {}
        for agent, (y, x) in enumerate(row.poses[0].tolist()):
            for (i, j), token in np.ndenumerate(row.next_tokens[0, agent]):
                if token:
                    assert places.setdefault((y + i - 3, x + j - 3), token) == token


def test_the_model_is_told_what_was_dreamed() -> None:
    env = CountingEnv()
    grounded, ticker = counting_world(env), counting_ticker(env, version=1)
    ticker.tick([grounded])
    dream = replace(grounded, snapshot=fork_dream(grounded.snapshot, 7), env=None, policy=None)
    slots = ticker.slots([grounded, dream], [ticker.windows(world) for world in (grounded, dream)])
    assert slots.dreamed.tolist() == [0, 1]


def test_given_actions_are_taken_by_grounded_and_dreamed_worlds() -> None:
    env = CountingEnv()
    ticker, world = counting_ticker(env, version=1), counting_world(env)
    ticker.tick([world])
    dream = LiveWorld(WorldId("d"), "counting", fork_dream(world.snapshot, 1), None, None)
    given = np.array([[1, 2], [3, 4]], np.int32)
    before = env.poses.copy()
    for ticked, actions in zip(ticker.tick([world, dream], given), given, strict=True):
        np.testing.assert_array_equal(ticked.effects.actions, actions)
    np.testing.assert_array_equal(env.poses - before, [[-1, 0], [0, 1]])


def test_nobody_dreams_without_weights() -> None:
    env = CountingEnv()
    ticker, world = counting_ticker(env), counting_world(env)
    ticker.tick([world])
    dream = LiveWorld(WorldId("d"), "counting", fork_dream(world.snapshot, 1), None, None)
    with pytest.raises(LivingWorldsError, match="no weights"):
        ticker.tick([dream])


def test_weights_of_another_model_are_refused_whole() -> None:
    env = CountingEnv()
    ticker = counting_ticker(env, version=1)
    before = {name: tensor.clone() for name, tensor in ticker.model.state_dict().items()}
    other = stirred_model(env.spec, 65, small_config(memory_size=5), seed=9).state_dict()
    with pytest.raises(LivingWorldsError, match="another model"):
        ticker.load_weights(other, 2)
    assert ticker.weights_version == 1
    assert all((tensor == before[name]).all() for name, tensor in ticker.model.state_dict().items())


def test_memory_rests_without_weights_and_moves_with_them() -> None:
    env = CountingEnv()
    world = counting_world(env)
    counting_ticker(env).tick([world])
    ticked = counting_ticker(env).tick([world])[0]
    assert not ticked.effects.memory.any() and ticked.effects.weights_version == 0
    ticked = counting_ticker(env, version=7).tick([world])[0]
    assert ticked.effects.memory.any() and ticked.effects.weights_version == 7
    assert ticked.row is not None and not ticked.row.memory.any(), "a row holds what was known before the tick"


def test_a_margin_that_a_move_would_leave_is_refused() -> None:
    with pytest.raises(ConfigError, match="margin"):
        TickConfig(margin=0)


def _resume_with(monkeypatch: pytest.MonkeyPatch, make: Callable[..., CountingEnv]) -> None:
    monkeypatch.setattr(live_module, "make_env", make)
    monkeypatch.setattr(live_module, "make_policy", lambda *_: CyclingPolicy())


def test_agents_act_in_the_order_that_the_model_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    acted: list[int] = []
    act = Simulation._act

    def listen(self: Simulation, agent: int, action: int) -> None:
        acted.append(agent)
        act(self, agent, action)

    monkeypatch.setattr(Simulation, "_act", listen)
    name = "homestead:16x16x4"
    ticker, world = _homestead_ticker(env_name=name), begin(WorldId("w"), env_name=name, seed=3, memory_size=4)
    for _ in range(12):
        acted.clear()
        row = ticker.tick([world])[0].row
        if row is not None:
            assert np.argsort(row.turns[0]).tolist() == acted
