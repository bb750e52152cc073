"""The inboxes of all worlds of a host: read now and then in one round trip, and turned into joint actions.

Axes: B worlds, A agents.
"""

from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from actors.hosted import HostedWorld
from actors.requests import NO_REQUEST
from world.envs.grounded import Int32Array
from world.errors import StoreUnavailable
from world.snapshot import WorldId
from world.store.inbox import Inbox, InboxProgress

_READ: Final = 64
"""Requests of one world read at a time."""


class HostInboxes:
    """What is asked of the agents of hosted worlds from outside; without an inbox, nothing ever is."""

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


def joint_actions(due: Sequence[HostedWorld], num_actions: int) -> Int32Array | None:
    """Return what is asked of the agents of all these worlds (B, A); None if nothing is."""
    asked = [hosted.joint_action(num_actions) for hosted in due]
    if all(actions is None for actions in asked):
        return None
    nothing = (np.full(hosted.num_agents, NO_REQUEST, np.int32) for hosted in due)
    return np.stack([free if actions is None else actions for actions, free in zip(asked, nothing, strict=True)])
