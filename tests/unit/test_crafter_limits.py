"""What the analysis of Crafter promises: every cell in one part, bits that add up, and edits told apart by truth."""

from dataclasses import replace

import numpy as np
import pytest

from world.envs.grounded import BoolArray, Uint8Array
from world.evaluation.crafter_limits import CrafterTruth, limit_scores, parts_of
from world.evaluation.foretell import Foretold
from world.evaluation.metrics import mean_of
from world.evaluation.one_step import Answers
from world.field import Uint16Array
from world.trajectory import STAY, Transitions

_COW, _GRASS, _TREE, _PLAYER = 14, 2, 6, 13
# One tick of one agent, a window of 1 × 8: cells of every part, and one that nobody sees afterwards.
_LAST = [0, 5, 7, 3, 4, 4, 4, 2]
_NEXT = [9, 6, 3, 8, 5, 4, 4, 0]
_BEFORE = [_GRASS, _PLAYER, _COW, _TREE, _GRASS, _GRASS, _GRASS, _TREE]
_AFTER = [_GRASS, _GRASS, _GRASS, _GRASS, _GRASS, _GRASS, _GRASS, _GRASS]
_PARTS = ["unseen", "player", "creature", "changed", "flicker", "still", "still", None]


def _answers(foretold: list[int], *, action: int = 1) -> Answers:
    def cells(row: list[int], dtype: type = np.uint16) -> Uint16Array:
        return np.array(row, dtype).reshape(1, 1, 1, -1)

    def columns(*shape: int, dtype: type = np.int32) -> np.ndarray:
        return np.zeros((1, *shape), dtype)

    last, following = cells(_LAST), cells(_NEXT)
    ticks = Transitions(
        tokens=np.repeat(last[..., None], 4, axis=-1),
        ages=columns(1, 1, 8, 5, dtype=np.uint8),
        status=columns(1, 0, dtype=np.uint16),
        poses=columns(1, 2),
        turns=columns(1, dtype=np.uint8),
        memory=columns(1, 4, dtype=np.float16),
        events=columns(4, 3),
        actions=np.full((1, 1), action, np.int32),
        rewards=columns(1, dtype=np.float32),
        terminated=columns(1, dtype=np.bool_),
        truncated=columns(1, dtype=np.bool_),
        displacement=np.full((1, 1), STAY, np.uint8),
        next_tokens=following,
        next_status=columns(1, 0, dtype=np.uint16),
        by_chance=columns(1, 1, 8, dtype=np.bool_),
        is_first=columns(dtype=np.bool_),
        weights_version=columns(),
    )
    observed: BoolArray = following != 0
    bits = np.arange(8, dtype=np.float32).reshape(1, 1, 1, 8) * observed
    told = Foretold(
        tokens=cells(foretold),
        status=columns(1, 0, dtype=np.uint16),
        displacement=np.full((1, 1), STAY, np.int32),
        bits=np.array([bits.sum() + 2.5], np.float64),
        cell_bits=bits,
        asked=columns(1, 1, 8, dtype=np.float32),
        rewards=columns(1, dtype=np.float32),
        reward_event=columns(1, dtype=np.float32),
        ending=columns(1, dtype=np.float32),
    )
    return Answers(ticks, observed, observed & (last != 0), {"ours": told})


def _truth(daylight: float) -> CrafterTruth:
    def kinds(row: list[int]) -> Uint8Array:
        return np.array(row, np.uint8).reshape(1, 1, 1, -1)

    return CrafterTruth(before=kinds(_BEFORE), after=kinds(_AFTER), daylight=np.array([daylight]))


@pytest.mark.parametrize(("daylight", "flicker"), [(0.2, "flicker_dark"), (0.9, "flicker_light")])
def test_each_observed_cell_is_in_the_one_part_that_truth_says(daylight: float, flicker: str) -> None:
    parts = parts_of(_answers(_LAST), _truth(daylight))
    found = [next((name for name, inside in parts.items() if inside[0, 0, 0, i]), None) for i in range(8)]
    assert found == [flicker if part == "flicker" else part for part in _PARTS]
    assert sum(inside.astype(int) for inside in parts.values()).max() == 1


def test_bits_of_all_parts_add_up_to_all_bits() -> None:
    answers = _answers(_LAST)
    metrics = limit_scores(answers, _truth(0.2)).metrics
    whole = mean_of(np.stack([answers.foretold["ours"].bits, np.ones(1)], axis=1))
    assert sum(row.value for name, row in metrics.items() if name.startswith("bits_of_")) == pytest.approx(whole)
    assert metrics["bits_of_self"].value == pytest.approx(2.5)
    assert (metrics["bits_of_still"].value, metrics["cells_of_still"].value) == (11.0, 2.0)
    assert metrics["bits@move"].value == pytest.approx(whole) and "bits@do" not in metrics


def test_edits_are_told_apart_and_hit_only_with_the_right_token() -> None:
    # The player's edit is hit, the creature's is a wrong token, the ground's is missed, and of noise one is guessed.
    metrics = limit_scores(_answers([0, 6, 9, 3, 5, 4, 4, 2]), _truth(0.9)).metrics
    foretold = {name: row.value for name, row in metrics.items() if name.startswith("foretold_")}
    hits = {"foretold_player": 1.0, "foretold_creature": 0.0, "foretold_changed": 0.0, "foretold_flicker_light": 1.0}
    assert foretold == hits
    assert all(row.copy_last == 0.0 for name, row in metrics.items() if name.startswith("foretold_"))
    assert metrics["edits_player"].value == 0.25 and "edits_unseen" not in metrics and "edits_still" not in metrics


def test_every_baseline_that_is_not_there_has_a_reason() -> None:
    answers = _answers(_LAST)
    everybody = dict.fromkeys(("ours", "no_memory", "oracle"), answers.foretold["ours"])
    scores = limit_scores(replace(answers, foretold=everybody), _truth(0.2))
    assert scores.metrics and not scores.unexplained()
