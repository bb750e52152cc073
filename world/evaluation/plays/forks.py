"""Forks: one world from one moment on under different actions, in truth and in dreams with the same luck.

Axes: P pairs of forks, A agents, T ticks, n cells.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.grounded import HomesteadGrounded
from world.evaluation.counterfactual import Effects, Equivalence
from world.evaluation.plays.stage import Progress, Stage, forget, with_other_chance
from world.field import MAP, SCREEN, UNSEEN, Uint16Array
from world.live import LiveWorld

Cell = TypeVar("Cell", np.bool_, np.uint16)
_HISTORIES = 24
_HISTORY_TICKS = 4
_FUTURE_TICKS = 8


@dataclass(slots=True)
class ForkPlay:
    """What was played, as far as it went: a part for each world."""

    effects: dict[int, list[Effects]] = field(default_factory=dict)
    """By ticks since the action."""
    equivalences: list[Equivalence] = field(default_factory=list)

    def all_effects(self) -> dict[int, Effects]:
        """Return the effects in all worlds."""
        return {h: _joined_effects(parts) for h, parts in self.effects.items()}

    def equivalence(self) -> Equivalence | None:
        """Return what was found in all worlds; None before the first."""
        parts = self.equivalences
        if not parts:
            return None
        names = parts[0].same_future
        return Equivalence(
            np.concatenate([part.same_state for part in parts]),
            {name: np.concatenate([part.same_future[name] for part in parts]) for name in names},
            np.concatenate([part.episode for part in parts]),
        )


def play_counterfactuals(
    stage: Stage,
    play: ForkPlay,
    *,
    seeds: Sequence[int],
    num_pairs: int,
    horizons: Sequence[int],
    history: int,
    progress: Progress,
) -> None:
    """Fork each world into pairs that differ in the first action of one agent, and compare them h ticks later."""
    truths = stage.lived(seeds, history, progress)
    for index, world in enumerate(truths):
        if world.ended:
            continue
        draw = np.random.default_rng([seeds[index], 31])
        actions = _pairs_of_actions(world, num_pairs, max(horizons), draw)
        groups = forked(stage, world, 2 * num_pairs, seed=index + 1)
        twin = with_other_chance(world)
        if twin is not None:
            groups["replay"] = [stage.fork_truth(twin, f"replay-{i}") for i in range(2 * num_pairs)]
        going = np.ones(num_pairs, np.bool_)
        for tick in range(max(horizons)):
            joint = np.concatenate([actions[:, 0, tick], actions[:, 1, tick]])
            # What follows on an end is another episode.
            going &= ~np.array([fork.ended for fork in groups["truth"]]).reshape(2, -1).any(axis=0)
            for name, worlds in groups.items():
                stage.ticker.tick(worlds, joint)
                if name == "no_memory":
                    for dream in worlds:
                        forget(dream)
            if tick + 1 in horizons:
                play.effects.setdefault(tick + 1, []).append(_effects(stage, world, groups, index, going))
        progress("forking into two actions", (index + 1) / len(truths))


def play_equivalence(
    stage: Stage, play: ForkPlay, *, seeds: Sequence[int], num_pairs: int, history: int, progress: Progress
) -> None:
    """Let one agent of each homestead have different histories, and compare what follows on those."""
    truths = stage.lived(seeds, history, progress)
    for index, world in enumerate(truths):
        draw = np.random.default_rng([seeds[index], 32])
        histories, pairs, same_state = _histories(world, num_pairs, draw)
        future = draw.integers(num_actions(world), size=(_FUTURE_TICKS, len(world.snapshot.poses)), dtype=np.int32)
        groups = forked(stage, world, len(histories), seed=index + 1)
        groups.pop("oracle", None)
        for tick in range(_HISTORY_TICKS + _FUTURE_TICKS):
            ahead = tick - _HISTORY_TICKS
            joint = histories[:, tick] if ahead < 0 else np.repeat(future[None, ahead], len(histories), axis=0)
            for name, worlds in groups.items():
                stage.ticker.tick(worlds, joint)
                if name == "no_memory":
                    for dream in worlds:
                        forget(dream)
        futures = {name: _same_futures(worlds, pairs) for name, worlds in groups.items()}
        play.equivalences.append(Equivalence(same_state, futures, np.full(len(pairs), index)))
        progress("forking into two histories", (index + 1) / len(truths))


def _pairs_of_actions(world: LiveWorld, num_pairs: int, ticks: int, draw: np.random.Generator) -> Int32Array:
    """Return joint actions (P, 2, T, A), equal in each pair but for the first of one agent."""
    agents, count = len(world.snapshot.poses), num_actions(world)
    actions = np.repeat(draw.integers(count, size=(num_pairs, 1, ticks, agents), dtype=np.int32), 2, axis=1)
    for pair in range(num_pairs):
        agent = pair % agents
        other = draw.integers(1, count)
        actions[pair, 1, 0, agent] = (actions[pair, 0, 0, agent] + other) % count
    return actions


def forked(stage: Stage, world: LiveWorld, count: int, *, seed: int) -> dict[str, list[LiveWorld]]:
    """Return forks of a world, all with one luck, of dreams by `seed`: of truth, and of dreams that know as much, less,
    and more.
    """
    groups = {
        "truth": [stage.fork_truth(world, f"truth-{i}") for i in range(count)],
        "ours": [stage.dream(world, seed=seed, name=f"fork-{i}") for i in range(count)],
        "no_memory": [stage.dream(world, seed=seed, name=f"blind-{i}") for i in range(count)],
    }
    for dream in groups["no_memory"]:
        forget(dream)
    told = stage.told_dream(world, seed=seed)
    if told is not None:
        groups["oracle"] = [stage.dream(told, seed=seed, name=f"fork-{i}") for i in range(count)]
    return groups


def _effects(
    stage: Stage, start: LiveWorld, groups: dict[str, list[LiveWorld]], episode: int, going: BoolArray
) -> Effects:
    half = len(groups["truth"]) // 2
    counted, masks = [], {name: [] for name in (*groups, "ceiling")}  # type: ignore[var-annotated]
    for i in range(half):
        pair = {name: (worlds[i], worlds[half + i]) for name, worlds in groups.items()}
        pair["ceiling"] = redrawn(stage, *pair["truth"])
        y, x = cells_in_view(*pair["truth"])
        known = start.snapshot.field.layers[_layer(start)].current(y, x) != UNSEEN
        status = np.ones(start.snapshot.field.status().size, np.bool_)
        counted.append(np.concatenate([known, status]) & going[i])
        for name, (one, other) in pair.items():
            masks[name].append(_held(stage, one, y, x) != _held(stage, other, y, x))
    width = max(len(cells) for cells in counted)
    return Effects(
        counted=padded(counted, width),
        masks={name: padded(parts, width) for name, parts in masks.items()},
        episode=np.full(half, episode),
    )


def cells_in_view(one: LiveWorld, other: LiveWorld) -> tuple[Int32Array, Int32Array]:
    """Return rows and columns (n,) of all cells that the agents of either world see, each once."""
    cells = []
    for world in (one, other):
        _, y, x = world.snapshot.field.window_cells(world.snapshot.poses, 0)
        cells.append(np.stack([y.ravel(), x.ravel()], axis=1))
    distinct = np.unique(np.concatenate(cells), axis=0).astype(np.int32)
    return distinct[:, 0], distinct[:, 1]


def redrawn(stage: Stage, one: LiveWorld, other: LiveWorld) -> tuple[LiveWorld, LiveWorld]:
    """Return both worlds as what the agents of either see in them comes back from being drawn and read."""
    poses = (one.snapshot.poses, other.snapshot.poses)
    return stage.redrawn(one, *poses), stage.redrawn(other, *poses)


def _held(stage: Stage, world: LiveWorld, y: Int32Array, x: Int32Array) -> Uint16Array:
    """Return what a world holds to be in cells (n,), and its agents' status; of a world in truth, what is there."""
    known = world.snapshot.field
    truth = stage.truth_at(world, y, x) if world.env is not None and _layer(world) == MAP else None
    tokens = known.layers[_layer(world)].current(y, x) if truth is None else truth
    return np.concatenate([tokens, known.status().ravel()])


