"""Prefetching: batches are asked for and drawn while the learner computes.

Knows nothing of where sequences lie: who grants samples, and who draws them, are ports.
"""

import math
import queue
import threading
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from learner.limiter import Grant
from world.errors import ConfigError

Columns = Mapping[str, NDArray[np.generic]]


class SampleLimiter(Protocol):
    """Who says how much may be sampled. Answers within moments; a limiter that is away grants nothing."""

    def request_samples(self, num_items: int) -> Grant:
        """Ask to sample `num_items` agent-ticks: all or none, but when draining, as many as are left."""

    def return_samples(self, num_items: int) -> None:
        """Give back what was granted and not sampled."""


class SequenceSource(Protocol):
    """Where sequences are drawn."""

    def draw(self, num_sequences: int, length: int) -> Columns | None:
        """Return columns (B, L, …) of `Transitions`, or None if there are none to be had at the moment."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PrefetchConfig:
    """What is drawn, and how far ahead."""

    num_sequences: int
    """B."""
    length: int
    """L, in ticks."""
    num_agents: int
    """A: with B and L, the items of a batch."""
    depth: int = 2
    """Batches that wait."""
    retry_after_s: float = 0.05
    """Pause where no sequences are to be had."""

    def __post_init__(self) -> None:
        for name in ("num_sequences", "length", "num_agents", "depth"):
            if getattr(self, name) < 1:
                raise ConfigError(f"prefetch.{name} must be >= 1, got {getattr(self, name)}")

    @property
    def num_items(self) -> int:
        """Agent-ticks of a batch: what the limiter counts."""
        return self.num_sequences * self.length * self.num_agents


class Prefetcher:
    """A thread that keeps a few batches ready. What it could not draw it gives back to the limiter."""

    def __init__(self, config: PrefetchConfig, *, limiter: SampleLimiter, source: SequenceSource) -> None:
        self._config, self._limiter, self._source = config, limiter, source
        self._ready: queue.Queue[Columns] = queue.Queue(config.depth)
        self._closing, self._drained = threading.Event(), threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="prefetch", daemon=True)
        self._thread.start()

    @property
    def drained(self) -> bool:
        """The limiter will grant no further batch, and all that were drawn have been taken."""
        return self._drained.is_set() and self._ready.empty()

    def next(self, timeout_s: float) -> Columns | None:
        """Return a batch, or None if none came in time. Raises what the thread died of."""
        if self._failure is not None:
            raise self._failure
        try:
            return self._ready.get(timeout=max(timeout_s, 0.001))
        except queue.Empty:
            return None

    def close(self) -> None:
        """End the thread, and give back what was drawn and not taken."""
        self._closing.set()
        while self._thread.is_alive():
            self._give_back_ready()
            self._thread.join(0.05)
        self._give_back_ready()

    def _run(self) -> None:
        try:
            while not self._closing.is_set():
                self._prefetch()
        except BaseException as error:  # noqa: BLE001 - told by `next`, in the thread that can act on it.
            self._failure = error

    def _prefetch(self) -> None:
        wanted = self._config.num_items
        grant = self._limiter.request_samples(wanted)
        if grant.granted < wanted:
            if grant.granted:
                self._limiter.return_samples(grant.granted)
            if math.isinf(grant.retry_after_s):
                self._drained.set()
            self._closing.wait(min(grant.retry_after_s, 0.25))
            return
        columns = self._source.draw(self._config.num_sequences, self._config.length)
        if columns is None:
            self._limiter.return_samples(wanted)
            self._closing.wait(self._config.retry_after_s)
            return
        self._offer(columns)

    def _offer(self, columns: Columns) -> None:
        while not self._closing.is_set():
            try:
                self._ready.put(columns, timeout=0.1)
            except queue.Full:
                continue
            return
        self._limiter.return_samples(self._config.num_items)

    def _give_back_ready(self) -> None:
        while True:
            try:
                self._ready.get_nowait()
            except queue.Empty:
                return
            self._limiter.return_samples(self._config.num_items)
