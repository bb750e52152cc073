"""A world host's process."""

from collections.abc import Mapping, Sequence
from functools import cached_property

from actors.clients import LimiterClient, ShardsClient, WeightsClient
from actors.host_process import HostSettings, build_host
from actors.ports import HostReport
from actors.settings import from_text
from actors.world_host import WorldHost
from world.snapshot import WorldId


class WorldHostActor:
    """Takes plain values only, so Ray can rebuild it on any node; its worlds are in the store.

    Built by its first call: what a constructor raises loses its type on the way to the caller.
    """

    def __init__(self, name: str, namespace: str, settings: str) -> None:
        self._name, self._namespace, self._settings = name, namespace, settings

    def adopt(self, worlds: Sequence[WorldId]) -> HostReport:
        """As `WorldHost`."""
        return self._host.adopt(worlds)

    def drop(self, worlds: Sequence[WorldId]) -> HostReport:
        """As `WorldHost`."""
        return self._host.drop(worlds)

    def run_until(self, targets: Mapping[WorldId, int], budget_s: float) -> HostReport:
        """As `WorldHost`."""
        return self._host.run_until(targets, budget_s)

    def stop(self) -> HostReport:
        """As `WorldHost`."""
        return self._host.stop()

    @cached_property
    def _host(self) -> WorldHost:
        read = from_text(self._settings, HostSettings)
        return build_host(
            self._name,
            read,
            sink=ShardsClient(read.shards, self._namespace),
            limiter=LimiterClient(self._namespace, self._name),
            weights=WeightsClient(self._namespace),
        )
