"""Which world belongs on which host, and what a host should do about it next."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from actors.ports import HostReport, Lost
from world.snapshot import WorldId

_RETRY_AFTER_S = 1.0
_PAUSED_RETRY_S = 5.0
"""A world that is paused may be let go on by a person, or by its archiver."""
_FOR_EVER = frozenset({"CorruptRecord", "EnvironmentUnusable", "NewerSchema", "UnknownWorld", "WorldTooLarge"})
"""Errors after which taking the world again is of no use."""


@dataclass(frozen=True, slots=True)
class Orders:
    """What a host should do; the first that is not empty comes first."""

    drop: list[WorldId]
    adopt: list[WorldId]
    hosted: dict[WorldId, int]
    """Worlds that it has, and the tick last acknowledged."""


class Assignment:
    """Spreads worlds evenly over the hosts that are there. It compares what should be with what is reported."""

    def __init__(self, hosts: Sequence[str], *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._hosted: dict[str, dict[WorldId, int]] = {host: {} for host in hosts}
        self._available = dict.fromkeys(hosts, True)
        self._host_of: dict[WorldId, str] = {}
        self._wished: dict[WorldId, str] = {}
        self._retry_at: dict[WorldId, float] = {}
        self.abandoned: dict[WorldId, Lost] = {}
        """Worlds that cannot be hosted at all, and how they were lost."""

    @property
    def worlds(self) -> list[WorldId]:
        """Worlds that are somewhere, or on their way."""
        return list(self._host_of)

    @property
    def known(self) -> list[WorldId]:
        """Worlds that it has, or has abandoned for good: a damaged one, which is quarantined, may be repaired."""
        for_good = (world for world, lost in self.abandoned.items() if lost.error != "CorruptRecord")
        return [*self._host_of, *for_good]

    def add(self, world: WorldId) -> None:
        """Give a world to the host that has the fewest."""
        self.abandoned.pop(world, None)
        self._host_of[world] = self._least()

    def wish(self, world: WorldId, host: str) -> None:
        """Keep a world on a host whenever that is there; an empty name: anywhere. What is unknown is passed over."""
        if world not in self._host_of or host == self._wished.get(world, ""):
            return
        if host and host not in self._available:
            return
        self._wished.pop(world, None)
        if host:
            self._wished[world] = host
            if self._available[host]:
                self._host_of[world] = host

    def reported(self, report: HostReport) -> None:
        """Note what a host has, and what it lost."""
        self._hosted[report.host] = dict(report.ticks)
        for lost in report.lost:
            self._lost(lost)

    def away(self, host: str) -> None:
        """Note that a host's process is gone, and with it what it had."""
        self._hosted[host] = {}

    def set_available(self, host: str, available: bool) -> None:
        """Note whether worlds may be on a host; those of one that is not go to the others."""
        if self._available[host] == available:
            return
        self._available[host] = available
        if not any(self._available.values()):
            return
        for world in [world for world, at in self._host_of.items() if at == host and not available]:
            self._host_of[world] = self._least()
        for world, wished in self._wished.items():
            if available and wished == host and world in self._host_of:
                self._host_of[world] = host
        while len(self._of(most := self._most())) - len(self._of(least := self._least())) > 1:
            free = [world for world in self._of(most) if self._wished.get(world) != most]
            if not free:
                break
            self._host_of[free[-1]] = least

    def orders(self, host: str) -> Orders:
        """Return what a host should drop, adopt, and has."""
        mine, hosted, now = set(self._of(host)), self._hosted[host], self._clock()
        # A world that moves is let go before it is taken: asking earlier would only find its lease held.
        elsewhere = {world for other, worlds in self._hosted.items() if other != host for world in worlds}
        return Orders(
            drop=[world for world in hosted if world not in mine],
            adopt=[
                world
                for world in self._of(host)
                if world not in hosted and world not in elsewhere and now >= self._retry_at.get(world, 0.0)
            ],
            hosted=hosted,
        )

    def _lost(self, lost: Lost) -> None:
        if lost.error in _FOR_EVER:
            self._host_of.pop(lost.world, None)
            self.abandoned[lost.world] = lost
        else:
            after_s = _PAUSED_RETRY_S if lost.error == "NotRunning" else _RETRY_AFTER_S
            self._retry_at[lost.world] = self._clock() + after_s

    def _of(self, host: str) -> list[WorldId]:
        return [world for world, at in self._host_of.items() if at == host]

    def _candidates(self) -> list[str]:
        return [host for host, available in self._available.items() if available] or list(self._available)

    def _least(self) -> str:
        return min(self._candidates(), key=lambda host: len(self._of(host)))

    def _most(self) -> str:
        return max(self._candidates(), key=lambda host: len(self._of(host)))
