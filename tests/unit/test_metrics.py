"""What scores promise: edits are counted as a person would, and intervals hold their value."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from world.evaluation.metrics import bootstrap, copy_last_bits, edit_counts, f1, mean_of

few = settings(deadline=None, max_examples=25)


def _tokens(*rows: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.uint16]]:
    return np.array(rows, np.uint16)


def test_hand_made_edits_are_counted_as_they_should_be() -> None:
    last = _tokens([1, 1, 1, 1, 1, 1], [2, 2, 2, 2, 2, 2])
    truth = _tokens([1, 3, 3, 3, 1, 3], [2, 2, 2, 2, 2, 4])
    ours = _tokens([1, 3, 4, 1, 5, 3], [2, 2, 2, 2, 2, 2])
    counted = np.array([[True] * 5 + [False], [True] * 6])
    counts = edit_counts(ours, truth, last, counted)
    # Row 0: one right edit; one edit with a wrong token (alarm and miss); one missed; one invented; one not counted.
    assert counts.tolist() == [[1, 2, 2], [0, 0, 1]]
    assert f1(counts) == pytest.approx(2 * 1 / (2 * 1 + 2 + 3))


@few
@given(st.integers(0, 2**31))
def test_copying_scores_zero_and_the_truth_scores_one(seed: int) -> None:
    rng = np.random.default_rng(seed)
    last, truth = rng.integers(1, 4, (2, 5, 3, 4)).astype(np.uint16)
    counted = rng.random(last.shape) < 0.7
    edited = bool(((truth != last) & counted).any())
    assert f1(edit_counts(truth, truth, last, counted)) == 1.0
    assert f1(edit_counts(last, truth, last, counted)) == (0.0 if edited else 1.0)


def test_where_nothing_was_to_be_found_only_false_alarms_cost() -> None:
    last, counted = _tokens([1, 1]), np.ones((1, 2), np.bool_)
    assert f1(edit_counts(last, last, last, counted)) == 1.0
    assert f1(edit_counts(_tokens([1, 2]), last, last, counted)) == 0.0


def test_what_is_not_counted_changes_nothing() -> None:
    last, truth, counted = _tokens([1, 1, 1]), _tokens([2, 2, 1]), np.array([[True, False, False]])
    for guess in ([2, 2, 1], [2, 9, 9], [2, 1, 5]):
        assert f1(edit_counts(_tokens(guess), truth, last, counted)) == 1.0


def test_rows_of_one_episode_are_drawn_together() -> None:
    """Two worlds of fifty equal ticks each say as much as two numbers."""
    rows, worlds = np.repeat([[0.0, 1.0], [1.0, 1.0]], 50, axis=0), np.repeat([7, 3], 50)
    assert bootstrap(rows, mean_of, seed=0, episodes=worlds) == (0.5, 0.0, 1.0)
    apart = bootstrap(rows, mean_of, seed=0)
    assert apart[0] == 0.5 and 0.35 < apart[1] < 0.45 and 0.55 < apart[2] < 0.65
    assert bootstrap(rows, mean_of, seed=0, episodes=np.arange(100)) == apart
    # An episode of more rows weighs as many.
    value, low, high = bootstrap(rows[:60], mean_of, seed=0, episodes=worlds[:60])
    assert value == pytest.approx(1 / 6) and (low, high) == (0.0, 1.0)


def test_predictors_are_ordered_by_what_they_know() -> None:
    """Copying, guessing some, guessing more, knowing."""
    rng = np.random.default_rng(0)
    last = rng.integers(1, 9, (40, 30)).astype(np.uint16)
    truth = np.where(rng.random(last.shape) < 0.3, last + 10, last).astype(np.uint16)
    counted, luck = np.ones(last.shape, np.bool_), rng.random(last.shape)
    scores = [f1(edit_counts(np.where(luck < know, truth, last), truth, last, counted)) for know in (0, 0.3, 0.8, 1)]
    assert scores == sorted(scores) and scores[0] == 0.0 and scores[-1] == 1.0
    bits = copy_last_bits(truth, last, counted, 100)
    rate = (truth != last).mean()
    entropy = -rate * np.log2(rate) - (1 - rate) * np.log2(1 - rate)
    assert bits == pytest.approx(last.size * (entropy + rate * np.log2(98)))


@few
@given(st.integers(0, 2**31))
def test_the_interval_contains_the_value(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.random(80), np.ones(80)], axis=1)
    value, low, high = bootstrap(rows, mean_of, seed=seed)
    assert low < value < high and value == pytest.approx(rows[:, 0].mean())
    assert (value, low, high) == bootstrap(rows, mean_of, seed=seed)


def test_the_interval_is_about_as_wide_as_theory_says_and_narrows_with_more_rows() -> None:
    rng = np.random.default_rng(1)
    widths = []
    for num in (50, 800):
        rows = np.stack([rng.standard_normal(num), np.ones(num)], axis=1)
        _, low, high = bootstrap(rows, mean_of, seed=2, resamples=1000)
        widths.append((high - low) / (2 * 1.96 / np.sqrt(num)))
    assert widths == pytest.approx([1, 1], abs=0.2)


def test_rows_with_more_to_count_weigh_more() -> None:
    assert mean_of(np.array([[1.0, 1.0], [0.0, 3.0]])) == 0.25


def test_copying_costs_no_bits_where_nothing_changes_and_all_choices_where_everything_does() -> None:
    last, counted = _tokens([1, 1, 1]), np.ones((1, 3), np.bool_)
    assert copy_last_bits(last, last, counted, 10) == 0.0
    assert copy_last_bits(last + np.uint16(1), last, counted, 10) == pytest.approx(3 * np.log2(8))
    assert copy_last_bits(last, last, ~counted, 10) == 0.0
