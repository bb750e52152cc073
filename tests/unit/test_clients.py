"""What processes say to each other through Ray: an answer that comes late is not lost."""

from typing import Any

import pytest

from actors.clients import LimiterClient, Peer, PeerLate, RayCall
from actors.ports import PeerLost


class _Answer(RayCall[Any]):
    """An answer that is late so many times."""

    def __init__(self, granted: int, *, late: int = 0, lost: bool = False) -> None:
        super().__init__(None, lambda: None)
        self._granted, self._late, self._lost = granted, late, lost

    def result(self, timeout_s: float | None = None) -> Any:
        if self._late > 0:
            self._late -= 1
            raise PeerLate("it is late")
        if self._lost:
            raise PeerLost("it died")
        return self._granted, 0.0


def test_what_is_granted_too_late_to_wait_for_is_taken_the_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [_Answer(64, late=2), _Answer(64, late=1, lost=True), _Answer(32)]
    monkeypatch.setattr(Peer, "call", lambda *asked: answers.pop(0))
    limiter = LimiterClient("namespace", "host-0")
    granted = [limiter.request_inserts(64).granted for _ in range(6)]
    # The first is asked for once; then somebody dies, which is noticed, and its successor is asked.
    assert granted == [0, 0, 64, 0, 0, 32]
    assert not answers
