"""The stage: held-out worlds in truth, the same worlds dreamed, and dreams told less or more than they know.

Axes: B worlds, A agents, H × W cells of a window, R × C cells of a view, n cells.
"""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

import numpy as np

from world.dream import DreamConfig
from world.envs.catalog import make_env, make_policy
from world.envs.grounded import BY_CHANCE, BoolArray, GroundedEnv, Int32Array
from world.envs.homestead.grounded import HomesteadGrounded
from world.field import MAP, UNSEEN, Field, Place, Uint16Array, numbered
from world.live import LiveWorld, begin, fork_dream
from world.model.tokenizer import PatchTokenizer, Tokenizer
from world.snapshot import WorldId
from world.tick import Ticked
from world.warmup import Revealed
from world.window import owners, unmerged

FIRST_SEED = 1 << 41
"""Where the seeds of judged worlds begin: beyond those of training, and of the worlds that gate it."""
_OTHER_NOISE = 0x9E3779B97F4A7C15

Progress = Callable[[str, float], None]
"""Is told what is being played, and which share of it is done."""


class Advances(Protocol):
    """What advances worlds; `world.tick.Ticker` does."""

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        """Advance each world by one tick, in place; `actions` (B, A) are taken instead of its policy's.

        `events` (B, E, 3), where they are no empty slots, befall the worlds.
        """


class Batched:
    """Advances worlds a few at a time, so that many of them need no more memory than these."""

    def __init__(self, ticker: Advances, most: int = 32) -> None:
        self._ticker, self._most = ticker, most

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        """As `Advances`."""
        done: list[Ticked] = []
        for first in range(0, len(worlds), self._most):
            some = slice(first, first + self._most)
            given = (None if rows is None else rows[some] for rows in (actions, events))
            done += self._ticker.tick(worlds[some], *given)
        return done


@dataclass(frozen=True, kw_only=True, slots=True)
class Stage:
    """Where truth and dreams are played."""

    env_name: str
    num_agents: int | None
    tokenizer: Tokenizer
    ticker: Advances
    margin: int
    """Of the ticker, around each view; 0 where there are no poses."""
    memory_size: int
    dreaming: DreamConfig = field(default_factory=DreamConfig)
    """As the ticker dreams."""
    _past: dict[tuple[tuple[int, ...], int], list[LiveWorld]] = field(default_factory=dict, init=False)
    """Worlds that have lived through a history; several protocols begin where they are."""

    def begun(self, seed: int) -> LiveWorld:
        """Return a held-out world in truth, before its first tick."""
        return begin(
            WorldId(f"judged-{seed}"),
            env_name=self.env_name,
            seed=FIRST_SEED + seed,
            memory_size=self.memory_size,
            num_agents=self.num_agents,
        )

    def lived(self, seeds: Sequence[int], history: int, progress: Progress) -> list[LiveWorld]:
        """Return held-out worlds in truth that have lived for `history` ticks, each call its own copies.

        In homesteads agents first explore for two thirds of them.
        """
        asked = (tuple(seeds), history)
        if asked not in self._past:
            worlds = [self.begun(seed) for seed in seeds]
            self._live_through(worlds, history, progress)
            self._past[asked] = worlds
        copies = [self.fork_truth(world) for world in self._past[asked]]
        for world in copies:
            # What one protocol lets it decide is nothing to the next. Those of homesteads begin anew in every fork.
            if not isinstance(world.env, HomesteadGrounded):
                world.policy = copy.deepcopy(world.policy)
        return copies

    def _live_through(self, worlds: Sequence[LiveWorld], history: int, progress: Progress) -> None:
        exploring = history * 2 // 3 if isinstance(worlds[0].env, HomesteadGrounded) else 0
        own = [world.policy for world in worlds]
        for world in worlds if exploring else ():
            assert world.env is not None
            world.policy = make_policy("explorer", world.env.spec, world.snapshot.seed)
        for tick in range(history + 1):
            if tick == exploring:
                for world, policy in zip(worlds, own, strict=True):
                    world.policy = policy
            self.ticker.tick(worlds)
            progress("living through a history", tick / (history + 1))

    def dream(self, world: LiveWorld, *, seed: int, name: str = "dream") -> LiveWorld:
        """Return a dream of a world as it is remembered now."""
        snapshot = fork_dream(world.snapshot, seed)
        return LiveWorld(WorldId(f"{world.world}-{name}"), world.env_name, snapshot, None, None)

    def fork_truth(self, world: LiveWorld, name: str = "") -> LiveWorld:
        """Return a world in truth that goes on from here by itself, with the same luck; unnamed, it keeps its id."""
        assert world.env is not None
        if isinstance(world.env, HomesteadGrounded):
            env: GroundedEnv = world.env.clone()
        else:
            env = make_env(self.env_name, num_agents=self.num_agents)
            env.restore(world.env.snapshot())
        snapshot = replace(world.snapshot, field=world.snapshot.field.copy(), memory=world.snapshot.memory.copy())
        own = WorldId(f"{world.world}-{name}") if name else world.world
        return LiveWorld(own, world.env_name, snapshot, env, world.policy, ended=world.ended)

    def told_dream(self, world: LiveWorld, *, seed: int) -> LiveWorld | None:
        """Return a dream that is told what is truly in its windows; None where the truth cannot be asked."""
        told = self.dream(world, seed=seed, name="told")
        field, tick = told.snapshot.field, told.snapshot.tick
        layer, y, x = field.window_cells(told.snapshot.poses, self.margin)
        truth = self.truth_at(world, y, x)
        if truth is None:
            return None
        differs = (field.layers[layer].current(y, x) != truth).ravel()
        _, first = np.unique(numbered(y, x), return_index=True)
        stale = first[differs[first]]
        field.layers[layer].push(Place(y.ravel()[stale], x.ravel()[stale]), truth.ravel()[stale], tick)
        field.layers[layer].mark_seen(y, x, tick)
        return told

    def truth_at(self, world: LiveWorld, y: Int32Array, x: Int32Array) -> Uint16Array | None:
        """Return what is truly in map cells (…) now, as tokens; None where environment or tokenizer cannot tell."""
        env: object = world.env
        # The cells of a screen are no places of the environment's.
        is_map = bool(self.tokenizer.layout.map_rows)
        if is_map and isinstance(env, Revealed) and isinstance(self.tokenizer, PatchTokenizer):
            return self.tokenizer.encode_patches(env.patches_at(y, x))
        return None

    def through_pixels(self, tokens: Uint16Array) -> Uint16Array:
        """Return views (…, R, C) as they come back from being drawn and read."""
        if not self.tokenizer.noise:
            return tokens
        layout = self.tokenizer.layout
        flat = tokens.reshape(-1, layout.rows, layout.cols)
        return self.tokenizer.encode(self.tokenizer.decode(flat)).reshape(tokens.shape)

    def redrawn(self, world: LiveWorld, *poses: Int32Array) -> LiveWorld:
        """Return a world that holds what it shows at these poses (A, 2) as that comes back from being drawn and read.

        No environment, which would know better, drives it any more. Where a tokenizer makes no errors, it is the world
        itself.
        """
        if not self.tokenizer.noise:
            return world
        snapshot, held = world.snapshot, world.snapshot.field.copy()
        for at in poses:
            held.observe(at, self.through_pixels(snapshot.field.views(at)), snapshot.tick)
        return replace(world, snapshot=replace(snapshot, field=held), env=None)


