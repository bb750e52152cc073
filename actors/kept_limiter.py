"""A rate limiter whose counts outlive its process, but for the last moments."""

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from actors.ports import LimiterReport
from learner.limiter import Grant, LimiterConfig, LimiterState, RateLimiter
from world.durable import write_file
from world.errors import ReplayError

_KEEP_EVERY_S = 0.5


@dataclass(frozen=True, kw_only=True, slots=True)
class LimiterSettings:
    """What the limiter is built from."""

    directory: str
    limiter: LimiterConfig


class Debtor(NamedTuple):
    """Who was granted inserts: a process's name, and which of those that bore it one after another."""

    name: str
    incarnation: str


class _Debt(NamedTuple):
    """Items granted to an incarnation that replay does not have yet."""

    incarnation: str
    items: int


@dataclass(frozen=True, slots=True)
class _Kept:
    """What outlives the process."""

    counts: LimiterState
    debts: dict[str, _Debt]


class KeptLimiter:
    """Writes the limiter's counts beside it as they change, at most every half second.

    Grants of the last half second before a crash are forgotten on both sides alike, so the ratio barely moves. What
    was granted to a process that died before replay had it is taken back when its successor asks.
    """

    FILE = "limiter.json"

    def __init__(self, config: LimiterConfig, directory: Path, clock: Callable[[], float] = time.monotonic) -> None:
        """Go on from the counts in `directory`, if there are any. Raises `ReplayError` if they cannot be read."""
        self._limiter, self._path, self._clock = RateLimiter(config), directory / self.FILE, clock
        self._kept_at = clock()
        self._debts: dict[str, _Debt] = {}
        directory.mkdir(parents=True, exist_ok=True)
        if self._path.exists():
            kept = _read(self._path)
            self._limiter.load(kept.counts)
            self._debts = kept.debts

    def request_inserts(self, num_items: int, debtor: Debtor) -> Grant:
        """As `RateLimiter`; granted items are owed until they are settled or returned."""
        self._take_over(debtor)
        grant = self._limiter.request_inserts(num_items)
        self._owe(debtor, grant.granted)
        self._keep_now_and_then()
        return grant

    def request_samples(self, num_items: int) -> Grant:
        """As `RateLimiter`."""
        grant = self._limiter.request_samples(num_items)
        self._keep_now_and_then()
        return grant

    def return_inserts(self, num_items: int, debtor: Debtor) -> None:
        """As `RateLimiter`."""
        self._take_over(debtor)
        self._owe(debtor, -num_items)
        self._limiter.return_inserts(num_items)
        self._keep()

    def settle_inserts(self, num_items: int, debtor: Debtor) -> None:
        """Note that replay has so many of the items granted."""
        self._take_over(debtor)
        self._owe(debtor, -num_items)
        self._keep_now_and_then()

    def return_samples(self, num_items: int) -> None:
        """As `RateLimiter`."""
        self._limiter.return_samples(num_items)
        self._keep()

    def drain(self) -> None:
        """As `RateLimiter`."""
        self._limiter.drain()

    def state(self) -> LimiterState:
        """Return the counts for a checkpoint: of the inserts granted, those that replay has."""
        counts = self._limiter.state()
        owed = sum(debt.items for debt in self._debts.values())
        return LimiterState(inserts=max(counts.inserts - owed, 0), samples=counts.samples)

    def load(self, state: LimiterState) -> None:
        """Go on from these counts. Raises `ReplayError` for negative ones."""
        self._limiter.load(state)
        self._debts = {}
        self._keep()

    def report(self) -> LimiterReport:
        """Return the counts, for whoever watches."""
        state = self._limiter.state()
        return LimiterReport(os.getpid(), state.inserts, state.samples, self._limiter.error)

    def _take_over(self, debtor: Debtor) -> None:
        """Take back what a dead incarnation owes: it can never be inserted."""
        debt = self._debts.get(debtor.name)
        if debt is None or debt.incarnation != debtor.incarnation:
            lost = min(debt.items, self._limiter.state().inserts) if debt else 0
            if lost:
                self._limiter.return_inserts(lost)
            self._debts[debtor.name] = _Debt(debtor.incarnation, 0)

    def _owe(self, debtor: Debtor, num_items: int) -> None:
        owed = self._debts[debtor.name].items + num_items
        self._debts[debtor.name] = _Debt(debtor.incarnation, max(owed, 0))

    def _keep_now_and_then(self) -> None:
        if self._clock() - self._kept_at >= _KEEP_EVERY_S:
            self._keep()

    def _keep(self) -> None:
        write_file(self._path, msgspec.json.encode(_Kept(self._limiter.state(), self._debts)))
        self._kept_at = self._clock()


def _read(path: Path) -> _Kept:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Kept)
    except msgspec.DecodeError as error:
        raise ReplayError(f"{path}: is no limiter state ({error}); delete it to begin from the checkpoint") from error
