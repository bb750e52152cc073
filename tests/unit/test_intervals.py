"""What shared scores promise: textbook numbers, intervals that hold their value, and no baseline left out silently."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from world.evaluation.metrics import (
    MetricRow,
    Scores,
    brier,
    calibration_error,
    effective_size,
    f1,
    gap_row,
    half_life,
    merged,
    row_of,
    share_gap,
    share_row,
    theil_sen,
    wilson,
)

few = settings(deadline=None, max_examples=25)


def test_wilson_gives_the_textbook_interval() -> None:
    # Ten of ten: the lower end is n / (n + z²).
    assert wilson(10, 10) == (1.0, pytest.approx(10 / (10 + 1.959964**2)), 1.0)
    share, low, high = wilson(5, 10)
    assert share == 0.5 and low == pytest.approx(0.2366, abs=1e-4) and high == pytest.approx(0.7634, abs=1e-4)
    assert wilson(0, 0) == (0.0, 0.0, 1.0)


@few
@given(st.integers(1, 500), st.data())
def test_a_wilson_interval_holds_its_share_and_narrows_with_more(total: int, data: st.DataObject) -> None:
    hits = data.draw(st.integers(0, total))
    share, low, high = wilson(hits, total)
    assert 0.0 <= low <= share <= high <= 1.0
    _, low_10, high_10 = wilson(10 * hits, 10 * total)
    assert high_10 - low_10 < high - low


def test_beliefs_are_scored_as_by_hand() -> None:
    believed, happened = np.array([0.0, 0.5, 1.0, 1.0]), np.array([False, True, True, False])
    assert brier(believed, happened) == (0 + 0.25 + 0 + 1) / 4
    assert calibration_error(np.full(10, 0.3), np.arange(10) < 3) == pytest.approx(0.0)
    assert calibration_error(np.full(10, 0.3), np.arange(10) < 8) == pytest.approx(0.5)
    # Two bins, each off by as much in the other direction: their errors do not cancel.
    assert calibration_error(np.array([0.2] * 5 + [0.8] * 5), np.arange(10) < 5) == pytest.approx(0.8)
    assert brier(np.zeros(0), np.zeros(0, np.bool_)) == 0.0


def test_theil_sen_finds_the_slope_past_an_outlier() -> None:
    x = np.arange(9.0)
    y = 3 * x - 1
    y[4] = 1000
    assert theil_sen(x, y) == 3.0
    with pytest.raises(ValueError, match="two points"):
        theil_sen(np.ones(3), np.arange(3.0))


def test_half_life_is_read_between_horizons_on_the_logarithm() -> None:
    horizons = np.array([1.0, 8.0, 64.0, 512.0])
    assert half_life(horizons, np.array([1.0, 0.9, 0.8, 0.7])) == math.inf
    assert half_life(horizons, np.array([1.0, 0.5, 0.4, 0.1])) == 8.0
    # From 0.8 at 8 to 0.2 at 64: half is met in the middle of the octaves, at 8 · 8^(1/2).
    assert half_life(horizons, np.array([1.0, 0.8, 0.2, 0.0])) == pytest.approx(8 * math.sqrt(8))


def test_a_row_holds_our_interval_and_whichever_baselines_were_measured() -> None:
    ours, theirs = np.array([[3, 0, 1], [2, 1, 0]]), np.array([[0, 0, 4], [0, 0, 2]])
    row = row_of({"ours": ours, "copy_last": theirs}, f1, seed=0, ceiling=1.0)
    assert row.value == f1(ours) and row.low <= row.value <= row.high
    assert row.copy_last == 0.0 and row.ceiling == 1.0 and row.no_memory is None and row.oracle is None
    row = share_row({"ours": np.array([True, True, False]), "ceiling": np.array([True])}, ceiling=None)
    assert (row.value, row.low, row.high) == wilson(2, 3) and row.ceiling == 1.0 and row.oracle is None


def test_hits_of_one_episode_count_for_fewer() -> None:
    episodes = np.repeat(np.arange(10), 20)
    alike = np.repeat(np.arange(10) < 5, 20)
    assert effective_size(alike, episodes) == 10.0, "whoever knows one of an episode knows all"
    assert effective_size(np.tile(np.arange(20) < 10, 10), episodes) == 200.0, "nothing of one tells of the next"
    assert effective_size(np.ones(200, np.bool_), episodes) == 10.0
    mixed = effective_size(np.where(np.arange(200) % 20 < 10, alike, ~alike), episodes)
    assert mixed == 200.0 and effective_size(alike[:20], episodes[:20]) == 1.0
    row = share_row({"ours": alike}, ceiling=None, episodes=episodes)
    assert (row.value, row.low, row.high) == wilson(5, 10)


@few
@given(st.integers(0, 2**32 - 1), st.integers(1, 12), st.integers(1, 9))
def test_as_many_count_as_there_are_episodes_to_hits(seed: int, episodes: int, of_each: int) -> None:
    rng = np.random.default_rng(seed)
    hits, of = rng.random(episodes * of_each) < rng.random(), np.repeat(np.arange(episodes), of_each)
    assert episodes <= effective_size(hits, of) <= episodes * of_each


def _pairs(both: int, one: int, other: int, neither: int) -> tuple[np.ndarray, np.ndarray]:
    first = [True] * (both + one) + [False] * (other + neither)
    return np.array(first), np.array([True] * both + [False] * one + [True] * other + [False] * neither)


def test_the_gap_of_a_single_pair_is_no_certainty() -> None:
    low = wilson(1, 1)[1]
    gap = share_gap(*_pairs(0, 1, 0, 0))
    # The two limits are as far from their shares as they can be, and nothing is known of how they go together.
    assert gap == (1.0, pytest.approx(1 - math.sqrt(2) * (1 - low)), 1.0)
    assert share_gap(*_pairs(1, 0, 0, 0)) == (0.0, pytest.approx(low - 1), pytest.approx(1 - low))


def test_the_gap_of_pairs_is_as_by_hand_and_narrower_than_of_strangers() -> None:
    gap, low, high = share_gap(*_pairs(20, 12, 2, 16))
    (p, p_low, p_high), (q, q_low, q_high) = wilson(32, 50), wilson(22, 50)
    correlation = (20 * 16 - 12 * 2 - 50 / 2) / math.sqrt(32 * 18 * 22 * 28)
    down, up = (p - p_low, q_high - q), (p_high - p, q - q_low)
    assert gap == pytest.approx(0.2)
    for found, (a, b) in ((gap - low, down), (high - gap, up)):
        assert found == pytest.approx(math.sqrt(a * a + b * b - 2 * correlation * a * b)) and found < math.hypot(a, b)
    swapped = share_gap(*reversed(_pairs(20, 12, 2, 16)))
    assert swapped == (pytest.approx(-gap), pytest.approx(-high), pytest.approx(-low))


@few
@given(st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=60))
def test_a_gap_lies_in_its_interval_and_that_among_all_gaps(pairs: list[tuple[bool, bool]]) -> None:
    one, other = np.array(pairs).T
    gap, low, high = share_gap(one, other)
    assert -1 - 1e-9 <= low <= gap <= high <= 1 + 1e-9 and low < high
    row = gap_row({"ours": (one, other), "oracle": (other, one)})
    assert (row.value, row.low, row.high, row.oracle, row.ceiling) == (gap, low, high, pytest.approx(-gap), None)


def test_a_baseline_without_value_needs_a_reason() -> None:
    row = MetricRow(value=0.5, low=0.4, high=0.6, copy_last=0.0, oracle=0.9, ceiling=1.0)
    scores = Scores({"f1@8": row, "nll": row}, {"f1@*.no_memory": "nothing was forgotten"})
    assert scores.unexplained() == ["nll.no_memory"]
    whole = merged([scores, Scores({}, {"nll.no_memory": "likewise"})])
    assert whole.unexplained() == [] and set(whole.metrics) == {"f1@8", "nll"}


def test_of_all_reasons_the_narrowest_that_applies_is_told() -> None:
    row = MetricRow(value=0.5, low=0.4, high=0.6, copy_last=0.0, no_memory=0.0, ceiling=1.0)
    reasons = {"*.oracle": "wide", "f1@*.oracle": "narrow", "*.ceiling": "does not apply", "skill@8": "left out"}
    assert Scores({"f1@8": row}, reasons).notes() == {"f1@*.oracle": "narrow", "skill@8": "left out"}
