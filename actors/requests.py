"""One world's requests from outside, between its inbox and its ticks.

Axes: A agents, n world events.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from world.envs.grounded import Int32Array
from world.event import MAX_EVENTS, WorldEvent
from world.store.inbox import RESULTS_KEPT, AnyRequest, InboxProgress, Posted, Prompt, RequestResult

NO_REQUEST = -1
"""Stands in a joint action for an agent that nobody outside moves: its policy does."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What is asked of one tick."""

    actions: Int32Array
    """(A,) `NO_REQUEST` for agents of whom nothing is asked."""
    events: list[WorldEvent] = field(default_factory=list)
    """In the order in which they were posted."""

    def take(self, request: AnyRequest) -> bool:
        """Take a request that is possible; False where this tick has no room for it."""
        if isinstance(request, Prompt):
            if len(self.events) == MAX_EVENTS:
                return False
            self.events.append(request.event)
            return True
        if self.actions[request.agent] != NO_REQUEST:
            return False
        self.actions[request.agent] = request.action
        return True


class WorldRequests:
    """Hands each request to one tick, in order of arrival, and says what the commit of that tick must carry."""

    def __init__(self, progress: InboxProgress) -> None:
        """Go on from what was committed last."""
        self._cursor = self.read_up_to = progress.cursor
        self._known = dict.fromkeys(result.request_id for result in progress.results)
        self._waiting: deque[Posted] = deque()
        self._results: list[RequestResult] = []
        self._moved = False

    @property
    def num_waiting(self) -> int:
        """Requests that were read and have met no tick yet."""
        return len(self._waiting)

    def take_in(self, posted: Sequence[Posted]) -> None:
        """Take what was read after `read_up_to`."""
        self._waiting.extend(posted)
        if posted:
            self.read_up_to = posted[-1].cursor

    def asked(self, tick: int, *, num_agents: int, num_actions: int, num_events: int = 0) -> Asked:
        """Return what is asked of `tick`.

        An agent takes one action a tick, and a tick so many events: one more waits, and with it all that came later.
        """
        asked = Asked(np.full(num_agents, NO_REQUEST, np.int32))
        while self._waiting:
            request = self._waiting[0].request
            if request is not None and request.request_id not in self._known:
                if isinstance(request, Prompt):
                    possible = request.event.kind <= num_events
                else:
                    possible = request.agent < num_agents and request.action < num_actions
                if possible and not asked.take(request):
                    break
                self._note(request, tick, possible)
            self._cursor, self._moved = self._waiting.popleft().cursor, True
        return asked

    def progress(self) -> InboxProgress | None:
        """Return what the ticks since the last acknowledged commit have answered; None if nothing was read."""
        return InboxProgress(self._cursor, tuple(self._results)) if self._moved else None

    def acknowledged(self) -> None:
        """Note that what `progress` said is durable."""
        self._results, self._moved = [], False

    def _note(self, request: AnyRequest, tick: int, possible: bool) -> None:
        self._results.append(RequestResult(request.request_id, tick, possible))
        self._known[request.request_id] = None
        if len(self._known) > RESULTS_KEPT:
            del self._known[next(iter(self._known))]
