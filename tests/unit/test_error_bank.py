"""What the bank of own errors promises: real errors, where agents stand, as the field would hold them."""

import numpy as np
import pytest

from learner.error_bank import KEPT, ErrorBank
from tests.model_cases import CountingEnv, counting_ticker, counting_world
from world.field import NOW, UNSEEN
from world.trajectory import Transitions

VOCAB = 65


def _columns() -> dict[str, np.typing.NDArray[np.generic]]:
    env = CountingEnv()
    world, ticker = counting_world(env), counting_ticker(env)
    rows = [ticked.row for _ in range(41) for ticked in ticker.tick([world])]
    stacked = Transitions.stack([row for row in rows if row is not None])
    return {name: column.reshape(20, 2, *column.shape[1:]) for name, column in stacked.columns().items()}


def test_only_errors_are_kept_and_the_newest_of_them() -> None:
    bank = ErrorBank(VOCAB)
    bank.note(np.array([3, 4, 5]), np.array([3, 9, 9]))
    assert not bank.wrong[3].any() and sorted(bank.wrong[9][bank.wrong[9] > 0].tolist()) == [4, 5]
    bank.note(np.arange(10, 10 + KEPT), np.full(KEPT, 9))
    assert sorted(bank.wrong[9].tolist()) == list(range(10, 10 + KEPT))


def test_an_empty_bank_shows_agents_where_nobody_is_and_no_more() -> None:
    columns = _columns()
    corrupted = ErrorBank(VOCAB).corrupt(columns, 0.5, np.random.default_rng(0))
    hit = (corrupted["tokens"] != columns["tokens"]).any(-1)
    height, width = hit.shape[-2:]
    looks = set(columns["tokens"][..., height // 2, width // 2, 0].ravel().tolist())
    assert set(corrupted["tokens"][hit][:, 0].tolist()) <= looks
    assert 0 < hit.mean() < 0.02 and not hit[_stood(columns["poses"], height, width)].any()


def test_errors_stand_where_agents_are_over_what_was_there_and_what_followed_stays() -> None:
    columns, bank = _columns(), ErrorBank(VOCAB)
    kept = {name: column.copy() for name, column in columns.items()}
    bank.wrong[1:] = 60
    corrupted = bank.corrupt(columns, 0.5, np.random.default_rng(0))
    before, after = columns["tokens"], corrupted["tokens"]
    hit = (after != before).any(-1)
    stood = _stood(columns["poses"], *hit.shape[-2:])
    assert stood.any() and hit[~stood].mean() < 0.02
    assert 0.05 < hit[stood].mean() < 0.3
    assert not hit[stood & (before[..., 0] == UNSEEN)].any()
    fresh = hit & (before[..., 0] == UNSEEN)
    assert (corrupted["ages"][fresh][:, [0, -1]] == NOW).all()
    hit, after, ages = hit & stood, np.where(stood[..., None], after, before), corrupted["ages"].copy()
    ages[~stood] = columns["ages"][~stood]
    assert (after[hit][:, 0] == 60).all() and (after[hit][:, 1:] == before[hit][:, :-1]).all()
    assert (ages[hit][:, 1:-1] == columns["ages"][hit][:, :-2]).all(), "each token keeps its age"
    assert (ages[hit][:, -1] == columns["ages"][hit][:, -1]).all(), "it is not seen more lately than it was"
    assert (ages[~hit] == columns["ages"][~hit]).all()
    clean = ~hit.any(axis=(2, 3, 4))
    assert 0.4 < clean.mean() < 0.95, (
        "half of the rows stay as they are, and of the others those where nothing is drawn"
    )
    assert not hit[~corrupted["dreamed"]].any() and 0.3 < corrupted["dreamed"].mean() < 0.7, "what may be wrong is told"
    for name, column in columns.items():
        np.testing.assert_array_equal(column, kept[name], err_msg="what was sampled is not written to")
        if name not in ("tokens", "ages"):
            np.testing.assert_array_equal(corrupted[name], column, err_msg=name)


def _stood(poses: np.ndarray, height: int, width: int) -> np.ndarray:
    """Return on which cells of windows somebody stands, agent by agent."""
    stood = np.zeros((*poses.shape[:3], height, width), np.bool_)
    for row in np.ndindex(*poses.shape[:3]):
        for other in poses[row[:2]]:
            y, x = other - poses[row] + (height // 2, width // 2)
            if 0 <= y < height and 0 <= x < width:
                stood[(*row, y, x)] = True
    return stood


def test_a_bank_goes_on_where_it_was_saved() -> None:
    bank, other = ErrorBank(VOCAB), ErrorBank(VOCAB)
    bank.note(np.array([3, 4, 5]), np.array([9, 9, 1]))
    other.load(bank.state())
    for one in (bank, other):
        one.note(np.array([8]), np.array([9]))
    assert np.array_equal(bank.wrong, other.wrong) and np.array_equal(bank.next, other.next)
    with pytest.raises(ValueError, match="expected 3"):
        ErrorBank(3).load(bank.state())
