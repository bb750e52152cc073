"""What a grounded world needs of an environment: arrays in a fixed order of agents.

Axes: A agents, R × C rows and columns of a view (in cells), M components of a discrete observation.
"""

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

Uint8Array = NDArray[np.uint8]
Int32Array = NDArray[np.int32]
Float32Array = NDArray[np.float32]
BoolArray = NDArray[np.bool_]

TurnOrder = Literal["fixed", "rotating"]

BY_CHANCE = -2
"""Cause of a change that nobody can predict (a wandering animal); left out of consistency scores."""
BY_NATURE = -1
"""Cause of a change by the world's own rules (growth, decay, a door that closes)."""
BY_EVENT = -3
"""Cause of a change by a world event, where chance had no part in it."""
NOWHERE = -(1 << 30)
"""Row of the pose of an agent that has left: beyond all places, and near enough that differences of places fit into 32
bits."""
_APART = 1 << 16
EVENT_REACH = 2
"""Cells from its place, along rows and columns, beyond which a world event changes nothing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ViewLayout:
    """How one agent's observation becomes cells of the token field."""

    rows: int
    """Rows of the token grid of one observation."""
    cols: int
    """Columns of the token grid of one observation."""
    map_rows: int
    """The first `map_rows` rows are places around the agent's pose, in the centre, north up; the rows below
    are its status (inventory, health). 0: the environment gives no pose and the whole grid is a screen."""
    tile_px: int
    """Pixels on a side of one cell; 0 where the observation is discrete and already tokens."""
    num_values: int = 0
    """Discrete observations only: the number of distinct values of a component."""

    @property
    def status_cells(self) -> int:
        """Cells of the status rows."""
        return (self.rows - self.map_rows) * self.cols if self.map_rows else 0


@dataclass(frozen=True, kw_only=True, slots=True)
class EnvSpec:
    """The fixed facts of one environment."""

    name: str
    agents: tuple[str, ...]
    num_actions: int
    layout: ViewLayout
    turn_order: TurnOrder = "fixed"
    """Who acts first where joint actions conflict: always in the order of agents, or the first place moves on by
    one agent every tick."""
    solid: bool = False
    """Whether, at its turn, no agent comes to a cell of the map that another is on."""
    events: tuple[str, ...] = ()
    """Phrases of the world events that it can execute (`world.event`), by kind from 1."""


@dataclass(frozen=True, slots=True)
class Observed:
    """What all agents perceive at one tick."""

    views: Uint8Array | Int32Array
    """(A, height, width, 3) uint8 images, or (A, R*C) int32 values of a discrete observation."""
    poses: Int32Array
    """(A, 2) place (y, x) of each agent in world coordinates; zeros where there is no pose. Row `NOWHERE` where the
    agent has left, whose view then counts for nothing."""


@dataclass(frozen=True, slots=True)
class Stepped:
    """What one joint action led to."""

    observed: Observed
    rewards: Float32Array
    """(A,)"""
    terminated: BoolArray
    """(A,) the agent's story ended by the rules; the value of what follows is zero."""
    truncated: BoolArray
    """(A,) the episode was cut; what follows still has value."""
    changes: Int32Array
    """(n, 3) rows (y, x, cause): cells that changed, by agent index, `BY_NATURE`, `BY_CHANCE` or `BY_EVENT`. May be
    empty."""


def nowhere(num_agents: int) -> Int32Array:
    """Return the poses (A, 2) of agents that have left: in row `NOWHERE`, where none of them is near another."""
    columns = np.arange(num_agents, dtype=np.int32) * _APART
    return np.stack([np.full_like(columns, NOWHERE), columns], axis=1)


def gone(poses: Int32Array) -> BoolArray:
    """Return which agents (…) at poses (…, 2) have left."""
    has_left: BoolArray = poses[..., 0] == NOWHERE
    return has_left


class GroundedEnv(Protocol):
    """A real environment, adapted. Equal seeds and actions give equal steps."""

    spec: EnvSpec

    def reset(self, seed: int) -> Observed:
        """Begin the episode that `seed` determines."""

    def step(self, actions: Int32Array) -> Stepped:
        """Apply the joint action (A,)."""

    def snapshot(self) -> bytes:
        """Return the state as plain bytes, enough for `restore` to go on exactly. Never a pickle."""

    def restore(self, blob: bytes) -> Observed:
        """Return to a snapshot. Raises `EnvironmentUnusable` if the environment does not reproduce it."""


@runtime_checkable
class Eventful(Protocol):
    """An environment that can execute the world events which its `spec.events` names."""

    def announce(self, events: Int32Array) -> None:
        """Let events (n, 3), rows of kind, y, x, befall the next `step`, in order, after its actions.

        What is announced is no part of a snapshot, and forgotten by a reset or a restore. Raises `ValueError` for a
        kind that there is none of.
        """


def announce(env: object, events: Int32Array) -> None:
    """Let events (n, 3) befall the next step of an environment, which, where there are any, must be `Eventful`."""
    if len(events):
        assert isinstance(env, Eventful), f"{type(env).__name__} executes no events"
        env.announce(events)


class DataPolicy(Protocol):
    """A scripted policy that makes training data; it may look at the environment's truth."""

    def act(self, env: GroundedEnv, tick: int) -> Int32Array:
        """Return the joint action (A,) for the present tick."""
