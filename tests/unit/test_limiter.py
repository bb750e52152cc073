"""The rate limiter's promises."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from learner.limiter import Grant, LimiterConfig, LimiterState, RateLimiter
from world.errors import ConfigError, ReplayError


def _config(**changes: float) -> LimiterConfig:
    values = {
        "samples_per_insert": 2.0,
        "min_items": 10,
        "max_ahead_items": 20,
        "max_insert_items": 5,
        "max_sample_items": 8,
    }
    return LimiterConfig(**{**values, **changes})  # type: ignore[arg-type]


@st.composite
def _configs(draw: st.DrawFn) -> LimiterConfig:
    bounds = {
        "samples_per_insert": draw(st.sampled_from([0.1, 0.3, 0.5, 1.0, 1.7, 4.0, 32.0])),
        "min_items": draw(st.integers(1, 50)),
        "max_insert_items": draw(st.integers(1, 30)),
        "max_sample_items": draw(st.integers(1, 30)),
    }
    # The tightest setting that is allowed: one less is refused.
    least = LimiterConfig(max_ahead_items=1 << 20, **bounds).least_ahead_items  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="deadlock"):
        LimiterConfig(max_ahead_items=least - 1, **bounds)  # type: ignore[arg-type]
    return LimiterConfig(max_ahead_items=least + draw(st.integers(0, 3)), **bounds)  # type: ignore[arg-type]


_REQUESTS = st.lists(st.tuples(st.booleans(), st.integers(1, 30)), max_size=200)


def test_nothing_is_sampled_before_the_minimum_is_inserted() -> None:
    config = _config()
    limiter = RateLimiter(config)
    limiter.request_inserts(5)
    assert limiter.request_samples(1) == Grant(0, config.retry_after_s)
    limiter.request_inserts(5)
    assert limiter.request_samples(8) == Grant(8, 0.0)


def test_samples_stop_at_the_ratio_and_inserts_stop_when_too_far_ahead() -> None:
    limiter = RateLimiter(_config())
    while limiter.request_inserts(5):
        pass
    assert limiter.state() == LimiterState(inserts=30, samples=0)
    while limiter.request_samples(4):
        pass
    assert limiter.state() == LimiterState(inserts=30, samples=60)
    assert limiter.error == 0.0


@settings(deadline=None, max_examples=60)
@given(_configs(), _REQUESTS)
def test_no_interleaving_deadlocks_and_the_ratio_holds(config: LimiterConfig, requests: list[tuple[bool, int]]) -> None:
    limiter = RateLimiter(config)
    for inserts, amount in requests:
        if inserts:
            limiter.request_inserts(min(amount, config.max_insert_items))
        else:
            limiter.request_samples(min(amount, config.max_sample_items))
        behind = limiter.error / config.samples_per_insert
        assert -1e-9 <= behind <= config.min_items + config.max_ahead_items + 1e-9
        # Whatever anyone asks for next, the largest request of one side or the other is granted.
        trial = RateLimiter(config)
        trial.load(limiter.state())
        assert trial.request_inserts(config.max_insert_items) or trial.request_samples(config.max_sample_items)


@settings(deadline=None, max_examples=40)
@given(_configs(), _REQUESTS, st.data())
def test_returned_tokens_never_deadlock(
    config: LimiterConfig, requests: list[tuple[bool, int]], data: st.DataObject
) -> None:
    limiter = RateLimiter(config)
    for inserts, amount in requests[:60]:
        if inserts and limiter.request_inserts(min(amount, config.max_insert_items)):
            limiter.return_inserts(data.draw(st.integers(1, min(amount, config.max_insert_items))))
        if not inserts and limiter.request_samples(min(amount, config.max_sample_items)):
            limiter.return_samples(data.draw(st.integers(1, min(amount, config.max_sample_items))))
        trial = RateLimiter(config)
        trial.load(limiter.state())
        assert trial.request_inserts(config.max_insert_items) or trial.request_samples(config.max_sample_items)


@settings(deadline=None, max_examples=40)
@given(_configs(), _REQUESTS)
def test_a_drained_limiter_ends_at_the_configured_ratio(
    config: LimiterConfig, requests: list[tuple[bool, int]]
) -> None:
    limiter = RateLimiter(config)
    for inserts, amount in requests:
        if inserts:
            limiter.request_inserts(min(amount, config.max_insert_items))
        else:
            limiter.request_samples(min(amount, config.max_sample_items))
    limiter.drain()
    assert limiter.request_inserts(1) == Grant(0, math.inf)
    started = limiter.state().inserts >= config.min_items
    while limiter.request_samples(config.max_sample_items):
        pass
    assert limiter.request_samples(1) == Grant(0, math.inf)
    wanted = math.floor(limiter.state().inserts * config.ratio) if started else 0
    assert limiter.state().samples == wanted


def test_a_ratio_that_binary_numbers_cannot_hold_does_not_drift() -> None:
    limiter = RateLimiter(_config(samples_per_insert=0.1, max_ahead_items=100))
    limiter.load(LimiterState(inserts=10**16, samples=10**15))
    assert limiter.error == 0.0
    assert not limiter.request_samples(1)
    limiter.return_samples(1)
    assert limiter.request_samples(1)


def test_state_goes_on_where_it_was() -> None:
    limiter, again = RateLimiter(_config()), RateLimiter(_config())
    limiter.request_inserts(5)
    again.load(limiter.state())
    assert again.state() == LimiterState(inserts=5, samples=0)


def test_a_new_minimum_that_would_deadlock_is_refused() -> None:
    limiter = RateLimiter(_config(max_ahead_items=5, max_sample_items=16, min_items=8))
    with pytest.raises(ConfigError, match="deadlock"):
        limiter.rederive_minimum(1)
    limiter.request_inserts(5)
    assert not limiter.request_samples(1)
    limiter.request_inserts(3)
    assert limiter.request_samples(1), "the minimum is still 8"
    limiter.rederive_minimum(9)
    assert not limiter.request_samples(1)
    limiter.request_inserts(1)
    assert limiter.request_samples(1)


@pytest.mark.parametrize(
    "changes",
    [
        {"samples_per_insert": 0.0},
        {"samples_per_insert": math.nan},
        {"samples_per_insert": math.inf},
        {"min_items": 0},
        {"max_insert_items": 0},
        {"max_sample_items": 0},
        {"retry_after_s": 0.0},
        {"max_ahead_items": 4},
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="limiter"):
        _config(**changes)


def test_requests_beyond_the_configured_size_are_refused() -> None:
    limiter = RateLimiter(_config())
    with pytest.raises(ReplayError, match="insert of 6 items, allowed are 1 … 5"):
        limiter.request_inserts(6)
    with pytest.raises(ReplayError, match="sample of 9 items, allowed are 1 … 8"):
        limiter.request_samples(9)
    with pytest.raises(ReplayError, match="return"):
        limiter.return_inserts(1)
    with pytest.raises(ReplayError, match="counts"):
        limiter.load(LimiterState(inserts=-1, samples=0))
