"""Rate limiter: holds samples per insert. It answers at once and never blocks; whoever is refused asks again.

Items are agent-ticks. The idea of a limiter that refuses settings which deadlock is Reverb's (arXiv 2102.04736, §3.4);
the condition below is our own. All sums are whole numbers, so nothing drifts however long a run is.
"""

import math
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NamedTuple

from world.errors import ConfigError, ReplayError


@dataclass(frozen=True, kw_only=True, slots=True)
class LimiterConfig:
    """How much is learned from what is collected, and how far one may run ahead of the other."""

    samples_per_insert: float = 4.0
    """Items sampled for each item inserted. Taken as the decimal it is written as."""
    min_items: int = 4096
    """Items inserted before the first may be sampled."""
    max_ahead_items: int = 16384
    """Items that may be inserted beyond `min_items` and what the samples taken so far call for."""
    max_insert_items: int = 1024
    """Largest single request to insert."""
    max_sample_items: int = 16384
    """Largest single request to sample."""
    retry_after_s: float = 0.02
    """What a refused caller is told to wait."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.samples_per_insert) and self.samples_per_insert > 0):
            raise ConfigError(f"limiter.samples_per_insert must be > 0, got {self.samples_per_insert}")
        for name in ("min_items", "max_insert_items", "max_sample_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"limiter.{name} must be >= 1, got {getattr(self, name)}")
        if not (math.isfinite(self.retry_after_s) and self.retry_after_s > 0):
            raise ConfigError(f"limiter.retry_after_s must be > 0, got {self.retry_after_s}")
        if self.max_ahead_items < self.least_ahead_items:
            raise ConfigError(
                f"limiter.max_ahead_items = {self.max_ahead_items} would deadlock: inserts of {self.max_insert_items}"
                f" and samples of {self.max_sample_items} at {self.samples_per_insert} samples per insert"
                f" with min_items = {self.min_items} need at least {self.least_ahead_items}"
            )

    @property
    def ratio(self) -> Fraction:
        """`samples_per_insert`, exact."""
        return Fraction(str(self.samples_per_insert))

    @property
    def least_ahead_items(self) -> int:
        """Smallest `max_ahead_items` with which one side may always go on.

        Before `min_items` an insert must fit: max_insert_items. After, let both be refused: then
        inserts − samples/ratio < max_sample_items/ratio, and > min_items + max_ahead_items − max_insert_items.
        """
        both = self.max_insert_items + math.ceil(self.max_sample_items / self.ratio) - self.min_items
        return max(self.max_insert_items, both)


class Grant(NamedTuple):
    """The answer to a request: so many items may be inserted or sampled; if none, ask again after a while."""

    granted: int
    retry_after_s: float
    """0 where all was granted, infinite where asking again is of no use."""

    def __bool__(self) -> bool:
        return self.granted > 0


@dataclass(frozen=True, kw_only=True, slots=True)
class LimiterState:
    """What a checkpoint keeps of a limiter."""

    inserts: int
    """Items inserted so far."""
    samples: int
    """Items sampled so far."""


class RateLimiter:
    """Counts items granted to writers and to learners. What is granted counts as done until it is returned."""

    def __init__(self, config: LimiterConfig) -> None:
        self._config = config
        self._numerator, self._denominator = config.ratio.as_integer_ratio()
        self._inserts = self._samples = 0
        self._draining = False

    @property
    def error(self) -> float:
        """Items that are still to be sampled for the ratio to be exact; negative if too many were."""
        return self._owed / self._denominator

    def request_inserts(self, num_items: int) -> Grant:
        """Ask to insert `num_items`: all or none. Raises `ReplayError` beyond `max_insert_items`."""
        self._check(num_items, self._config.max_insert_items, "insert")
        if self._draining:
            return Grant(0, math.inf)
        allowed = self._config.min_items + self._config.max_ahead_items - num_items
        if self._owed > allowed * self._numerator:
            return Grant(0, self._config.retry_after_s)
        self._inserts += num_items
        return Grant(num_items, 0.0)

    def request_samples(self, num_items: int) -> Grant:
        """Ask to sample `num_items`: all or none, but when draining, as many as are left.

        Raises `ReplayError` beyond `max_sample_items`.
        """
        self._check(num_items, self._config.max_sample_items, "sample")
        if self._draining:
            granted = min(num_items, self._left_to_drain())
            self._samples += granted
            return Grant(granted, 0.0 if granted == num_items else math.inf)
        if self._inserts < self._config.min_items or num_items * self._denominator > self._owed:
            return Grant(0, self._config.retry_after_s)
        self._samples += num_items
        return Grant(num_items, 0.0)

    def return_inserts(self, num_items: int) -> None:
        """Give back what was granted and not inserted. Raises `ReplayError` for more than was ever granted."""
        self._check(num_items, self._inserts, "return of inserts")
        self._inserts -= num_items

    def return_samples(self, num_items: int) -> None:
        """Give back what was granted and not sampled. Raises `ReplayError` for more than was ever granted."""
        self._check(num_items, self._samples, "return of samples")
        self._samples -= num_items

    def drain(self) -> None:
        """Stop cleanly: refuse inserts, and grant samples until samples = inserts · ratio, to the item."""
        self._draining = True

    def rederive_minimum(self, min_items: int) -> None:
        """Take another `min_items`, as when a shard died or came back. Raises `ConfigError` if it would deadlock."""
        self._config = replace(self._config, min_items=min_items)

    def state(self) -> LimiterState:
        """Return what a checkpoint keeps."""
        return LimiterState(inserts=self._inserts, samples=self._samples)

    def load(self, state: LimiterState) -> None:
        """Go on from a checkpoint, not draining. Raises `ReplayError` for negative counts."""
        if state.inserts < 0 or state.samples < 0:
            raise ReplayError(f"limiter: counts must be >= 0, got {state}")
        self._inserts, self._samples, self._draining = state.inserts, state.samples, False

    @property
    def _owed(self) -> int:
        """Samples that the inserts call for beyond those taken, in units of 1/denominator."""
        return self._inserts * self._numerator - self._samples * self._denominator

    def _left_to_drain(self) -> int:
        # Whoever stops before the first sample was allowed has learned nothing, and need not start now.
        started = self._samples > 0 or self._inserts >= self._config.min_items
        return max(self._owed // self._denominator, 0) if started else 0

    def _check(self, num_items: int, most: int, what: str) -> None:
        if not 1 <= num_items <= most:
            raise ReplayError(f"limiter: {what} of {num_items} items, allowed are 1 … {most}")
