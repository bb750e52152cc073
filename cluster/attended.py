"""One process under supervision: at most one call under way, its deaths counted, its stalls noticed."""

import time
from collections.abc import Callable
from typing import Generic, Protocol, TypeVar

from actors.ports import Call, PeerFailed, PeerLost


class Reporting(Protocol):
    """What every report says."""

    @property
    def pid(self) -> int:
        """Process that reports."""


R = TypeVar("R", bound=Reporting)
_LONGEST_PAUSE_S = 2.0


class Attended(Generic[R]):
    """What is known of a process from its answers alone."""

    def __init__(self, name: str, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.name, self._clock = name, clock
        self.pid: int | None = None
        """Of its last report."""
        self.deaths = 0
        """Times another process answered under this name."""
        self.failures = 0
        """Errors in a row, without a process that answered twice between them."""
        self.last_failure = ""
        """What the last of them said."""
        self.failed = False
        """It met such an error, and nobody has acted on it yet."""
        self.away_since: float | None = None
        """Since when it has not answered, if it does not."""
        self.call: Call[R] | None = None
        self._late_at = 0.0
        self._not_before = 0.0
        self._pause_s = 0.0

    @property
    def idle(self) -> bool:
        """No call is under way, and another may be sent."""
        return self.call is None and self._clock() >= self._not_before

    @property
    def late(self) -> bool:
        """The call under way should have been answered long ago."""
        return self.call is not None and self._clock() > self._late_at

    def send(self, call: Call[R], *, within_s: float) -> None:
        """Note a call that was sent, to be answered within this time."""
        assert self.call is None
        self.call, self._late_at = call, self._clock() + within_s

    def give_up(self) -> None:
        """Expect no answer to the call under way: its process is being killed."""
        self.call = None
        self._lost()

    def rest(self, seconds: float) -> None:
        """Send it nothing for a while."""
        self._not_before = self._clock() + seconds

    def take(self) -> R | None:
        """Return the report if it has come; None if it is under way, or the process was lost.

        Raises what the process refused with; the call is then over.
        """
        if self.call is None or not self.call.done():
            return None
        call, self.call = self.call, None
        try:
            report = call.result()
        except PeerLost:
            self._lost()
            return None
        except PeerFailed as error:
            self.failures += 1
            self.last_failure, self.failed = str(error), True
            self._lost()
            return None
        self.deaths += self.pid is not None and self.pid != report.pid
        if self.pid == report.pid:
            # A process made anew answers its first call, and may fail at the work as the one before did.
            self.failures = 0
        self.pid, self.away_since, self._pause_s = report.pid, None, 0.0
        return report

    def _lost(self) -> None:
        now = self._clock()
        self.away_since = now if self.away_since is None else self.away_since
        self._pause_s = min(max(2 * self._pause_s, 0.1), _LONGEST_PAUSE_S)
        self._not_before = now + self._pause_s
