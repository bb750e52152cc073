"""The limiter's counts outlive its process, and what dead processes never inserted is taken back."""

from pathlib import Path

import pytest

from actors.kept_limiter import Debtor, KeptLimiter, LimiterSettings
from actors.limiter_actor import LimiterActor
from actors.settings import to_text
from learner.limiter import LimiterConfig, LimiterState
from tests.host_cases import Clock
from world.errors import ReplayError

CONFIG = LimiterConfig(samples_per_insert=1.0, min_items=64, max_ahead_items=10**6, max_sample_items=64)
HOST, SUCCESSOR, OTHER = Debtor("host-0", "a"), Debtor("host-0", "b"), Debtor("host-1", "c")


def test_counts_outlive_the_process(tmp_path: Path) -> None:
    clock = Clock(look_s=1.0)
    limiter = KeptLimiter(CONFIG, tmp_path, clock)
    limiter.request_inserts(100, HOST)
    limiter.settle_inserts(100, HOST)
    limiter.request_samples(64)
    assert KeptLimiter(CONFIG, tmp_path, clock).state() == LimiterState(inserts=100, samples=64)


def test_what_a_dead_process_was_granted_and_never_inserted_is_taken_back_when_its_successor_asks(
    tmp_path: Path,
) -> None:
    limiter = KeptLimiter(CONFIG, tmp_path)
    limiter.request_inserts(100, HOST)
    limiter.request_inserts(50, OTHER)
    limiter.settle_inserts(70, HOST)
    limiter.request_inserts(10, SUCCESSOR)
    assert limiter.report().inserts == 70 + 50 + 10
    limiter.settle_inserts(10, SUCCESSOR)
    limiter.request_inserts(5, Debtor("host-0", "d"))
    assert limiter.report().inserts == 70 + 50 + 10 + 5


def test_a_checkpoint_counts_the_inserts_that_replay_has_and_no_others(tmp_path: Path) -> None:
    limiter = KeptLimiter(CONFIG, tmp_path)
    limiter.request_inserts(100, HOST)
    assert limiter.state().inserts == 0
    limiter.settle_inserts(70, HOST)
    assert limiter.state().inserts == 70


def test_what_was_given_back_is_not_taken_back_again(tmp_path: Path) -> None:
    limiter = KeptLimiter(CONFIG, tmp_path)
    limiter.request_inserts(100, HOST)
    limiter.return_inserts(100, HOST)
    limiter.request_inserts(10, SUCCESSOR)
    assert limiter.report().inserts == 10


def test_debts_outlive_the_limiters_process_too(tmp_path: Path) -> None:
    clock = Clock(look_s=1.0)
    KeptLimiter(CONFIG, tmp_path, clock).request_inserts(100, HOST)
    limiter = KeptLimiter(CONFIG, tmp_path, clock)
    limiter.request_inserts(10, SUCCESSOR)
    assert limiter.report().inserts == 10


def test_a_checkpoint_has_the_last_word_on_counts_and_forgets_debts(tmp_path: Path) -> None:
    limiter = KeptLimiter(CONFIG, tmp_path)
    limiter.request_inserts(100, HOST)
    limiter.load(LimiterState(inserts=1000, samples=900))
    limiter.request_inserts(10, SUCCESSOR)
    assert (limiter.report().inserts, limiter.report().samples) == (1010, 900)


def test_a_damaged_file_is_refused_in_a_sentence(tmp_path: Path) -> None:
    (tmp_path / KeptLimiter.FILE).write_text("{")
    with pytest.raises(ReplayError, match="delete it"):
        KeptLimiter(CONFIG, tmp_path)


def test_a_process_whose_counts_cannot_be_read_is_there_and_says_so_when_it_is_asked(tmp_path: Path) -> None:
    (tmp_path / KeptLimiter.FILE).write_text("{")
    actor = LimiterActor(to_text(LimiterSettings(directory=str(tmp_path), limiter=CONFIG)))
    with pytest.raises(ReplayError, match=KeptLimiter.FILE):
        actor.report()
