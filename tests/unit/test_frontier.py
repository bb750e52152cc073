"""What frontiers promise: hand-made finds score what they must; a dream that is the truth finds its land."""

import numpy as np
import pytest

from tests.evaluation_cases import homestead_stage
from world.errors import EnvironmentUnusable
from world.evaluation.frontier import Finds, frontier_scores
from world.evaluation.metrics import Counts
from world.evaluation.plays.frontiers import play_frontiers
from world.evaluation.plays.stage import Stage


def _counts(*rows: list[int]) -> Counts:
    return np.array(rows, np.int64)


def _played(stage: Stage, *, seeds: list[int], horizons: list[int]) -> Finds:
    finds = Finds()
    play_frontiers(stage, finds, seeds=seeds, horizons=horizons, progress=lambda *_: None)
    return finds


def test_land_is_compared_by_what_it_is_made_of_and_by_how_much_is_found() -> None:
    truth = _counts([0, 60, 40], [0, 60, 40])
    finds = Finds(
        {
            8: {
                "truth": truth,
                "ours": _counts([0, 15, 35], [0, 15, 35]),
                "no_memory": truth * 0,
                "elsewhere": _counts([0, 50, 50], [0, 60, 40]),
            }
        }
    )
    scores = frontier_scores(finds)
    gap, found = scores.metrics["land_gap@8"], scores.metrics["land_found@8"]
    assert gap.value == pytest.approx(0.3) and gap.no_memory == 1.0 and gap.ceiling == 0.0
    assert found.value == 0.5 and found.no_memory == found.copy_last == 0.0 and found.ceiling == 1.0
    assert scores.reasons["land_gap@8"].endswith(": 0.050") and not scores.unexplained()


def test_a_dream_that_is_the_truth_finds_its_land_and_one_that_stands_still_none() -> None:
    finds = _played(homestead_stage(), seeds=[0, 1], horizons=[8, 24])
    for k, least in ((8, 200), (24, 600)):
        of = finds.found[k]
        assert of["truth"].sum() > least, "explorers set out"
        np.testing.assert_array_equal(of["ours"], of["truth"])
        assert (of["elsewhere"].sum(axis=1) > least // 4).all() and not np.array_equal(of["elsewhere"], of["truth"])
    rows = frontier_scores(finds).metrics
    assert rows["land_gap@24"].value == 0.0 and rows["land_found@24"].value == 1.0
    still = frontier_scores(_played(homestead_stage(obeys=False), seeds=[0], horizons=[8])).metrics
    assert still["land_found@8"].value < 0.2


def test_each_cell_is_found_once_and_what_was_in_view_never() -> None:
    of = _played(homestead_stage("homestead:16x16x2"), seeds=[3], horizons=[200]).found[200]
    assert of["truth"].sum() <= (16 + 8) ** 2 - 81, "all that can be seen from within, less the first view"


def test_screens_have_no_land() -> None:
    with pytest.raises(EnvironmentUnusable, match="find no land"):
        _played(homestead_stage("homestead-turned:16x16x2"), seeds=[0], horizons=[8])
