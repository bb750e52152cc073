"""What self-consistency promises: whoever deletes, swaps, recolours or freezes scores less than the truth."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import homestead_stage
from tests.unit.test_homestead_laws import TABLE, _lived
from world.evaluation.consistency import PARTS, Consistency, agreement, consistency_scores, geometric_mean
from world.evaluation.plays.consistency import note_rows, play_consistency
from world.field import Uint16Array
from world.trajectory import STAY, Transitions


def _score(ticks: Transitions) -> float:
    """The score of a dream that does what `ticks` show, and is otherwise without fault."""
    found = Consistency()
    note_rows(found, "ours", ticks, TABLE)  # type: ignore[arg-type]
    for part in ("stable", "compressing", "repeatable"):
        found.add("ours", part, 1, 1)
    return consistency_scores(found).metrics["self_consistency"].value


def _played(env: str, *, seeds: range, history: int) -> Consistency:
    """What is found of dreams that follow the rules."""
    found, stage = Consistency(), homestead_stage(env)
    play_consistency(stage, found, TABLE, seeds=seeds, history=history, ticks=8, progress=lambda *_: None)  # type: ignore[arg-type]
    return found


def _spoilt(how: str) -> Transitions:
    lived = _lived("mixed")
    rng = np.random.default_rng(0)
    tokens: Uint16Array = lived.next_tokens.copy()
    seen, chosen = tokens > 0, rng.random(tokens.shape) < 0.002
    match how:
        case "deletion":
            tokens[seen & chosen] = tokens[seen].min()
        case "swap":
            tokens[seen & chosen] = np.roll(tokens, 1, axis=3)[seen & chosen]
        case "recolour":
            tokens[seen & chosen] = tokens[seen & chosen] % 300 + 1
        case "freeze":
            still = np.where(seen, lived.tokens[..., 0], np.uint16(0))
            return replace(
                lived,
                next_tokens=still,
                next_status=lived.status,
                displacement=np.full_like(lived.displacement, STAY),
            )
    return replace(lived, next_tokens=tokens)


def test_truth_agrees_with_itself() -> None:
    assert _score(_lived("mixed")) == 1.0


@pytest.mark.parametrize("how", ["deletion", "swap", "recolour", "freeze"])
def test_every_corruption_lowers_the_score(how: str) -> None:
    assert _score(_spoilt(how)) < 0.99


def test_two_who_see_one_cell_are_compared_there_and_nowhere_else() -> None:
    lived = _lived("mixed")
    hits, cases = agreement(lived).sum(axis=0)
    assert hits == cases > 0
    near = np.flatnonzero((np.abs(lived.poses[:, 0] - lived.poses[:, 1]) < 4).all(axis=1))
    assert len(near), "two agents meet now and then"
    tokens = lived.next_tokens.copy()
    dy, dx = lived.poses[near[0], 1] - lived.poses[near[0], 0]
    tokens[near[0], 0, 5 + dy, 5 + dx] += 1
    hits, again = agreement(replace(lived, next_tokens=tokens)).sum(axis=0)
    assert again == cases and hits < cases


def test_the_mean_is_geometric_over_worlds_taken_together() -> None:
    shares = [(1, 2), (1, 1), (1, 1), (1, 1), (1, 1), (1, 2)]
    rows = np.array([shares, [(0, 0)] * 6])
    assert geometric_mean(rows) == pytest.approx((0.5 * 0.5) ** (1 / 6))
    assert geometric_mean(np.array([[(0, 4)] + [(1, 1)] * 5])) == pytest.approx(1e-6 ** (1 / 6))


def test_parts_that_are_missing_leave_the_score_out() -> None:
    found = Consistency()
    found.add("ours", PARTS[0], 1, 1)
    assert consistency_scores(found).metrics == {}


def test_a_dream_that_follows_the_rules_is_consistent() -> None:
    found = _played("homestead:20x20x2", seeds=range(1), history=6)
    scores = consistency_scores(found)
    assert set(found.counts["ours"]) == set(PARTS)
    for part in ("lawful", "agreeing", "caused", "repeatable"):
        assert scores.metrics[f"consistency_{part}"].value == 1.0
    assert scores.metrics["self_consistency"].value > 0.8 and not scores.unexplained()


def test_who_paints_and_cleans_what_had_no_paint_has_changed_nothing() -> None:
    found = _played("homestead:20x20x4", seeds=range(6), history=30)
    hits, cases = np.sum(found.counts["ours"]["compressing"], axis=0)
    assert hits == cases > 0
