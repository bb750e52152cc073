"""What world events promise of a tick: truth executes them, dreams are told them, and every replay meets them again."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.model_cases import CountingEnv, counting_ticker, counting_world, small_config, stirred_model
from world.dream import Dreamt
from world.envs.catalog import make_env
from world.envs.grounded import EVENT_REACH, Int32Array
from world.envs.homestead.events import RAIN, WALL
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.tiles import Thing
from world.errors import ConfigError
from world.event import MAX_EVENTS, WorldEvent, event_slots
from world.live import LiveWorld, begin, fork_dream, resume
from world.model.slots import Slots
from world.model.tokenizer import PatchTokenizer, build_codebook
from world.snapshot import Snapshot, WorldId
from world.tick import TickConfig, Ticker

HOMESTEAD = "homestead:16x16x2"
NOBODY_DOES = np.zeros((1, 2), np.int32)


def ticker_of(rate: float, *, version: int = 0) -> Ticker:
    env = make_env(HOMESTEAD)
    env.reset(1)
    tokenizer = PatchTokenizer(env.spec.layout, build_codebook(env.survey(), 200), 256)  # type: ignore[attr-defined]
    ticker = Ticker(env.spec, tokenizer, TickConfig(event_rate=rate), small_config())
    if version:
        ticker.load_weights(stirred_model(env.spec, 256).state_dict(), version)
    return ticker


def lived(ticker: Ticker, ticks: int = 3) -> LiveWorld:
    world = begin(WorldId("w"), env_name=HOMESTEAD, seed=2, memory_size=4)
    for _ in range(ticks):
        ticker.tick([world])
    return world


def copy_of(snapshot: Snapshot) -> Snapshot:
    return replace(snapshot, field=snapshot.field.copy(), poses=snapshot.poses.copy(), memory=snapshot.memory.copy())


def simulation(world: LiveWorld) -> Any:
    assert isinstance(world.env, HomesteadGrounded)
    return world.env.simulation


def test_truth_executes_what_it_is_told_and_says_so_in_effects_and_row() -> None:
    ticker = ticker_of(0.0)
    world, twin = lived(ticker), lived(ticker)
    place = (int(world.snapshot.poses[0, 0]), int(world.snapshot.poses[0, 1]))
    told = np.stack([event_slots([WorldEvent(WALL, *place), WorldEvent(RAIN, 0, 0)]), event_slots([])])
    done, quiet = ticker.tick([world, twin], np.repeat(NOBODY_DOES, 2, axis=0), told)
    assert done.effects.events.tolist() == [[WALL, *place], [RAIN, 0, 0]] and quiet.effects.events.shape == (0, 3)
    assert done.row is not None and quiet.row is not None
    np.testing.assert_array_equal(done.row.events[0], told[0])
    assert done.row.events.dtype == np.int32 and not quiet.row.events.any()
    stones = [np.flatnonzero(simulation(w).state.thing == Thing.STONE) for w in (world, twin)]
    risen = np.stack(np.divmod(np.setdiff1d(*stones), 16), axis=1)
    assert len(risen) and (risen[:, 0] == place[0]).all() and (np.abs(risen[:, 1] - place[1]) <= EVENT_REACH).all()
    # Seen by the agent in the middle, so among the changes of its field.
    assert {tuple(cell) for cell in risen.tolist()} <= {
        (y, x) for y, x in zip(done.effects.changes.y.tolist(), done.effects.changes.x.tolist(), strict=True)
    }


def test_events_befall_by_themselves_at_their_rate_in_view_of_somebody_and_the_same_again() -> None:
    ticker = ticker_of(0.25)
    logs = []
    for _ in range(2):
        world, log = lived(ticker, 1), []
        for _ in range(200):
            poses = world.snapshot.poses
            events = ticker.tick([world])[0].effects.events
            for _, y, x in events.tolist():
                assert (np.abs(poses - (y, x)).max(axis=1) <= 4).any()
            log.append(events.tolist())
        assert simulation(world).state.tick == 200 and world.env.invariants() == ()  # type: ignore[union-attr]
        logs.append(log)
    assert logs[0] == logs[1]
    assert 30 < sum(bool(events) for events in logs[0]) < 75
    assert {kind for events in logs[0] for kind, _, _ in events} == {1, 2, 3, 4}


def test_what_is_told_comes_before_what_befalls_and_there_is_room_for_four() -> None:
    ticker = ticker_of(1.0)
    told = event_slots([WorldEvent(WALL, 90 + i, 90) for i in range(3)])
    for _ in range(5):
        events = ticker.tick([lived(ticker)], NOBODY_DOES, told[None])[0].effects.events
        assert len(events) == MAX_EVENTS and events[:3].tolist() == told[:3].tolist()
    full = event_slots([WorldEvent(WALL, 90 + i, 90) for i in range(4)])
    assert ticker.tick([lived(ticker)], NOBODY_DOES, full[None])[0].effects.events.tolist() == full.tolist()


def test_nothing_befalls_a_reset_nor_an_environment_that_executes_none() -> None:
    ticker = ticker_of(1.0)
    world = lived(ticker, 0)
    assert ticker.tick([world])[0].effects.events.shape == (0, 3)
    counting = CountingEnv(length=10)
    world, ticker = counting_world(counting), counting_ticker(counting)
    assert not any(len(ticker.tick([world])[0].effects.events) for _ in range(30))


def test_a_resumed_world_met_the_same_events_and_is_the_same_to_the_byte() -> None:
    ticker = ticker_of(0.5, version=1)
    world = lived(ticker, 1)
    keyframe = world.keyframe()
    start = replace(copy_of(world.snapshot), env=keyframe.env)
    effects = [ticker.tick([world])[0].effects for _ in range(60)]
    assert sum(len(tick.events) for tick in effects) > 15
    again = resume(WorldId("w"), env_name=HOMESTEAD, snapshot=start, effects=effects)
    assert not again.lost_episode and again.snapshot.digest() == world.snapshot.digest()
    assert simulation(again).to_bytes() == simulation(world).to_bytes()
    # Whatever befell by itself is in the log: a host with another rate replays it all the same, and without it is lost.
    silent = [replace(tick, events=np.zeros((0, 3), np.int32)) for tick in effects]
    start = replace(copy_of(lived(ticker, 1).snapshot), env=keyframe.env)
    other = resume(WorldId("w"), env_name=HOMESTEAD, snapshot=start, effects=silent)
    assert simulation(other).to_bytes() != simulation(world).to_bytes()


class Listening:
    """A dreamer that notes what it is told, and lets the real one dream."""

    def __init__(self, dreamer: Any) -> None:
        self._dreamer, self.events = dreamer, list[Int32Array]()

    def tick(self, slots: Slots, *arguments: Any) -> Dreamt:
        self.events.append(slots.events.numpy())
        dreamt: Dreamt = self._dreamer.tick(slots, *arguments)
        return dreamt


def test_dreams_are_told_events_from_outside_and_no_others() -> None:
    ticker = ticker_of(1.0, version=1)
    listening = Listening(ticker._dreamer)
    ticker._dreamer = listening  # type: ignore[assignment]
    world = lived(ticker)
    dreams = [
        LiveWorld(WorldId(f"d{i}"), HOMESTEAD, fork_dream(copy_of(world.snapshot), 5), None, None) for i in range(2)
    ]
    told = np.stack([event_slots([]), event_slots([WorldEvent(WALL, 5, 5)])])
    quiet, befallen = ticker.tick(dreams, None, told)
    np.testing.assert_array_equal(listening.events[0], told)
    assert quiet.effects.events.shape == (0, 3) and befallen.effects.events.tolist() == [[WALL, 5, 5]]
    assert befallen.row is not None and befallen.row.events[0].tolist() == told[1].tolist()
    ticker.tick(dreams)
    assert not listening.events[1].any()


@pytest.mark.parametrize("rate", [-0.1, 1.1])
def test_impossible_rates_are_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="event_rate"):
        TickConfig(event_rate=rate)
