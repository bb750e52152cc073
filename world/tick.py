"""The tick: perceive, infer, remember, act, advance, write. Many worlds, grounded and dreamed, as one batch.

Axes: B worlds, A agents, H × W cells of a window, R × C cells of a view, S status cells, D memory, E event slots,
n events.

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
from world.envs.grounded import BY_CHANCE, EnvSpec, Int32Array, Stepped, Uint8Array, announce, gone
from world.errors import ConfigError, LivingWorldsError
from world.event import MAX_EVENTS, drawn_events, event_rows, event_slots
from world.field import Changes, Field, Uint16Array, Windows
from world.live import LiveWorld, episode_seed
from world.model.filter import Filter
from world.model.slots import Slots
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModel, WorldModelConfig
from world.snapshot import TickEffects
from world.trajectory import STAY, Transitions, displacement_class, displacement_of, turns_at
from world.window import views_after

_NO_EVENTS: Int32Array = np.zeros((0, 3), np.int32)
_NO_EVENTS.setflags(write=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TickConfig:
    """How worlds are advanced."""

    margin: int = 1
    """Cells around the view that the model is told of. An agent that moves by one sees only cells of its window."""
    event_rate: float = 0.02
    """World events a tick that befall a grounded world by themselves, near an agent, so that the model meets them. 0:
    only those that are told from outside."""
    dream: DreamConfig = field(default_factory=DreamConfig)

    def __post_init__(self) -> None:
        if not 1 <= self.margin <= 8:
            raise ConfigError(f"tick.margin must lie in 1 … 8, got {self.margin}")
        if not 0.0 <= self.event_rate <= 1.0:
            raise ConfigError(f"tick.event_rate must lie in [0, 1], got {self.event_rate}")


@dataclass(frozen=True, slots=True)
class Ticked:
    """One world's tick: its effects, and the row of training data, which a reset does not have."""

    effects: TickEffects
    row: Transitions | None


