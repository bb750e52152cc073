"""The tick: perceive, infer, remember, act, advance, write. Many worlds, grounded and dreamed, as one batch.

Axes: B worlds, A agents, H × W cells of a window, R × C cells of a view, S status cells, D memory.

Knows nothing of Redis or Ray. What a tick did is returned as effects; making them durable, and showing them to
nobody before, is the host's part.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world.dream import DreamConfig, Dreamer, Dreamt
from world.envs.grounded import BY_CHANCE, EnvSpec, Int32Array, Stepped, Uint8Array
from world.errors import ConfigError, LivingWorldsError
from world.event import MAX_EVENTS
from world.field import Changes, Field, Uint16Array, Windows
from world.live import LiveWorld, episode_seed
from world.model.filter import Filter
from world.model.slots import Slots
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModel, WorldModelConfig
from world.snapshot import TickEffects
from world.trajectory import Transitions, displacement_class, displacement_of, turns_at
from world.window import views_after


@dataclass(frozen=True, kw_only=True, slots=True)
class TickConfig:
    """How worlds are advanced."""

    margin: int = 1
    """Cells around the view that the model is told of. An agent that moves by one sees only cells of its window."""
    dream: DreamConfig = field(default_factory=DreamConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.margin <= 8:
            raise ConfigError(f"tick.margin must lie in 1 … 8, got {self.margin}")


@dataclass(frozen=True, slots=True)
class Ticked:
    """One world's tick: its effects, and the row of training data, which a reset does not have."""

    effects: TickEffects
    row: Transitions | None


