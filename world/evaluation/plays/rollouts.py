"""Rollouts: truth lives on by its own policies, and dreams of it follow under the same actions.

Axes: E episodes, A agents, R × C cells of a view.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from world.envs.grounded import BoolArray, Int32Array
from world.evaluation.plays.cast import Cast
from world.evaluation.plays.stage import (
    Progress,
    Stage,
    chance_cells,
    changed_cells,
    known_once,
)
from world.evaluation.rollout import Moment, Rollouts
from world.field import Field, Uint16Array
from world.live import LiveWorld
from world.tick import Ticked
from world.trajectory import Transitions

_MOST_FRAMES = 48


@dataclass(slots=True)
class Filmed:
    """Views of truth and dream at some ticks: (E, A, R, C) each."""

    ticks: list[int] = field(default_factory=list)
    truth: list[Uint16Array] = field(default_factory=list)
    dream: list[Uint16Array] = field(default_factory=list)


@dataclass(slots=True)
class RolloutPlay:
    """What was played, as far as it went."""

    record: Rollouts
    film: Filmed = field(default_factory=Filmed)
    rows: dict[str, dict[int, Transitions]] = field(default_factory=dict)
    """Transitions (E, A, …) by tick, by "truth", "ours", "no_memory" and, at horizons, "oracle"."""


def play_rollouts(
    stage: Stage,
    play: RolloutPlay,
    *,
    seeds: Sequence[int],
    horizons: Sequence[int],
    history: int,
    keep_rows: bool = False,
    progress: Progress,
) -> None:
    """Play worlds of these seeds for `history` ticks, fork their dreams, and follow them to the last horizon.

    Whoever interrupts it finds in `play` what was reached.
    """
    record, longest = play.record, max(horizons)
    truths = stage.lived(seeds, history, progress)
    cast = Cast(stage, truths, twins=True)
    started = [_Start(world.snapshot.field.copy(), world.snapshot.poses.copy()) for world in truths]
    touched: list[set[tuple[int, int]]] = [set() for _ in truths]
    going = np.ones(len(truths), np.bool_)
    for tick in range(1, longest + 1):
        told = cast.told() if tick in horizons else None
        going &= ~np.array([world.ended for world in truths])
        ticked = cast.advance(told)
        for cells, world, done in zip(touched, truths, ticked["truth"], strict=True):
            cells |= set(map(tuple, chance_cells(world, done, stage.margin).tolist()))
        for name in ("truth", "ours", "no_memory", *(("replay",) if cast.twins else ())):
            _note(play.record, name, ticked[name], going)
        if keep_rows and going.all():
            for name in ("truth", "ours", "no_memory", *(("oracle",) if told else ())):
                rows = [done.row for done in ticked[name] if done.row is not None]
                play.rows.setdefault(name, {})[tick] = Transitions.stack(rows)
        if tick in horizons:
            record.moments[tick] = _moment(stage, cast, started, touched, going, told)
        if (tick - 1) % max(longest // _MOST_FRAMES, 1) == 0:
            play.film.ticks.append(tick)
            play.film.truth.append(_views(cast.truths, cast.truths))
            play.film.dream.append(_views(cast.dreams["ours"], cast.dreams["ours"]))
        progress("dreaming beside the truth", tick / longest)


@dataclass(frozen=True, slots=True)
class _Start:
    """What was known, and where everybody was, when the dreams began."""

    field: Field
    poses: Int32Array


def _note(record: Rollouts, name: str, ticked: list[Ticked], going: BoolArray) -> None:
    rewards = np.stack([done.effects.rewards for done in ticked]) * going[:, None]
    record.rewards.setdefault(name, []).append(rewards)
    record.changed.setdefault(name, []).append(np.array([changed_cells(done) for done in ticked]) * going)


def _moment(
    stage: Stage,
    cast: Cast,
    started: list[_Start],
    touched: list[set[tuple[int, int]]],
    going: BoolArray,
    told: list[LiveWorld] | None,
) -> Moment:
    truths = cast.truths
    poses = [world.snapshot.poses for world in truths]
    last = np.stack([start.field.views(at) for start, at in zip(started, poses, strict=True)])
    counted = [
        known_once(world.snapshot.field, at, known, excluded) & goes_on
        for world, at, known, excluded, goes_on in zip(truths, poses, last, touched, going, strict=True)
    ]
    others = cast.followers(told)
    arrived = {name: _arrived(worlds, poses) for name, worlds in others.items()}
    arrived["copy_last"] = np.stack([(start.poses == at).all(axis=1) for start, at in zip(started, poses, strict=True)])
    # Nobody is where truth's agents are who began anew.
    arrived = {name: hits[going] for name, hits in arrived.items()}
    truth = _views(truths, truths)
    answers = {name: _views(worlds, truths) for name, worlds in others.items()}
    return Moment(last, truth, np.stack(counted), answers | {"ceiling": stage.through_pixels(truth)}, arrived)


def _views(worlds: Sequence[LiveWorld], of: Sequence[LiveWorld]) -> Uint16Array:
    """Return what these worlds hold to be where the agents of others are."""
    return np.stack([w.snapshot.field.views(o.snapshot.poses) for w, o in zip(worlds, of, strict=True)])


def _arrived(worlds: Sequence[LiveWorld], poses: Sequence[Int32Array]) -> BoolArray:
    return np.stack([(w.snapshot.poses == at).all(axis=1) for w, at in zip(worlds, poses, strict=True)])