class Ticker:
    """Advances worlds of one environment. Without weights it can only tick grounded ones, without memory."""

    def __init__(self, spec: EnvSpec, tokenizer: Tokenizer, config: TickConfig, model_config: WorldModelConfig) -> None:
        if model_config.dynamics.num_recalled:
            raise ConfigError(
                "dynamics.num_recalled must be 0 in worlds that live: what an episodic memory holds is not committed"
                f" with a tick; got {model_config.dynamics.num_recalled}"
            )
        self._tokenizer, self._filter, self._config = tokenizer, Filter(tokenizer), config
        self._margin = config.margin if spec.layout.map_rows else 0
        self._spec = spec
        self._model = WorldModel(model_config, spec, tokenizer.vocab_size, num_tokens=tokenizer.num_tokens).eval()
        self._dreamer = Dreamer(
            self._model, config.dream, margin=self._margin, num_tokens=tokenizer.num_tokens, solid=spec.solid
        )
        self.weights_version = 0

    @property
    def num_actions(self) -> int:
        """Actions that an agent can choose from."""
        return self._spec.num_actions

    @property
    def num_events(self) -> int:
        """Kinds of world events that can befall a world."""
        return len(self._spec.events)

    @property
    def model(self) -> WorldModel:
        """The network whose weights are swapped between ticks."""
        return self._model

    def load_weights(self, weights: Mapping[str, Tensor], version: int) -> None:
        """Swap all weights between two ticks; nothing is swapped if names or shapes differ."""
        if misfit := self._model.misfit(weights):
            raise LivingWorldsError(
                f"weights are of another model than this program's ({misfit}); use one preset for a run, and weights"
                " that this version made"
            )
        self._model.load_state_dict(dict(weights))
        self._dreamer.renew()
        self.weights_version = version

    def tick(
        self, worlds: Sequence[LiveWorld], actions: Int32Array | None = None, events: Int32Array | None = None
    ) -> list[Ticked]:
        """Advance each world by one tick, in place; answers in order.

        `actions` (B, A) are taken instead of what the worlds' policies would do; a negative one leaves its agent to
        the policy. `events` (B, E, 3) befall the worlds, but none a world that begins an episode.
        """
        given = {id(world): actions[i] for i, world in enumerate(worlds)} if actions is not None else {}
        told = {id(world): event_rows(events[i]) for i, world in enumerate(worlds)} if events is not None else {}
        assert not any(len(told[id(w)]) for w in worlds if w.ended and told), "an event at the reset of a world"
        grounded = [w for w in worlds if not w.ended and w.env is not None]
        dreamed = [w for w in worlds if not w.ended and w.env is None]
        if dreamed and not self.weights_version:
            raise LivingWorldsError(f"world {dreamed[0].world!r} is dreamed, and no weights are loaded to dream it")
        answers = {id(w): self._reset(w) for w in worlds if w.ended}
        for group, advance in ((grounded, self._step), (dreamed, self._dream)):
            if group:
                answers |= zip(map(id, group), advance(group, given, told), strict=True)
        return [answers[id(world)] for world in worlds]

    def slots(
        self, worlds: Sequence[LiveWorld], windows: Sequence[Windows], events: Sequence[Int32Array] = ()
    ) -> Slots:
        """Return what the model is told of these worlds, and the events (n, 3) of each, if there are any."""
        identity = np.arange(len(worlds[0].snapshot.poses))
        return Slots.from_arrays(
            tokens=np.stack([w.tokens for w in windows]),
            ages=np.stack([w.ages for w in windows]),
            status=np.stack([w.status for w in windows]),
            poses=np.stack([w.snapshot.poses for w in worlds]),
            turns=np.stack([self._turns(w) for w in worlds]),
            memory=np.stack([w.snapshot.memory for w in worlds]),
            identity=np.broadcast_to(identity, (len(worlds), len(identity))),
            events=np.stack([event_slots(rows) for rows in events or [_NO_EVENTS] * len(worlds)]),
            dreamed=[world.kind == "dreamed" for world in worlds],
        )

    def windows(self, world: LiveWorld) -> Windows:
        """Return what is known around this world's agents now."""
        return world.snapshot.field.windows(world.snapshot.poses, world.snapshot.tick, self._margin)

    def window_cells(self, world: LiveWorld) -> tuple[Int32Array, Int32Array]:
        """Return rows and columns (A, H, W) of the cells around this world's agents."""
        _, y, x = world.snapshot.field.window_cells(world.snapshot.poses, self._margin)
        return y, x

    def _turns(self, world: LiveWorld) -> Uint8Array:
        return turns_at(world.snapshot.tick, len(world.snapshot.poses), self._spec.turn_order)

    def _befall(self, world: LiveWorld, told: Int32Array) -> Int32Array:
        """Announce to a grounded world what befalls its next tick, and return it (n, 3): what was told comes first."""
        snapshot, layout = world.snapshot, world.snapshot.field.layout
        events = told
        if self._config.event_rate and self._spec.events:
            drawn = drawn_events(
                snapshot.seed,
                snapshot.tick,
                self._config.event_rate,
                poses=snapshot.poses,
                view=(layout.map_rows, layout.cols),
                num_kinds=self.num_events,
            )
            events = np.concatenate([told, drawn])[:MAX_EVENTS] if len(drawn) else told
        announce(world.env, events)
        return events

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
            events=_NO_EVENTS,
            rewards=np.zeros(len(none), np.float32),
            terminated=none,
            truncated=none,
        )
        world.ended, world.is_first = False, True
        return Ticked(effects, None)

    def _step(
        self, worlds: Sequence[LiveWorld], given: Mapping[int, Int32Array], told: Mapping[int, Int32Array]
    ) -> list[Ticked]:
        windows = [self.windows(world) for world in worlds]
        actions, events, steps = [], [], []
        for world in worlds:
            assert world.env is not None and world.policy is not None
            chosen = given.get(id(world))
            if chosen is None or (chosen < 0).any():
                own = world.policy.act(world.env, world.snapshot.tick)
                chosen = own if chosen is None else np.where(chosen < 0, own, chosen).astype(np.int32)
            actions.append(chosen)
            events.append(self._befall(world, told.get(id(world), _NO_EVENTS)))
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
                events=events[i],
                rewards=step.rewards,
                terminated=step.terminated,
                truncated=step.truncated,
            )
            chance = self._by_chance(world.snapshot.field, before, step)
            done.append(Ticked(effects, self._row(world, windows[i], before, started, effects, chance)))
            world.is_first = False
            world.ended = bool((step.terminated | step.truncated).all())
        return done

    def _dream(
        self, worlds: Sequence[LiveWorld], given: Mapping[int, Int32Array], told: Mapping[int, Int32Array]
    ) -> list[Ticked]:
        windows = [self.windows(world) for world in worlds]
        events = [told.get(id(world), _NO_EVENTS) for world in worlds]
        dreamt = self._dreamer.tick(
            self.slots(worlds, windows, events),
            [world.snapshot.seed for world in worlds],
            [world.snapshot.tick for world in worlds],
            np.stack([given[id(world)] for world in worlds]) if given else None,
        )
        memories = self._remember(worlds, windows, dreamt.actions, dreamt.rewards)
        done = []
        for i, world in enumerate(worlds):
            before, started = world.snapshot.poses, world.snapshot.memory
            world.snapshot.memory = memories[i]
            # Who has left does not come back in a dream: its story is over, and it gets no more rewards.
            left = gone(before)
            moved = np.where(left[:, None], 0, displacement_of(dreamt.displacement[i])).astype(np.int32)
            effects = self._write(
                world,
                self._dreamt_views(dreamt, i, moved, world.snapshot.field),
                before + moved,
                is_first=False,
                actions=dreamt.actions[i],
                events=events[i],
                rewards=np.where(left, np.float32(0.0), dreamt.rewards[i]),
                terminated=dreamt.terminated[i] | left,
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
        events: Int32Array,
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
            events=events,
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
            turns_at(effects.tick - 1, len(before), self._spec.turn_order),
            started,
            event_slots(effects.events),
            effects.actions,
            effects.rewards,
            effects.terminated,
            effects.truncated,
            self._displacement(before, effects.poses),
            after.observed_at(effects.tick, before, self._margin),
            after.status(),
            by_chance,
            np.bool_(world.is_first),
            np.int32(effects.weights_version),
        )
        return Transitions(*(np.asarray(column)[None] for column in columns))

    def _displacement(self, before: Int32Array, after: Int32Array) -> Uint8Array:
        if not self._spec.layout.map_rows:
            return np.full(len(before), STAY, np.uint8)  # Who leaves a screen goes to no other place.
        return displacement_class(before, after)

    def _by_chance(self, cells: Field, poses: Int32Array, step: Stepped) -> NDArray[np.bool_]:
        _, y, x = cells.window_cells(poses, self._margin)
        unpredictable = step.changes[step.changes[:, 2] == BY_CHANCE]
        mask = np.zeros(y.shape, np.bool_)
        if not cells.layout.map_rows:
            return mask  # What changed is told by places, and the cells of a screen are none.
        for at_y, at_x, _ in unpredictable:
            mask |= (y == at_y) & (x == at_x)
        return mask
