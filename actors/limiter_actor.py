"""The limiter's process."""

from functools import cached_property
from pathlib import Path

from actors.kept_limiter import Debtor, KeptLimiter, LimiterSettings
from actors.ports import LimiterReport
from actors.settings import from_text
from learner.limiter import Grant, LimiterState


class LimiterActor:
    """Takes plain values only, so Ray can rebuild it on any node; its counts are in its directory.

    Built by its first call: what a constructor raises loses its type on the way to the caller.
    """

    def __init__(self, settings: str) -> None:
        self._settings = settings

    def request_inserts(self, num_items: int, debtor: Debtor) -> Grant:
        """As `KeptLimiter`."""
        return self._limiter.request_inserts(num_items, debtor)

    def request_samples(self, num_items: int) -> Grant:
        """As `KeptLimiter`."""
        return self._limiter.request_samples(num_items)

    def return_inserts(self, num_items: int, debtor: Debtor) -> None:
        """As `KeptLimiter`."""
        self._limiter.return_inserts(num_items, debtor)

    def settle_inserts(self, num_items: int, debtor: Debtor) -> None:
        """As `KeptLimiter`."""
        self._limiter.settle_inserts(num_items, debtor)

    def return_samples(self, num_items: int) -> None:
        """As `KeptLimiter`."""
        self._limiter.return_samples(num_items)

    def drain(self) -> None:
        """As `KeptLimiter`."""
        self._limiter.drain()

    def state(self) -> LimiterState:
        """As `KeptLimiter`."""
        return self._limiter.state()

    def load(self, state: LimiterState) -> None:
        """As `KeptLimiter`."""
        self._limiter.load(state)

    def report(self) -> LimiterReport:
        """As `KeptLimiter`."""
        return self._limiter.report()

    @cached_property
    def _limiter(self) -> KeptLimiter:
        read = from_text(self._settings, LimiterSettings)
        return KeptLimiter(read.limiter, Path(read.directory))