def forget(world: LiveWorld) -> None:
    """Take from a dream all that its agents do not see at this moment, and what they remember of themselves."""
    snapshot = world.snapshot
    seen = Field(snapshot.field.layout, snapshot.field.num_agents)
    seen.observe(snapshot.poses, snapshot.field.views(snapshot.poses), snapshot.tick)
    snapshot.field, snapshot.memory = seen, np.zeros_like(snapshot.memory)


def with_other_chance(world: LiveWorld) -> LiveWorld | None:
    """Return a twin in truth that goes on from here with other luck; None where luck cannot be exchanged."""
    if not isinstance(world.env, HomesteadGrounded):
        return None
    env = world.env.clone()
    env.simulation.state.seed = (env.simulation.state.seed ^ _OTHER_NOISE) % (1 << 64)
    snapshot = replace(world.snapshot, field=world.snapshot.field.copy(), memory=world.snapshot.memory.copy())
    return LiveWorld(WorldId(f"{world.world}-twin"), world.env_name, snapshot, env, world.policy)


def chance_cells(world: LiveWorld, ticked: Ticked, margin: int) -> Int32Array:
    """Return cells (n, 2) that pure chance changed at the last tick: all where truth tells, else those in windows."""
    if isinstance(world.env, HomesteadGrounded):
        changes = world.env.simulation.changes
        return changes[changes[:, 2] == BY_CHANCE, :2]
    if ticked.row is None:
        return np.zeros((0, 2), np.int32)
    _, y, x = world.snapshot.field.window_cells(ticked.row.poses[0], margin)
    by_chance = ticked.row.by_chance[0]
    return np.stack([y[by_chance], x[by_chance]], axis=1)


def known_once(field: Field, poses: Int32Array, known: Uint16Array, excluded: set[tuple[int, int]]) -> BoolArray:
    """Return which cells (A, R, C) of views count: each place once, known before (A, R, C), and not excluded.

    Status rows count always.
    """
    layout = field.layout
    counted: BoolArray = known != UNSEEN
    rows = layout.map_rows
    if not rows:
        here, _ = unmerged(1, *known.shape)
        counted &= here[0]
        return counted
    here, _ = owners(poses[None], rows, layout.cols)
    counted[:, :rows] &= here[0]
    _, y, x = field.window_cells(poses, 0)
    if excluded:
        banned = np.array(sorted(excluded), np.int32)
        counted[:, :rows] &= ~np.isin(numbered(y, x), numbered(banned[:, 0], banned[:, 1]))
    return counted


def looked_at(world: LiveWorld, y: Int32Array, x: Int32Array) -> BoolArray:
    """Whether somebody looks at map cells (…) at this tick of a world."""
    seen_at = world.snapshot.field.layers[MAP].read(y, x)[2]
    looked: BoolArray = seen_at == world.snapshot.tick
    return looked


def changed_cells(ticked: Ticked) -> int:
    """Return how many known cells of the agents' windows the tick changed."""
    row = ticked.row
    if row is None:
        return 0
    seen = (row.next_tokens != UNSEEN) & (row.tokens[..., 0] != UNSEEN)
    return int((seen & (row.next_tokens != row.tokens[..., 0])).sum())