class Ticker:
    """Advances worlds of one environment. Without weights it can only tick grounded ones, without memory."""

    def __init__(self, spec: EnvSpec, tokenizer: Tokenizer, config: TickConfig, model_config: WorldModelConfig) -> None:
        self._tokenizer, self._filter, self._config = tokenizer, Filter(tokenizer), config
        self._margin = config.margin if spec.layout.map_rows else 0
        self._turn_order = spec.turn_order
        self._model = WorldModel(model_config, spec, tokenizer.vocab_size).eval()
        self._dreamer = Dreamer(self._model, config.dream)
        self._num_actions = spec.num_actions
        self.weights_version = 0

    @property
    def num_actions(self) -> int:
        """Actions that an agent can choose from."""
        return self._num_actions

    @property
    def model(self) -> WorldModel:
        """The network whose weights are swapped between ticks."""
        return self._model

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Swap all weights between two ticks; nothing is swapped if names or shapes differ."""
        own = self._model.state_dict()
        if own.keys() != weights.keys() or any(own[name].shape != weights[name].shape for name in own):
            raise LivingWorldsError("weights are of another model than this host's; use one model preset for a run")
        self._model.load_state_dict(dict(weights))
        self.weights_version = version

    def tick(self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None) -> list[Ticked]:
        """Advance each world by one tick, in place; answers in order.

        `actions` (B, A) are taken instead of what the worlds' policies would do; a negative one leaves its agent to
        the policy.
        """
        given = {id(world): actions[i] for i, world in enumerate(worlds)} if actions is not None else {}
        grounded = [w for w in worlds if not w.ended and w.env is not None]
        dreamed = [w for w in worlds if not w.ended and w.env is None]
        if dreamed and not self.weights_version:
            raise LivingWorldsError(f"world {dreamed[0].world!r} is dreamed, and no weights are loaded to dream it")
        answers = {id(w): self._reset(w) for w in worlds if w.ended}
        for group, advance in ((grounded, self._step), (dreamed, self._dream)):
            if group:
                answers |= zip(map(id, group), advance(group, given), strict=True)
        return [answers[id(world)] for world in worlds]

    def slots(self, worlds: Sequence[LiveWorld], windows: Sequence[Windows]) -> Slots:
        """Return what the model is told of these worlds."""
        nothing = np.zeros((len(worlds), MAX_EVENTS, 3), np.int32)
        identity = np.arange(len(worlds[0].snapshot.poses))
        return Slots.from_arrays(
            tokens=np.stack([w.tokens for w in windows]),
            ages=np.stack([w.ages for w in windows]),
            status=np.stack([w.status for w in windows]),
            poses=np.stack([w.snapshot.poses for w in worlds]),
            turns=np.stack([self._turns(w) for w in worlds]),
            memory=np.stack([w.snapshot.memory for w in worlds]),
            identity=np.broadcast_to(identity, (len(worlds), len(identity))),
            events=nothing,
        )

    def windows(self, world: LiveWorld) -> Windows:
        """Return what is known around this world's agents now."""
        return world.snapshot.field.windows(world.snapshot.poses, world.snapshot.tick, self._margin)

    def window_cells(self, world: LiveWorld) -> tuple[Int32Array, Int32Array]:
        """Return rows and columns (A, H, W) of the cells around this world's agents."""
        _, y, x = world.snapshot.field.window_cells(world.snapshot.poses, self._margin)
        return y, x

    def _turns(self, world: LiveWorld) -> Uint8Array:
        return turns_at(world.snapshot.tick, len(world.snapshot.poses), self._turn_order)

    def _reset(self, world: LiveWorld) -> Ticked:
        assert world.env is not None
        snapshot = world.snapshot
        snapshot.field = Field(snapshot.field.layout, snapshot.field.num_agents)
        snapshot.episode += 1
        snapshot.memory = np.zeros_like(snapshot.memory)
        observed = world.env.reset(episode_seed(snapshot))
        none = np.zeros(len(observed.poses), np.bool_)
        effects = self._write(
            world,
            self._tokenizer.encode(observed.views),
            observed.poses,
            is_first=True,
            actions=np.zeros(len(none), np.int32),
            rewards=np.zeros(len(none), np.float32),
            terminated=none,
            truncated=none,
        )
        world.ended, world.is_first = False, True
        return Ticked(effects, None)

    def _step(self, worlds: Sequence[LiveWorld], given: Mapping[int, Int32Array]) -> list[Ticked]:
        windows = [self.windows(world) for world in worlds]
        actions, steps = [], []
        for world in worlds:
            assert world.env is not None and world.policy is not None
            chosen = given.get(id(world))
            if chosen is None or (chosen < 0).any():
                own = world.policy.act(world.env, world.snapshot.tick)
                chosen = own if chosen is None else np.where(chosen < 0, own, chosen).astype(np.int32)
            actions.append(chosen)
            steps.append(world.env.step(actions[-1]))
        agents = len(actions[0])
        remembered = [w.snapshot.field.views(s.observed.poses) for w, s in zip(worlds, steps, strict=True)]
        views = self._filter.infer(np.concatenate([step.observed.views for step in steps]), np.concatenate(remembered))
        memories = self._remember(worlds, windows, np.stack(actions), np.stack([step.rewards for step in steps]))
        done = []
        for i, (world, step) in enumerate(zip(worlds, steps, strict=True)):
            before, started = world.snapshot.poses, world.snapshot.memory
            world.snapshot.memory = memories[i]
            effects = self._write(
                world,
                views[i * agents : (i + 1) * agents],
                step.observed.poses,
                is_first=False,
                actions=actions[i],
                rewards=step.rewards,
                terminated=step.terminated,
                truncated=step.truncated,
            )
            chance = self._by_chance(world.snapshot.field, before, step)
            done.append(Ticked(effects, self._row(world, windows[i], before, started, effects, chance)))
            world.is_first = False
            world.ended = bool((step.terminated | step.truncated).all())
        return done

    def _dream(self, worlds: Sequence[LiveWorld], given: Mapping[int, Int32Array]) -> list[Ticked]:
        windows = [self.windows(world) for world in worlds]
        dreamt = self._dreamer.tick(
            self.slots(worlds, windows),
            [world.snapshot.seed for world in worlds],
            [world.snapshot.tick for world in worlds],
            np.stack([given[id(world)] for world in worlds]) if given else None,
        )
        memories = self._remember(worlds, windows, dreamt.actions, dreamt.rewards)
        done = []
        for i, world in enumerate(worlds):
            before, started = world.snapshot.poses, world.snapshot.memory
            world.snapshot.memory = memories[i]
            moved = displacement_of(dreamt.displacement[i])
            effects = self._write(
                world,
                self._dreamt_views(dreamt, i, moved, world.snapshot.field),
                before + moved,
                is_first=False,
                actions=dreamt.actions[i],
                rewards=dreamt.rewards[i],
                terminated=dreamt.terminated[i],
                truncated=np.zeros_like(dreamt.terminated[i]),
            )
            nothing = np.zeros(windows[i].tokens.shape[:3], np.bool_)
            done.append(Ticked(effects, self._row(world, windows[i], before, started, effects, nothing)))
            world.is_first = False
        return done

    def _dreamt_views(self, dreamt: Dreamt, world: int, moved: Int32Array, cells: Field) -> Uint16Array:
        layout = cells.layout
        views = views_after(dreamt.tokens[world], moved, self._margin)
        if not layout.status_cells:
            return views
        return np.concatenate([views, dreamt.status[world].reshape(len(views), -1, layout.cols)], axis=1)

    def _remember(
        self, worlds: Sequence[LiveWorld], windows: Sequence[Windows], actions: Int32Array, rewards: NDArray[np.float32]
    ) -> NDArray[np.float16]:
        """Return the recurrent memories (B, A, D) after this tick, as they will be committed."""
        if not self.weights_version:
            return np.stack([world.snapshot.memory for world in worlds])
        slots = self.slots(worlds, windows)
        with torch.inference_mode():
            evidence = self._model.evidence(slots, torch.from_numpy(actions).long(), torch.from_numpy(rewards))
            return self._model.memory(slots.memory, evidence).numpy().astype(np.float16)  # type: ignore[no-any-return]

    def _write(
        self,
        world: LiveWorld,
        views: Uint16Array,
        poses: Int32Array,
        *,
        is_first: bool,
        actions: Int32Array,
        rewards: NDArray[np.float32],
        terminated: NDArray[np.bool_],
        truncated: NDArray[np.bool_],
    ) -> TickEffects:
        snapshot = world.snapshot
        snapshot.tick += 1
        snapshot.poses = poses
        changes: Changes = snapshot.field.observe(poses, views, snapshot.tick)
        return TickEffects(
            tick=snapshot.tick,
            is_first=is_first,
            poses=poses,
            actions=actions,
            rewards=rewards,
            terminated=terminated,
            truncated=truncated,
            changes=changes,
            memory=snapshot.memory,
            weights_version=self.weights_version,
            state_digest=snapshot.digest(),
        )

    def _row(
        self,
        world: LiveWorld,
        windows: Windows,
        before: Int32Array,
        started: NDArray[np.float16],
        effects: TickEffects,
        by_chance: NDArray[np.bool_],
    ) -> Transitions:
        after = world.snapshot.field
        columns: tuple[Any, ...] = (
            windows.tokens,
            windows.ages,
            windows.status,
            before,
            turns_at(effects.tick - 1, len(before), self._turn_order),
            started,
            np.zeros((MAX_EVENTS, 3), np.int32),
            effects.actions,
            effects.rewards,
            effects.terminated,
            effects.truncated,
            displacement_class(before, effects.poses),
            after.observed_at(effects.tick, before, self._margin),
            after.status(),
            by_chance,
            np.bool_(world.is_first),
            np.int32(effects.weights_version),
        )
        return Transitions(*(np.asarray(column)[None] for column in columns))

    def _by_chance(self, cells: Field, poses: Int32Array, step: Stepped) -> NDArray[np.bool_]:
        _, y, x = cells.window_cells(poses, self._margin)
        unpredictable = step.changes[step.changes[:, 2] == BY_CHANCE]
        mask = np.zeros(y.shape, np.bool_)
        for at_y, at_x, _ in unpredictable:
            mask |= (y == at_y) & (x == at_x)
        return mask
