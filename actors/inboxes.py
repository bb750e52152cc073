"""The inboxes of all worlds of a host: read now and then in one round trip, and turned into joint actions and events.

Axes: B worlds, A agents, E event slots.
"""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from actors.hosted import HostedWorld
from actors.requests import NO_REQUEST
from world.envs.grounded import Int32Array
from world.errors import StoreUnavailable
from world.event import event_slots
from world.snapshot import WorldId
from world.store.inbox import Inbox, InboxProgress

_READ: Final = 64
"""Requests of one world read at a time."""


class HostInboxes:
    """What is asked of hosted worlds from outside; without an inbox, nothing ever is."""

    def __init__(self, inbox: Inbox | None, every_s: float) -> None:
        self._inbox, self._every_s = inbox, every_s
        self._looked_at = float("-inf")

    def progress(self, world: WorldId) -> InboxProgress | None:
        """Return how far a world has read, as it was committed last. Raises `StoreUnavailable`."""
        return self._inbox.progress(world) if self._inbox is not None else None

    def read(self, hosted: Collection[HostedWorld], now: float) -> None:
        """Give each world what was posted to it since, unless this was done a moment ago."""
        if self._inbox is None or now - self._looked_at < self._every_s:
            return
        self._looked_at = now
        hungry = {h.world: h for h in hosted if h.requests.num_waiting < _READ}
        try:
            posted = self._inbox.read({world: h.requests.read_up_to for world, h in hungry.items()}, _READ)
        except StoreUnavailable:
            # Requests wait where they are; that worlds must pause is for the commit to find.
            return
        for world, entries in posted.items():
            hungry[world].requests.take_in(entries)


def asked_of(
    due: Sequence[HostedWorld], num_actions: int, num_events: int
) -> tuple[Int32Array | None, Int32Array | None]:
    """Return the actions (B, A) and the events (B, E, 3) that are asked of these worlds; None where nothing is."""
    if not any(hosted.requests.num_waiting for hosted in due):
        return None, None
    asked = [hosted.asked(num_actions, num_events) for hosted in due]
    actions = np.stack([of_world.actions for of_world in asked])
    events = np.stack([event_slots(of_world.events) for of_world in asked])
    return (actions if (actions != NO_REQUEST).any() else None), (events if events.any() else None)
