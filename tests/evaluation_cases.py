"""Artificial models for the tests of evaluation: their answers are scripted, so what they must score is known."""

from collections.abc import Sequence
from copy import deepcopy

import numpy as np

from tests.model_cases import BEYOND, CountingEnv, counting_ticker, counting_world, small_config
from world.dream import Dreamt
from world.envs.grounded import Int32Array, ViewLayout
from world.envs.homestead.grounded import HomesteadGrounded
from world.envs.homestead.render import patch_table
from world.evaluation.plays.stage import Stage
from world.event import event_rows, event_slots
from world.field import Uint16Array, age_buckets
from world.live import LiveWorld
from world.model.slots import Slots
from world.model.tokenizer import DiscreteTokenizer, PatchTokenizer, build_codebook
from world.snapshot import WorldId
from world.tick import TickConfig, Ticked, Ticker
from world.trajectory import displacement_class
from world.warmup import spec_of

_MOVES = np.array([(0, 0), (-1, 0), (0, 1), (1, 0), (0, -1)], np.int32)
GUESS = 1


class ScriptedDreamer:
    """Knows the rules of the counting world, and of its cells what it is told: those unseen for too long it guesses."""

    def __init__(self, *, remembers_ticks: int, obeys: bool = True) -> None:
        self._oldest = int(age_buckets(np.zeros(1, np.int32), remembers_ticks)[0])
        self._obeys = obeys

    def tick(
        self, slots: Slots, seeds: Sequence[int], ticks: Sequence[int], actions: Int32Array | None = None
    ) -> Dreamt:
        """Answer as the real one does, by rule."""
        assert actions is not None
        tokens, seen = slots.tokens[..., 0].numpy(), slots.ages[..., -1].numpy()
        actions = actions if self._obeys else np.zeros_like(actions)
        batch, agents, height, width = tokens.shape
        centre = np.array([height // 2, width // 2])
        moved = _MOVES[actions]
        rows, cols = np.indices((batch, agents))
        ahead = tokens[rows, cols, centre[0] + moved[..., 0], centre[1] + moved[..., 1]]
        moved = np.where((ahead == BEYOND + 1)[..., None], 0, moved).astype(np.int32)
        known = (tokens > 0) & (seen <= self._oldest)
        answers = np.where(known, tokens, GUESS).astype(np.uint16)
        poses = slots.poses.numpy()
        for b in range(batch):
            for agent in range(agents):
                for viewer in range(agents):
                    y, x = poses[b, agent] + moved[b, agent] - poses[b, viewer] + centre
                    if 0 <= y < height and 0 <= x < width:
                        answers[b, viewer, y, x] = 20 + ticks[b] % 40 + 1
        status = slots.status.numpy().astype(np.uint16)
        status[..., 0] = np.array(ticks)[:, None] % 64 + 1
        return Dreamt(
            actions=actions,
            displacement=displacement_class(np.zeros_like(moved), moved),
            tokens=answers,
            status=status,
            rewards=(np.array(ticks)[:, None] + np.arange(agents) / 4).astype(np.float32),
            terminated=np.zeros((batch, agents), np.bool_),
        )


class CountingStage(Stage):
    """Counting worlds, whose truth can be asked."""

    def begun(self, seed: int) -> LiveWorld:
        """A world before its first tick."""
        return counting_world(CountingEnv(), seed=seed, world=f"judged-{seed}")

    def fork_truth(self, world: LiveWorld, name: str = "") -> LiveWorld:
        """A world that goes on by itself; no name leads to another counting environment."""
        twin = deepcopy(world)
        twin.world = WorldId(f"{world.world}-{name}") if name else world.world
        return twin

    def truth_at(self, world: LiveWorld, y: Int32Array, x: Int32Array) -> Uint16Array | None:
        """Cells as they are now."""
        cells = np.pad(world.env.cells, 16, constant_values=BEYOND)  # type: ignore[union-attr]
        return (cells[y + 16, x + 16] + 1).astype(np.uint16)  # type: ignore[no-any-return]


def counting_stage(dreamer: ScriptedDreamer) -> CountingStage:
    """Counting worlds that are dreamed by script."""
    env = CountingEnv()
    ticker = counting_ticker(env, version=1)
    ticker._dreamer = dreamer  # type: ignore[assignment]
    return CountingStage(
        env_name="counting",
        num_agents=None,
        tokenizer=DiscreteTokenizer(env.spec.layout),
        ticker=ticker,
        margin=1,
        memory_size=4,
    )


class TwinTicker:
    """Dreams of homesteads by driving them with twins of the truth that they were forked from.

    With `sees` their agents see what is there; without, they go on seeing what was there when the dream began.
    """

    def __init__(self, ticker: Ticker, tokenizer: PatchTokenizer, *, sees: bool = True, obeys: bool = True) -> None:
        self._ticker, self._tokenizer, self._sees, self._obeys = ticker, tokenizer, sees, obeys
        self._past: dict[str, dict[int, HomesteadGrounded]] = {}

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        """As `Ticker`."""
        done: dict[int, Ticked] = {}
        for index, world in enumerate(worlds):
            joint = None if actions is None else actions[index]
            befall = event_slots([]) if events is None else events[index]
            if world.env is None:
                assert joint is not None
                done[index] = self._dream(world, joint, event_rows(befall))
                continue
            if not world.ended:
                self._remember(world.world, world.snapshot.tick, world.env)  # type: ignore[arg-type]
            done[index] = self._ticker.tick([world], None if joint is None else joint[None], befall[None])[0]
            self._remember(world.world, world.snapshot.tick, world.env)  # type: ignore[arg-type]
        return [done[index] for index in range(len(worlds))]

    def _dream(self, world: LiveWorld, joint: Int32Array, events: Int32Array) -> Ticked:
        tick = world.snapshot.tick
        env = self._env_of(world.world, tick).clone()
        self._remember(world.world, tick, env)
        windows, before = self._ticker.windows(world), world.snapshot.poses
        if self._obeys:
            env.announce(events)
        step = env.step(joint if self._obeys else np.zeros_like(joint))
        poses = step.observed.poses
        views = self._tokenizer.encode(step.observed.views)
        if not self._sees:
            kept = world.snapshot.field.views(poses)
            views = np.where(kept > 0, kept, views)
        effects = self._ticker._write(
            world,
            views,
            poses,
            is_first=False,
            actions=joint,
            events=events,
            rewards=step.rewards,
            terminated=step.terminated,
            truncated=step.truncated,
        )
        self._remember(world.world, tick + 1, env)
        nothing = np.zeros(windows.tokens.shape[:3], np.bool_)
        return Ticked(effects, self._ticker._row(world, windows, before, world.snapshot.memory, effects, nothing))

    def _remember(self, world: str, tick: int, env: HomesteadGrounded) -> None:
        of_world = self._past.setdefault(world, {})
        of_world[tick] = env.clone()
        for old in [at for at in of_world if at < tick - 1]:
            del of_world[old]

    def _env_of(self, world: str, tick: int) -> HomesteadGrounded:
        """The newest kin, by name, that was at this tick."""
        kin = [name for name in self._past if world.startswith(name) and tick in self._past[name]]
        return self._past[max(kin, key=len)][tick]


def homestead_stage(name: str = "homestead", *, sees: bool = True, obeys: bool = True) -> Stage:
    """Homesteads dreamed by their twins; every look of the game is in the codebook."""
    spec = spec_of(name)
    tokenizer = every_look(spec.layout)
    ticker = Ticker(spec, tokenizer, TickConfig(event_rate=0.0), small_config())
    return Stage(
        env_name=name,
        num_agents=None,
        tokenizer=tokenizer,
        ticker=TwinTicker(ticker, tokenizer, sees=sees, obeys=obeys),
        margin=1,
        memory_size=4,
    )


def every_look(layout: ViewLayout) -> PatchTokenizer:
    """A codebook of all that homestead can show."""
    return PatchTokenizer(layout, build_codebook(patch_table(), 1000), 1024)
