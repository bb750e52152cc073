"""What the shipped weights promise: in worlds they never met, every question is answered better than its baseline."""

import json
from typing import Any

import numpy as np
import pytest

from cluster.evaluation import EvaluationRequest, judge
from learner.restored import restore
from learner.start import start_path
from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.events import WALL
from world.envs.homestead.tiles import THING_CODE, Thing
from world.evaluation.codes import CodeTable
from world.event import event_slots
from world.field import MAP
from world.live import LiveWorld, begin, fork_dream
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.warmup import spec_of


def _judged(protocol: str, capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    request = EvaluationRequest(
        source=start_path("homestead-tiny"),
        protocol=protocol,
        world="homestead",
        seeds="200-203",
        ticks=None,
        tokenizer=None,
        quick=True,
        out=None,
    )
    assert judge(request, as_json=True) is False
    found: dict[str, Any] = json.loads(capsys.readouterr().out)["metrics"]
    return found


def test_what_follows_on_an_action_is_foretold_better_than_by_copying(capsys: pytest.CaptureFixture[str]) -> None:
    found = _judged("one-step", capsys)
    for name in ("changed_f1_known", "changed_f1_all", "displacement"):
        assert found[name]["low"] > found[name]["copy_last"], name


def test_the_other_questions_are_answered_better_than_by_who_is_not_asked(capsys: pytest.CaptureFixture[str]) -> None:
    found = _judged("questions", capsys)
    assert found["inverse_accuracy"]["low"] > found["inverse_accuracy"]["copy_last"]
    assert found["fill_bits"]["high"] < found["fill_bits"]["copy_last"]
    assert found["filter_gain_bits"]["value"] > 0


def test_a_wall_rises_in_dreams_where_it_is_told_to() -> None:
    restored, spec = restore(start_path("homestead-tiny")), spec_of("homestead", 4)
    table = CodeTable.of(restored.tokenizer)
    assert table is not None
    ticker = Ticker(spec, restored.tokenizer, TickConfig(event_rate=0.0), restored.model_config)
    ticker.load_weights(restored.weights, restored.version)
    truths = [begin(WorldId(f"w{seed}"), env_name="homestead", seed=seed, memory_size=16) for seed in range(900, 912)]
    for _ in range(40):
        ticker.tick(truths)
    dreams = {name: [_dream(world, name) for world in truths] for name in ("told", "untold")}
    places = np.stack([world.snapshot.poses[0] + (2, 0) for world in truths])
    events = np.stack([event_slots(np.array([[WALL, *place]], np.int32)) for place in places])
    still = np.zeros((len(truths), 4), np.int32)
    ticker.tick(truths, still, events)
    ticker.tick(dreams["told"], still, events)
    ticker.tick(dreams["untold"], still)
    truth, told, untold = (_stones(worlds, places, table) for worlds in (truths, *dreams.values()))
    risen = truth & ~untold
    assert risen.sum() > 20 and (told & risen).sum() > 0.9 * risen.sum()
    assert (told & ~truth).sum() < 0.1 * risen.sum()


def _dream(world: LiveWorld, name: str) -> LiveWorld:
    return LiveWorld(WorldId(f"{world.world}-{name}"), world.env_name, fork_dream(world.snapshot, 1), None, None)


def _stones(worlds: list[LiveWorld], places: Int32Array, table: CodeTable) -> BoolArray:
    """Return where (n, 5) in the row about each place a stone lies, as the worlds have it."""
    cells = [(np.full(5, y), x + np.arange(-2, 3)) for y, x in places]
    found = [world.snapshot.field.layers[MAP].current(*of) for world, of in zip(worlds, cells, strict=True)]
    stones: BoolArray = table.codes(np.stack(found)) == THING_CODE + Thing.STONE
    return stones
