"""What the supervisor needs of the processes of a run, without saying how they are started or joined."""

from collections.abc import Mapping, Sequence
from typing import Protocol

from actors.ports import Call, HostReport, LimiterReport, ShardReport, WeightsReport
from learner.loop import LearnerReport
from world.snapshot import WorldId
from world.store.records import WorldRecord


class Fleet(Protocol):
    """The processes of a run, by name. Calls are sent and answered later; none of these waits."""

    def ensure(self, name: str) -> None:
        """Make a process that is not there; harmless for one that is."""

    def kill(self, name: str, pid: int | None) -> None:
        """Kill a stuck process; another takes its place."""

    def wait(self, calls: Sequence[Call[object]], timeout_s: float) -> None:
        """Return when one of the calls is done, or after a while."""

    def adopt(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """As `WorldHost`."""

    def drop(self, host: str, worlds: Sequence[WorldId]) -> Call[HostReport]:
        """As `WorldHost`."""

    def run_until(self, host: str, targets: Mapping[WorldId, int], budget_s: float) -> Call[HostReport]:
        """As `WorldHost`."""

    def stop_host(self, host: str) -> Call[HostReport]:
        """As `WorldHost`."""

    def train_until(self, step: int, budget_s: float) -> Call[LearnerReport]:
        """As `LearnerLoop`."""

    def stop_learner(self) -> Call[LearnerReport]:
        """As `LearnerLoop`."""

    def drain_limiter(self) -> Call[None]:
        """As `RateLimiter`."""

    def limiter_report(self) -> Call[LimiterReport]:
        """Ask the limiter for its counts."""

    def shard_report(self, shard: str) -> Call[ShardReport]:
        """Ask a shard for its counts."""

    def close_shard(self, shard: str) -> Call[None]:
        """As `ReplayShard`."""

    def weights_report(self) -> Call[WeightsReport]:
        """Ask the weight store what it keeps."""


class Observer(Protocol):
    """Who is told of everything that is reported."""

    def host(self, report: HostReport) -> None:
        """A host reported."""

    def learner(self, report: LearnerReport) -> None:
        """The learner reported."""

    def shard(self, name: str, report: ShardReport) -> None:
        """A shard reported."""

    def limiter(self, report: LimiterReport) -> None:
        """The limiter reported."""

    def weights(self, report: WeightsReport) -> None:
        """The weight store reported."""

    def restarted(self, name: str) -> None:
        """Another process answers under this name."""

    def welcomed(self, record: WorldRecord) -> None:
        """A world that people made is hosted from now on."""

    def event(self, text: str) -> None:
        """Something a person should know."""
