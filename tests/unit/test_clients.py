"""What processes say to each other through Ray: an answer that comes late is not lost."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest

from actors.clients import LearnerOutside, LimiterClient, Peer, PeerLate, RayCall, ShardsClient, WeightsClient
from actors.ports import PeerLost
from cluster.attended import Attended
from learner.weights import WeightSet
from world.errors import DiskFull, LivingWorldsError


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


class _Answered(RayCall[Any]):
    """An answer that is there: a value, or an error."""

    def __init__(self, answer: object) -> None:
        super().__init__(None, lambda: None)
        self._answer = answer

    def done(self) -> bool:
        return True

    def result(self, timeout_s: float | None = None) -> Any:
        if isinstance(self._answer, LivingWorldsError):
            raise self._answer
        return self._answer


def _answers(monkeypatch: pytest.MonkeyPatch, answers: Iterable[object]) -> list[Any]:
    """Let all peers give these answers in turn; return what they were given, to be filled."""
    coming, given = iter(answers), list[Any]()

    def call(peer: Peer, method: str, *arguments: object) -> _Answered:
        given.extend(arguments)
        return _Answered(next(coming))

    monkeypatch.setattr(Peer, "call", call)
    return given


def _weights(epoch: int, version: int) -> WeightSet:
    return WeightSet(epoch, version, (), (), (), np.zeros(0, np.uint8))


def test_a_publication_that_was_refused_is_told_once_and_later_ones_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    sent = _answers(monkeypatch, [DiskFull("no space"), True, PeerLost("it died"), True])
    weights = WeightsClient("namespace")
    weights.publish(_weights(1, 1))
    with pytest.raises(DiskFull, match="no space"):
        weights.publish(_weights(1, 2))
    # There is room again.
    for version in (3, 4, 5):
        weights.publish(_weights(1, version))
    assert [published.version for published in sent] == [1, 3, 4, 5]


def test_what_was_published_last_is_asked_again_while_the_weight_store_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    _answers(monkeypatch, [PeerLost("it is away"), None, _weights(3, 40)])
    outside = LearnerOutside(
        LimiterClient("namespace", "learner"), ShardsClient(["replay-0"], "namespace"), WeightsClient("namespace")
    )
    # A learner that began all the same would take an epoch that another before it has published under.
    with pytest.raises(PeerLost):
        outside.newest_published()
    assert outside.newest_published() == (0, 0)
    assert outside.newest_published() == (3, 40)


def test_a_learner_that_cannot_begin_without_a_peer_is_asked_again_and_has_not_failed() -> None:
    learner: Attended[Any] = Attended("learner")
    for _ in range(20):
        learner.send(_Answered(PeerLost("the weight store is away")), within_s=1.0)
        assert learner.take() is None
    assert not learner.failures and not learner.failed
    assert learner.call is None and learner.away_since is not None
