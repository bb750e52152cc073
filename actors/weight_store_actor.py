"""The weight store's process."""

import os
from functools import cached_property
from pathlib import Path

from actors.ports import WeightsReport
from learner.weights import WeightSet, WeightStore


class WeightStoreActor:
    """Takes plain values only, so Ray can rebuild it on any node; the newest weights are in its directory.

    Built by its first call: what a constructor raises loses its type on the way to the caller.
    """

    def __init__(self, directory: str) -> None:
        self._directory = directory

    def publish(self, weights: WeightSet) -> bool:
        """As `WeightStore`; the buffer is copied out of the object store, which may let go of it."""
        own = WeightSet(
            weights.epoch, weights.version, weights.names, weights.shapes, weights.dtypes, weights.buffer.copy()
        )
        return self._store.publish(own)

    def newest(self, newer_than: tuple[int, int]) -> WeightSet | None:
        """As `WeightStore`."""
        return self._store.newest(newer_than)

    def report(self) -> WeightsReport:
        """Return what is kept, for whoever watches."""
        newest = self._store.newest()
        return WeightsReport(os.getpid(), newest.order if newest else (0, 0))

    @cached_property
    def _store(self) -> WeightStore:
        return WeightStore(Path(self._directory))
