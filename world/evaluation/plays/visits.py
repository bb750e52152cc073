"""Visits: A changes a place of a homestead and leaves; B, never there before, comes τ ticks later. In truth with the
change and without, and in dreams that follow the same actions: warm, told less and more, and killed and restored.

Axes: E visits, one of one world; T ticks, A agents.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.live_map import RIPENS
from world.envs.homestead.tiles import THING_CODE, Action, Thing
from world.errors import StoreError
from world.evaluation.codes import CodeTable
from world.evaluation.cross_agent import GROWING, STATIC, UNSEEN_BY_B, Visits
from world.evaluation.metrics import FloatArray
from world.evaluation.plays.errands import planned_world
from world.evaluation.plays.homestead_sites import SIGHT
from world.evaluation.plays.stage import Progress, Stage, forget
from world.evaluation.plays.visit_plans import EDIT_AT, VISITOR, VisitPlanner
from world.field import MAP, UNSEEN, IntpArray, Uint16Array
from world.live import LiveWorld
from world.snapshot import Snapshot, WorldId

LINGER = 2
"""Ticks that B stays before what it sees is read, should somebody have stood in its way."""
UNSEEN_FROM = 40
"""The least delay in which a third agent can come and go between the two."""
_EDITOR = 0
_REPLAYS = 12


class Revives(Protocol):
    """Plays dreams in processes that are killed on the way; `world.evaluation.plays.revival.Reviver` does."""

    def play(self, dreams: Sequence[Snapshot], actions: Int32Array, *, kill_after: int) -> list[Snapshot]:
        """Return the dreams after actions (T, B, A). Raises `StoreError` where they cannot be brought back."""


@dataclass(slots=True)
class VisitPlay:
    """What was played, as far as it went."""

    visits: dict[int, Visits] = field(default_factory=dict)
    """By delay, in ticks."""
    failed: int = 0
    """Visits that truth itself prevented: somebody stood in the way, A was late, or the place was watched meanwhile."""
    failure: StoreError | None = None
    """Why no dreams were killed and restored, from some delay on."""

    @property
    def num_visits(self) -> int:
        """Those that it did not, of all delays."""
        return sum(len(visits.kind) for visits in self.visits.values())

    @property
    def num_worlds(self) -> int:
        """Worlds of the delay in which most visits came about; each visit is of a world of its own."""
        return max((len(visits.kind) for visits in self.visits.values()), default=0)


def play_visits(
    stage: Stage,
    play: VisitPlay,
    *,
    seeds: Sequence[int],
    delays: Sequence[int],
    reviver: Revives | None,
    progress: Progress,
) -> None:
    """Play every delay in one world of each seed, whose number says what is changed in it.

    Raises `EnvironmentUnusable` for anything but a homestead, seen north up, of two agents or more.
    """
    for tau in delays:
        kinds = (*STATIC, *GROWING, *(UNSEEN_BY_B if tau >= UNSEEN_FROM else ()))
        planners = [VisitPlanner(kinds[i % len(kinds)], tau) for i in range(len(seeds))]
        truths = [planned_world(stage, seed, planner) for seed, planner in zip(seeds, planners, strict=True)]
        for _ in range(EDIT_AT + 1):
            stage.ticker.tick(truths)
        _Delay(stage, truths, planners, tau).play(play, reviver if play.failure is None else None, progress)


class _Delay:
    """All visits after one delay, from the tick before A acts."""

    def __init__(self, stage: Stage, truths: list[LiveWorld], planners: Sequence[VisitPlanner], tau: int) -> None:
        self._stage, self._truths, self._planners, self._tau = stage, truths, planners, tau
        self._table = CodeTable.of(stage.tokenizer)
        self._kinds = np.array([planner.kind for planner in planners])
        self._places = [planner.place for planner in planners]
        self._static = [i for i, planner in enumerate(planners) if planner.kind in STATIC]
        self._idle_truths = [stage.fork_truth(truths[i], "idle") for i in self._static]
        self._starts = [env_of(world).clone() for world in truths]
        self._before = self._shown(truths)
        self._acted = np.zeros(len(truths), np.bool_)
        self._made: dict[str, BoolArray] = {}
        self._edited = {name: [self._dream(w, i, name) for i, w in enumerate(truths)] for name in ("ours", "no_memory")}
        self._idle = {name: [self._dream(truths[i], i, f"{name}-idle") for i in self._static] for name in self._edited}
        self._kept = {i: self._dream(truths[i], i, "kept").snapshot for i in self._static}
        for world in self._edited["no_memory"] + self._idle["no_memory"]:
            forget(world)

    def play(self, play: VisitPlay, reviver: Revives | None, progress: Progress) -> None:
        """Play to the end, and note what was seen."""
        taken: list[Int32Array] = []
        watched = np.zeros(len(self._truths), np.intp)
        ticks = self._tau + LINGER
        for tick in range(ticks):
            last = tick == ticks - 1
            told, told_idle = (self._told(self._truths), self._told(self._idle_truths)) if last else (None, None)
            done = self._stage.ticker.tick(self._truths)
            actions = np.stack([ticked.effects.actions for ticked in done])
            taken.append(actions)
            groups = [(worlds, actions) for worlds in self._edited.values()] + [(told or [], actions)]
            calm = _without_edit(actions, tick)[self._static]
            groups += [(worlds, calm) for worlds in (*self._idle.values(), self._idle_truths, told_idle or [])]
            groups = [(worlds, chosen) for worlds, chosen in groups if worlds]
            everyone = [world for worlds, _ in groups for world in worlds]
            self._stage.ticker.tick(everyone, np.concatenate([chosen for _, chosen in groups]))
            for world in self._edited["no_memory"] + self._idle["no_memory"]:
                forget(world)
            if tick == 0:
                changed = self._shown(self._truths)
                self._acted = (self._before != UNSEEN) & (changed != self._before)
                self._made = {name: self._shown(worlds) == changed for name, worlds in self._edited.items()}
            watched += [_anybody_sees(world, *place) for world, place in zip(self._truths, self._places, strict=True)]
            progress(f"visits after {self._tau}", tick / ticks)
        if told:
            self._edited["oracle"], self._idle["oracle"] = told, told_idle or []
        self._note(play, np.stack(taken), watched, reviver, progress)

    def _note(
        self, play: VisitPlay, actions: Int32Array, watched: IntpArray, reviver: Revives | None, progress: Progress
    ) -> None:
        truth = np.array([self._seen(world, i) for i, world in enumerate(self._truths)], np.uint16)
        edited = {name: self._all_seen(worlds, range(len(worlds))) for name, worlds in self._edited.items()}
        idle = {name: self._spread(self._all_seen(worlds, self._static)) for name, worlds in self._idle.items()}
        idle_truth = self._spread(self._all_seen(self._idle_truths, self._static))
        # Truth must have let A change the place, in time, and B come, and nobody may have watched it for most of the
        # delay. Who was late changes it in sight of nobody who dreams: the place was not seen when the dreams began.
        changed = self._acted & ((idle_truth != truth) | ~np.isin(self._kinds, STATIC))
        valid = (truth != UNSEEN) & changed & (watched <= self._tau / 2 + LINGER + 2 * SIGHT)
        grown, often = self._growth(actions)
        play.failed += int((~valid).sum())
        warm = Visits(
            kind=self._kinds[valid],
            before=self._before[valid],
            truth=truth[valid],
            edited={name: seen[valid] for name, seen in (edited | {"ceiling": truth}).items()},
            idle={name: seen[valid] for name, seen in (idle | {"ceiling": idle_truth}).items()},
            grown=grown[valid],
            grown_often=often[valid],
            made={name: made[valid] for name, made in self._made.items()},
        )
        play.visits[self._tau] = warm
        if reviver is None or not self._static:
            return
        progress(f"killed and restored after {self._tau}", 0.0)
        try:
            again, again_idle, identical = self._revived(reviver, actions)
        except StoreError as error:
            play.failure = error
            return
        play.visits[self._tau] = replace(
            warm,
            edited=warm.edited | {"restored": again[valid]},
            idle=warm.idle | {"restored": again_idle[valid]},
            identical=identical,
        )

    def _revived(self, reviver: Revives, actions: Int32Array) -> tuple[Uint16Array, Uint16Array, BoolArray]:
        """Return what B sees in dreams of static changes, killed half-way between A's change and B's arrival."""
        static = self._static
        calm = actions.copy()
        calm[0] = _without_edit(actions[0], 0)
        starts = [replace(self._kept[i], field=self._kept[i].field.copy()) for i in (*static, *static)]
        both = np.concatenate([actions[:, static], calm[:, static]], axis=1)
        ended = reviver.play(starts, both, kill_after=max(self._tau // 2, 1))
        again = [LiveWorld(WorldId("revived"), self._stage.env_name, snapshot, None, None) for snapshot in ended]
        warm = [self._edited["ours"][i] for i in static] + self._idle["ours"]
        identical = [a.snapshot.digest() == w.snapshot.digest() for a, w in zip(again, warm, strict=True)]
        edited, idle = again[: len(static)], again[len(static) :]
        return (
            self._spread(self._all_seen(edited, static)),
            self._spread(self._all_seen(idle, static)),
            np.array(identical),
        )

    def _growth(self, actions: Int32Array) -> tuple[Uint16Array, FloatArray]:
        """Return what each place shows once grown, and how often replays of truth with other luck have it grown."""
        grown, often = np.zeros(len(self._kinds), np.uint16), np.zeros(len(self._kinds))
        for i, kind in enumerate(self._kinds):
            if kind not in GROWING:
                continue
            thing = RIPENS[Thing.BUSH_BARE if kind == "bush" else Thing.SAPLING]
            grown[i] = UNSEEN if self._table is None else self._table.token_of[THING_CODE + thing]
            hits = 0
            for replay in range(_REPLAYS):
                env = self._starts[i].clone()
                env.simulation.state.seed = (env.simulation.state.seed + replay * 0x9E3779B97F4A7C15) % (1 << 64)
                for joint in actions[:, i]:
                    env.simulation.step(joint.tolist())
                hits += env.simulation.thing_at[self._planners[i].cell] == thing
            often[i] = hits / _REPLAYS
        return grown, often

    def _dream(self, world: LiveWorld, index: int, name: str) -> LiveWorld:
        return self._stage.dream(world, seed=index + 1, name=name)

    def _told(self, worlds: list[LiveWorld]) -> list[LiveWorld] | None:
        told = [self._stage.told_dream(world, seed=i + 1) for i, world in enumerate(worlds)]
        known = [world for world in told if world is not None]
        return known if len(known) == len(told) else None

    def _known(self, world: LiveWorld, index: int) -> int:
        y, x = (np.array([at], np.int32) for at in self._places[index])
        return int(world.snapshot.field.layers[MAP].current(y, x)[0])

    def _shown(self, worlds: Sequence[LiveWorld]) -> Uint16Array:
        """Return what each world's place shows, whoever looks."""
        return np.array([self._known(world, i) for i, world in enumerate(worlds)], np.uint16)

    def _seen(self, world: LiveWorld, index: int) -> int:
        """Return what B sees of the place, or UNSEEN."""
        y, x = self._places[index]
        return self._known(world, index) if _sees(world, VISITOR, y, x) else UNSEEN

    def _all_seen(self, worlds: Sequence[LiveWorld], indices: Sequence[int]) -> Uint16Array:
        return np.array([self._seen(world, i) for world, i in zip(worlds, indices, strict=True)], np.uint16)

    def _spread(self, of_static: Uint16Array) -> Uint16Array:
        """Return what was seen by static visits as a column over all visits."""
        spread = np.zeros(len(self._kinds), np.uint16)
        spread[self._static] = of_static
        return spread


def env_of(world: LiveWorld) -> HomesteadGrounded:
    """Return the homestead that drives a world."""
    assert isinstance(world.env, HomesteadGrounded)
    return world.env


def _without_edit(actions: Int32Array, tick: int) -> Int32Array:
    """Return joint actions (E, A) of a tick in which A does nothing where it would have changed the place."""
    calm = actions.copy()
    if tick == 0:
        calm[:, _EDITOR] = Action.NOOP
    return calm


def _sees(world: LiveWorld, agent: int, y: int, x: int) -> bool:
    return bool(np.abs(world.snapshot.poses[agent] - (y, x)).max() <= SIGHT)


def _anybody_sees(world: LiveWorld, y: int, x: int) -> bool:
    return any(_sees(world, agent, y, x) for agent in range(len(world.snapshot.poses)))
