"""One world as its host holds it: live, owned, and with ticks that are not yet acknowledged."""

import numpy as np

from actors.host_config import WorldHostConfig
from actors.requests import NO_REQUEST, Asked, WorldRequests
from world.live import LiveWorld
from world.snapshot import Kind, TickEffects, WorldId
from world.store.inbox import InboxProgress
from world.store.records import Commit, FencingToken
from world.tick import Ticked
from world.trajectory import Chunk, ChunkBuilder

_CHANGE_BYTES = 11
_AGENT_BYTES = 18
_LEEWAY = 0.25
"""Of the time between two ticks."""


class HostedWorld:
    """A live world under a fencing token. What it did is seen by nobody before `acknowledge`."""

    def __init__(
        self,
        live: LiveWorld,
        token: FencingToken,
        config: WorldHostConfig,
        *,
        now: float,
        inbox: InboxProgress | None = None,
    ) -> None:
        """Take a world that was just loaded; `inbox` is how far it has read its inbox, None where it has none."""
        self.live, self.token = live, token
        self.requests = WorldRequests(inbox or InboxProgress())
        """What is asked from outside."""
        self.acknowledged_tick = live.snapshot.tick
        self.committed_at = now
        """When the lease was last prolonged."""
        self.due_at = now
        """When the next tick may be made, for worlds with a pace."""
        self._config = config
        self.leeway_s = min(config.commit_every_s / 2, _LEEWAY / self.pace()) if self.pace() else 0.0
        """How much too early a tick may be made, so that worlds with a pace tick as batches, not one by one."""
        self._unacknowledged: list[Ticked] = []
        self._builder = ChunkBuilder(live.world, token.epoch, config.chunk_ticks)
        self._keyframe_at, self._keyframe_tick, self._bytes_since_keyframe = now, live.snapshot.tick, 0

    @property
    def world(self) -> WorldId:
        """Its id."""
        return self.live.world

    @property
    def kind(self) -> Kind:
        """Grounded or dreamed."""
        return self.live.kind

    @property
    def num_agents(self) -> int:
        """Agents that live in it."""
        return len(self.live.snapshot.poses)

    @property
    def tick(self) -> int:
        """The last tick made, acknowledged or not."""
        return self.live.snapshot.tick

    @property
    def num_unacknowledged(self) -> int:
        """Ticks made and not yet durable."""
        return len(self._unacknowledged)

    @property
    def unacknowledged_items(self) -> int:
        """Agent-ticks of rows that wait for their tick to be durable."""
        return sum(ticked.row is not None for ticked in self._unacknowledged) * self.num_agents

    def pace(self) -> float:
        """Ticks per second that this world may make; 0: no bound."""
        dreamed = self.kind == "dreamed"
        return self._config.dream_ticks_per_s if dreamed else self._config.grounded_ticks_per_s

    def ticked(self, ticked: Ticked, now: float) -> None:
        """Note a tick that was made; a late one is not made up for by a burst."""
        self._unacknowledged.append(ticked)
        self._bytes_since_keyframe += raw_bytes(ticked.effects)
        if self.pace():
            self.due_at = max(self.due_at + 1 / self.pace(), now)

    def asked(self, num_actions: int, num_events: int) -> Asked:
        """Return what is asked of the next tick: nothing of a reset."""
        if self.live.ended:
            return Asked(np.full(self.num_agents, NO_REQUEST, np.int32))
        return self.requests.asked(
            self.tick + 1, num_agents=self.num_agents, num_actions=num_actions, num_events=num_events
        )

    def keyframe_overdue(self, now: float) -> float:
        """Return how far beyond its keyframe's time this world is, as a share of that time; negative: not yet due."""
        config = self._config
        shares = (
            (now - self._keyframe_at) / config.keyframe_every_s,
            self._bytes_since_keyframe / config.keyframe_every_bytes,
            (self.tick - self._keyframe_tick) / config.keyframe_every_ticks,
        )
        return max(shares) - 1.0

    def pending_commit(self, *, keyframe: bool) -> Commit | None:
        """Return the commit of all unacknowledged ticks, if there are any, with or without a keyframe."""
        if not self._unacknowledged:
            return None
        effects = tuple(ticked.effects for ticked in self._unacknowledged)
        return Commit(self.token, effects, self.live.keyframe() if keyframe else None, self.requests.progress())

    def acknowledge(self, commit: Commit, now: float) -> list[Chunk]:
        """Note that a commit is durable, and return the chunks for replay that are complete by it."""
        assert self._unacknowledged[-1].effects.tick == commit.effects[-1].tick
        if commit.keyframe is not None:
            self._keyframe_at, self._keyframe_tick, self._bytes_since_keyframe = now, commit.keyframe.tick, 0
        self.committed_at, self.acknowledged_tick = now, commit.effects[-1].tick
        done, self._unacknowledged = self._unacknowledged, []
        self.requests.acknowledged()
        if self.kind == "dreamed":
            return []
        return [chunk for ticked in done for chunk in self._add(ticked)]

    def flush(self) -> list[Chunk]:
        """Return what is left of an incomplete chunk."""
        chunk = self._builder.flush()
        return [chunk] if chunk else []

    def _add(self, ticked: Ticked) -> list[Chunk]:
        if ticked.row is None:
            return []
        chunk = self._builder.add(ticked.effects.tick - 1, ticked.row)
        return [chunk] if chunk else []


def raw_bytes(effects: TickEffects) -> int:
    """Return about how many bytes a tick's effects are before they are encoded."""
    return (
        len(effects.changes.token) * _CHANGE_BYTES
        + len(effects.poses) * _AGENT_BYTES
        + effects.memory.nbytes
        + effects.events.nbytes
    )
