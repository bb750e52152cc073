"""The learner's process."""

from functools import cached_property

from actors.clients import LearnerOutside, LimiterClient, ShardsClient, WeightsClient
from actors.learner_process import LearnerSettings, build_loop
from actors.settings import from_text
from learner.loop import LearnerLoop, LearnerReport


class LearnerActor:
    """Takes plain values only, so Ray can rebuild it on any node; it goes on from the newest checkpoint.

    Built by its first call: what a constructor raises loses its type on the way to the caller.
    """

    def __init__(self, namespace: str, settings: str) -> None:
        self._namespace, self._settings = namespace, settings

    def train_until(self, step: int, budget_s: float) -> LearnerReport:
        """As `LearnerLoop`."""
        return self._loop.train_until(step, budget_s)

    def stop(self) -> LearnerReport:
        """As `LearnerLoop`."""
        return self._loop.stop()

    @cached_property
    def _loop(self) -> LearnerLoop:
        read = from_text(self._settings, LearnerSettings)
        limiter = LimiterClient(self._namespace, "learner")
        shards = ShardsClient(read.shards, self._namespace, seed=read.seed)
        return build_loop(
            read,
            limiter=limiter,
            source=shards,
            outside=LearnerOutside(limiter, shards, WeightsClient(self._namespace)),
        )
