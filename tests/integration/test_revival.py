"""Dreams survive the death of every process: the host, and the server, between two ticks that somebody waits for."""

import numpy as np
import pytest
from torch import Tensor

from tests.evaluation_cases import every_look
from tests.model_cases import small_config, stirred_model
from world.errors import StoreError
from world.evaluation.plays import revival
from world.evaluation.plays.revival import Reviver
from world.live import LiveWorld, begin, fork_dream
from world.snapshot import Snapshot, WorldId
from world.tick import TickConfig, Ticker
from world.warmup import spec_of

ENV = "homestead:20x20x2"


def _reviver(weights: dict[str, Tensor]) -> Reviver:
    return Reviver(
        env_name=ENV,
        num_agents=2,
        model_config=small_config(),
        weights=weights,
        weights_version=3,
        tokenizer=every_look(spec_of(ENV).layout),
        tick=TickConfig(),
    )


def _both() -> tuple[Ticker, Reviver]:
    """Return who dreams here and who does in processes that are killed, of the same weights."""
    spec = spec_of(ENV)
    tokenizer = every_look(spec.layout)
    weights = stirred_model(spec, tokenizer.vocab_size).state_dict()
    ticker = Ticker(spec, tokenizer, TickConfig(), small_config())
    ticker.load_weights(weights, 3)
    return ticker, _reviver(weights)


def _dreams(ticker: Ticker, count: int) -> list[Snapshot]:
    worlds = [begin(WorldId(f"w{i}"), env_name=ENV, seed=i, memory_size=4) for i in range(count)]
    for _ in range(5):
        ticker.tick(worlds)
    return [fork_dream(world.snapshot, seed=9 + i) for i, world in enumerate(worlds)]


def test_killed_and_restored_dreams_end_where_warm_ones_do() -> None:
    ticker, reviver = _both()
    dreams, actions = _dreams(ticker, 3), np.random.default_rng(0).integers(10, size=(8, 3, 2), dtype=np.int32)
    restored = reviver.play(dreams, actions, kill_after=4)
    warm = [
        LiveWorld(WorldId(f"warm-{i}"), ENV, fork_dream(dream, seed=dream.seed), None, None)
        for i, dream in enumerate(dreams)
    ]
    for joint in actions:
        ticker.tick(warm, joint)
    assert [again.digest() for again in restored] == [world.snapshot.digest() for world in warm]
    assert {again.tick for again in restored} == {dreams[0].tick + 8}


def test_a_host_that_is_not_done_in_time_is_killed_which_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    ticker, reviver = _both()
    monkeypatch.setattr(revival, "_HOSTED_WITHIN_S", 0.01)
    with pytest.raises(StoreError, match=r"not done within 0\.01 s: it said nothing"):
        reviver.play(_dreams(ticker, 1), np.zeros((3, 1, 2), np.int32), kill_after=1)


def test_a_host_that_cannot_host_says_why() -> None:
    ticker, _ = _both()
    reviver = _reviver({"nothing": stirred_model(spec_of(ENV), 9).state_dict()["dynamics.table.weight"]})
    actions = np.zeros((2, 1, 2), np.int32)
    with pytest.raises(StoreError, match=r"before it could be killed: .*weights are of another model"):
        reviver.play(_dreams(ticker, 1), actions, kill_after=1)