def _histories(
    world: LiveWorld, num_pairs: int, draw: np.random.Generator
) -> tuple[Int32Array, list[tuple[int, int]], BoolArray]:
    """Return joint actions (n, T, A) of one agent's histories, pairs of them, and which pairs end in one state."""
    assert isinstance(world.env, HomesteadGrounded)
    agents = len(world.snapshot.poses)
    drawn = draw.integers(num_actions(world), size=(_HISTORIES, _HISTORY_TICKS), dtype=np.int32)
    histories = np.zeros((_HISTORIES, _HISTORY_TICKS, agents), np.int32)
    histories[:, :, draw.integers(agents)] = drawn
    states = []
    for history in histories:
        env = world.env.clone()
        for joint in history:
            env.step(joint)
        states.append(env.state_hash())
    pairs = [(a, b) for a, b in combinations(range(_HISTORIES), 2) if (drawn[a] != drawn[b]).any()]
    draw.shuffle(pairs)
    same = [pair for pair in pairs if states[pair[0]] == states[pair[1]]][: num_pairs // 2]
    other = [pair for pair in pairs if states[pair[0]] != states[pair[1]]][: num_pairs - len(same)]
    chosen = [(int(a), int(b)) for a, b in same + other]
    used = sorted({index for pair in chosen for index in pair})
    position = {index: at for at, index in enumerate(used)}
    flags = np.array([True] * len(same) + [False] * len(other), np.bool_)
    return histories[used], [(position[a], position[b]) for a, b in chosen], flags


def _same_futures(worlds: Sequence[LiveWorld], pairs: Sequence[tuple[int, int]]) -> BoolArray:
    """Return (P,) whether both worlds of a pair show their agents the same, at the same places."""
    shown = [world.snapshot.field.views(world.snapshot.poses) for world in worlds]
    poses = [world.snapshot.poses for world in worlds]
    return np.array(
        [np.array_equal(shown[a], shown[b]) and np.array_equal(poses[a], poses[b]) for a, b in pairs], np.bool_
    )


def _layer(world: LiveWorld) -> int:
    return MAP if world.snapshot.field.layout.map_rows else SCREEN


def num_actions(world: LiveWorld) -> int:
    """Return how many actions an agent of a world in truth can choose from."""
    assert world.env is not None
    return world.env.spec.num_actions


def padded(rows: Iterable[NDArray[Cell]], width: int) -> NDArray[Cell]:
    """Return rows (n, width) of cells, what is added being false, or UNSEEN."""
    return np.stack([np.pad(row, (0, width - len(row))) for row in rows])


def _joined_effects(parts: Sequence[Effects]) -> Effects:
    width = max(part.counted.shape[1] for part in parts)
    return Effects(
        counted=np.concatenate([padded(part.counted, width) for part in parts]),
        masks={name: np.concatenate([padded(p.masks[name], width) for p in parts]) for name in parts[0].masks},
        episode=np.concatenate([part.episode for part in parts]),
    )
