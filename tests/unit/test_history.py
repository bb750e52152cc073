"""The in-process store keeps every promise about history, and its worlds can be visited whatever was done to them."""

import uuid
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from tests.integration.history_machine import history_machine
from tests.integration.history_suite import HistorySuite
from world.snapshot import WorldId
from world.store.in_process import InProcessWorldStore


class Clock:
    """Time that passes when told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class TestInProcessHistory(HistorySuite):
    @pytest.fixture
    def clock(self) -> Clock:
        return Clock()

    @pytest.fixture
    def world(self) -> WorldId:
        return WorldId(f"w-{uuid.uuid4().hex[:12]}")

    @pytest.fixture
    def connect(self, clock: Clock) -> Callable[..., InProcessWorldStore]:
        def connect(**settings_: Any) -> InProcessWorldStore:
            return InProcessWorldStore(clock=clock, **settings_)

        return connect

    @pytest.fixture
    def lease_passes(self, clock: Clock) -> Callable[[WorldId], None]:
        def lease_passes(world: WorldId) -> None:
            clock.now += 11.0

        return lease_passes

    def a_moment_passes(self) -> None:
        """They are listed in the order in which they were made."""


TestHistories: Any = history_machine(lambda: InProcessWorldStore(hot_log_ticks=6), lambda store: None).TestCase
TestHistories.settings = settings(
    max_examples=15, stateful_step_count=20, deadline=None, suppress_health_check=list(HealthCheck)
)
