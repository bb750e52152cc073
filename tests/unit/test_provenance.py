"""Who changed which cell, inferred from logged effects, agrees with what a world that knows its causes says."""

from itertools import pairwise

import numpy as np
import pytest

from tests.store_cases import LivingField
from world.difference import difference
from world.envs.catalog import make_env
from world.envs.grounded import BY_EVENT, EVENT_REACH
from world.envs.homestead.events import RAIN
from world.envs.homestead.grounded import HomesteadGrounded
from world.errors import ConfigError
from world.event import WorldEvent
from world.live import begin
from world.model.world_model import WorldModelConfig
from world.provenance import cell_changes, stories
from world.snapshot import Snapshot, WorldId
from world.store.codec import decode_snapshot, encode_snapshot
from world.tick import TickConfig, Ticker
from world.warmup import WarmupConfig, make_tokenizer


def copy_of(snapshot: Snapshot) -> Snapshot:
    """Return an equal snapshot that shares nothing."""
    return decode_snapshot(encode_snapshot(snapshot))[0]


def test_inferred_causes_agree_with_the_truth_of_homestead() -> None:
    env = make_env("homestead")
    config = WarmupConfig(explored_seeds=1, explored_ticks=20, surveyed_seeds=12)
    tokenizer = make_tokenizer(env, config, lambda doing, done: None)
    ticker = Ticker(env.spec, tokenizer, TickConfig(event_rate=0.1), WorldModelConfig())
    live = begin(WorldId("w"), env_name="homestead", seed=3, memory_size=16)
    ticker.tick([live])
    start, effects, truths = copy_of(live.snapshot), [], {}
    for _ in range(400):
        effects.append(ticker.tick([live])[0].effects)
        assert isinstance(live.env, HomesteadGrounded)
        causes = live.env.causes(live.env.simulation.state.tick)
        truths[effects[-1].tick] = {(int(y), int(x)): int(cause) for y, x, cause in causes}
    by_agents = by_nature = by_events = right_agents = right_nature = right_events = 0
    for story in stories(copy_of(start), effects):
        for change in story.changes:
            truth = truths[story.tick].get((change.y, change.x))
            if change.layer != "map" or truth is None or change.cause in ("seen first", "unwatched"):
                continue
            if truth >= 0:
                by_agents += 1
                right_agents += change.cause in ("moved", "acted") and change.agents == (truth,)
            elif truth == BY_EVENT:
                by_events += 1
                told = [story.events[index] for index in change.events]
                right_events += change.cause == "event" and all(
                    max(abs(event.y - change.y), abs(event.x - change.x)) <= EVENT_REACH for event in told
                )
            elif change.cause == "event":
                assert any(story.events[index].kind == RAIN for index in change.events), "chance, and no rain"
            else:
                by_nature += 1
                right_nature += change.cause == "nature"
    assert by_agents > 500
    assert right_agents / by_agents > 0.98
    assert by_events > 30
    assert right_events / by_events > 0.95
    assert by_nature > 10
    assert right_nature / by_nature > 0.8


def test_every_change_of_a_cell_is_told_with_what_it_was_before() -> None:
    life = LivingField(3)
    start = copy_of(life.snapshot)
    effects = life.steps(80)
    changed = [(int(y), int(x)) for tick in effects for y, x in zip(tick.changes.y, tick.changes.x, strict=True)]
    y, x = max(set(changed), key=changed.count)
    told = list(cell_changes(copy_of(start), effects, y, x))
    assert len(told) == sum(
        bool(((tick.changes.layer == 0) & (tick.changes.y == y) & (tick.changes.x == x)).any()) for tick in effects
    )
    assert told[0].before == 0
    assert told[0].cause in ("seen first", "reset")
    for former, latter in pairwise(told):
        assert (latter.before, latter.since >= former.tick) == (former.after, True)
    assert told[-1].after == int(life.snapshot.field.layers[0].current(np.array([y]), np.array([x]))[0])
    whole = [change for story in stories(copy_of(start), effects) for change in story.changes]
    assert [change for change in whole if (change.layer, change.y, change.x) == ("map", y, x)] == told


def test_stories_tell_what_every_agent_did_and_what_befell() -> None:
    life = LivingField(4)
    start, effects = copy_of(life.snapshot), life.steps(7)
    told = list(stories(start, effects))
    assert [story.tick for story in told] == [1, 2, 3, 4, 5, 6, 7]
    assert [story.events for story in told] == [()] * 6 + [(WorldEvent(2, 7, -7),)]
    assert told[0].is_first
    assert {change.cause for change in told[0].changes} == {"reset"}
    for story, tick in zip(told, effects, strict=True):
        assert [deed.action for deed in story.deeds] == tick.actions.tolist()
        assert [deed.pose for deed in story.deeds] == [tuple(pose) for pose in tick.poses.tolist()]
    moved = np.array([deed.moved for deed in told[2].deeds])
    assert (moved == effects[2].poses - effects[1].poses).all()


def test_worlds_differ_in_the_cells_and_poses_that_differ() -> None:
    one, other = LivingField(3), LivingField(3)
    one.steps(10)
    other.steps(10)
    same = difference(one.snapshot, other.snapshot)
    assert (same.same_state, same.cells, same.poses) == (True, (), ())
    other.step(salt=1)
    found = difference(one.snapshot, other.snapshot)
    assert not found.same_state
    layer = one.snapshot.field.layers[0], other.snapshot.field.layers[0]
    assert found.cells
    for cell in found.cells:
        if cell.layer == "map":
            place = np.array([cell.y]), np.array([cell.x])
            assert (int(layer[0].current(*place)[0]), int(layer[1].current(*place)[0])) == (cell.one, cell.other)
            assert cell.one != cell.other
    for agent, a, b in found.poses:
        assert a == tuple(one.snapshot.poses[agent].tolist())
        assert b == tuple(other.snapshot.poses[agent].tolist())


def test_worlds_of_different_layouts_cannot_be_compared() -> None:
    env = make_env("homestead:16x16x2")
    other = Snapshot.empty("dreamed", 0, env.spec.layout, 2, 0)
    with pytest.raises(ConfigError, match="layout"):
        difference(LivingField(1).snapshot, other)
