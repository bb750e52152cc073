"""Worlds that people make beside a run's own, by forking, rewinding or importing, and those that they repair: a run
that can host them does.
"""

import time
from collections.abc import Callable, Collection, Iterable

from world.snapshot import WorldId
from world.store.records import WorldRecord

LOOK_EVERY_S = 5.0


class Guests:
    """Finds worlds of the same environment and tokenizer that nobody hosts.

    On the run's own server all of them are welcome; on a server that others use too, only worlds that this run has
    had, and those that descend from them, since an idle world of another run is that run's.
    """

    def __init__(
        self,
        records: Callable[[], Iterable[WorldRecord]],
        *,
        env: str,
        tokenizer: str,
        descendants_only: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._records, self._env, self._tokenizer = records, env, tokenizer
        self._descendants_only, self._clock = descendants_only, clock
        self._look_at = float("-inf")
        self._family: set[WorldId] = set()
        """Every world that was ever known."""

    def newcomers(self, known: Collection[WorldId]) -> list[WorldRecord]:
        """Return worlds that may be hosted beside the `known` ones; looks only now and then.

        Raises `StoreUnavailable`.
        """
        self._family.update(known)
        if self._clock() < self._look_at:
            return []
        found = [record for record in self._records() if self._is_welcome(record, known)]
        self._look_at = self._clock() + LOOK_EVERY_S
        return found

    def _is_welcome(self, record: WorldRecord, known: Collection[WorldId]) -> bool:
        return (
            record.world not in known
            and record.status == "running"
            and not record.owner
            and (record.env, record.tokenizer) == (self._env, self._tokenizer)
            and (not self._descendants_only or record.world in self._family or record.parent in self._family)
        )
