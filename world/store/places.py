"""Where worlds are wished to be: one hash, world → name of a host.

A wish is no lock: a world whose host dies lives on elsewhere, and returns with it.
"""

from collections.abc import Sequence
from typing import Final

from world.snapshot import WorldId
from world.store.link import Link

_PLACES: Final = "idx:places"


class Places:
    """The wishes of people, which the supervisor of a run follows."""

    def __init__(self, link: Link) -> None:
        self._link = link

    def wish(self, world: WorldId, host: str) -> None:
        """Wish a world to be on a host; an empty name: anywhere. Raises `StoreUnavailable`."""
        command = ("HSET", _PLACES, world, host) if host else ("HDEL", _PLACES, world)
        self._link.answer(self._link.write_all([command])[0])

    def wished(self, worlds: Sequence[WorldId]) -> dict[WorldId, str]:
        """Return the wishes for these worlds; empty names where there is none. Raises `StoreUnavailable`."""
        if not worlds:
            return {}
        found = self._link.one("HMGET", _PLACES, *worlds)
        return {world: (host or b"").decode() for world, host in zip(worlds, found, strict=True)}
