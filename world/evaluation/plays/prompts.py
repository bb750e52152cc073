"""Prompts: one world from one moment on with an event and without, in truth and in dreams, under the same actions.

Axes: P pairs of forks, A agents, T ticks, E event slots, n cells.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from world.envs.grounded import BY_CHANCE, BY_EVENT, EVENT_REACH, Int32Array, announce
from world.errors import EnvironmentUnusable
from world.evaluation.plays.forks import cells_in_view, forked, num_actions, padded, redrawn
from world.evaluation.plays.stage import Progress, Stage, forget, with_other_chance
from world.evaluation.prompted import Prompted
from world.event import WorldEvent, event_slots
from world.field import MAP, UNSEEN, Uint16Array
from world.live import LiveWorld

_TRIES = 16
"""Places that are looked at for one where the event changes something in truth."""


@dataclass(slots=True)
class PromptPlay:
    """What was played, as far as it went: a part for each world."""

    phrases: tuple[str, ...] = ()
    parts: dict[int, list[Prompted]] = field(default_factory=dict)
    """By ticks since the event."""

    def all_prompted(self) -> dict[int, Prompted]:
        """Return the pairs of all worlds."""
        return {h: _joined(parts) for h, parts in self.parts.items()}


def play_prompts(
    stage: Stage,
    play: PromptPlay,
    *,
    seeds: Sequence[int],
    num_pairs: int,
    horizons: Sequence[int],
    history: int,
    progress: Progress,
) -> None:
    """Fork each world into pairs of which one is told an event, kinds in turn, and compare them h ticks later.

    Raises `EnvironmentUnusable` for an environment that executes no events.
    """
    truths = stage.lived(seeds, history, progress)
    play.phrases = truths[0].env.spec.events if truths[0].env is not None else ()
    if not play.phrases:
        raise EnvironmentUnusable(f"{stage.env_name}: no events can befall it")
    for index, world in enumerate(truths):
        if world.ended:
            continue
        draw = np.random.default_rng([seeds[index], 33])
        shape = (num_pairs, max(horizons), len(world.snapshot.poses))
        actions = draw.integers(num_actions(world), size=shape, dtype=np.int32)
        events = [
            _event(stage, world, 1 + (index * num_pairs + pair) % len(play.phrases), actions[pair, 0], draw)
            for pair in range(num_pairs)
        ]
        groups = forked(stage, world, 2 * num_pairs, seed=index + 1)
        other = with_other_chance(world)
        if other is not None:
            groups["replay"] = [stage.fork_truth(other, f"luck-{i}") for i in range(2 * num_pairs)]
        told = np.stack([*(event_slots([event]) for event in events), *[event_slots([])] * num_pairs])
        for tick in range(max(horizons)):
            joint = np.concatenate([actions[:, tick]] * 2)
            for name, worlds in groups.items():
                stage.ticker.tick(worlds, joint, told if tick == 0 else None)
                if name == "no_memory":
                    for dream in worlds:
                        forget(dream)
            if tick + 1 in horizons:
                play.parts.setdefault(tick + 1, []).append(_prompted(stage, world, groups, events, index))
        progress("prompting events", (index + 1) / len(truths))


def _event(stage: Stage, world: LiveWorld, kind: int, joint: Int32Array, draw: np.random.Generator) -> WorldEvent:
    """Return an event in view of an agent that changes something in truth; a place without effect where none does."""
    layout, poses = world.snapshot.field.layout, world.snapshot.poses
    for _ in range(_TRIES):
        low = poses[draw.integers(len(poses))] - (layout.map_rows // 2, layout.cols // 2)
        y, x = (low + draw.integers((layout.map_rows, layout.cols))).tolist()
        env = stage.fork_truth(world, "tried").env
        assert env is not None
        announce(env, np.array([[kind, y, x]], np.int32))
        changes = env.step(joint).changes
        near = (np.abs(changes[:, :2] - (y, x)) <= EVENT_REACH).all(axis=1)
        if (near & np.isin(changes[:, 2], (BY_EVENT, BY_CHANCE))).any():
            break
    return WorldEvent(kind, y, x)


def _prompted(
    stage: Stage, start: LiveWorld, groups: dict[str, list[LiveWorld]], events: Sequence[WorldEvent], episode: int
) -> Prompted:
    pairs = len(events)
    counted = []
    befallen: dict[str, list[Uint16Array]] = {name: [] for name in (*groups, "ceiling")}
    quiet: dict[str, list[Uint16Array]] = {name: [] for name in befallen}
    for i in range(pairs):
        pair = {name: (worlds[i], worlds[pairs + i]) for name, worlds in groups.items()}
        pair["ceiling"] = redrawn(stage, *pair["truth"])
        y, x = cells_in_view(*pair["truth"])
        counted.append(start.snapshot.field.layers[MAP].current(y, x) != UNSEEN)
        for name, (told, untold) in pair.items():
            befallen[name].append(_held(stage, told, y, x))
            quiet[name].append(_held(stage, untold, y, x))
    width = max(len(cells) for cells in counted)
    return Prompted(
        counted=padded(counted, width),
        befallen={name: padded(rows, width) for name, rows in befallen.items()},
        quiet={name: padded(rows, width) for name, rows in quiet.items()},
        kind=np.array([event.kind for event in events], np.int64),
        episode=np.full(pairs, episode),
    )


def _held(stage: Stage, world: LiveWorld, y: Int32Array, x: Int32Array) -> Uint16Array:
    """Return what a world holds to be in map cells (n,); of a world in truth, what is there."""
    truth = stage.truth_at(world, y, x) if world.env is not None else None
    return world.snapshot.field.layers[MAP].current(y, x) if truth is None else truth


def _joined(parts: Sequence[Prompted]) -> Prompted:
    width = max(part.counted.shape[1] for part in parts)
    names = parts[0].befallen
    return Prompted(
        counted=np.concatenate([padded(part.counted, width) for part in parts]),
        befallen={name: np.concatenate([padded(part.befallen[name], width) for part in parts]) for name in names},
        quiet={name: np.concatenate([padded(part.quiet[name], width) for part in parts]) for name in names},
        kind=np.concatenate([part.kind for part in parts]),
        episode=np.concatenate([part.episode for part in parts]),
    )
