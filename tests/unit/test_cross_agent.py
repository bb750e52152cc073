"""What cross-agent revisits promise: hand-made visits score what they must, and scripted agents make real ones."""

from dataclasses import replace

import numpy as np
import pytest

from tests.evaluation_cases import homestead_stage
from world.envs.grounded import Int32Array
from world.errors import EnvironmentUnusable, StoreError
from world.evaluation.cross_agent import GROWING, STATIC, UNSEEN_BY_B, Visits, cross_agent_scores
from world.evaluation.plays.visit_plans import EDIT_AT
from world.evaluation.plays.visits import VisitPlay, play_visits
from world.evaluation.protocols import Evaluation, EvaluationConfig
from world.snapshot import Snapshot

EMPTY, CHANGED, OTHER, GROWN = 1, 2, 3, 4
ALL = (*STATIC, *GROWING, *UNSEEN_BY_B)
KINDS = np.array(["stone", "paint", "door", "stone", "taken", "bush", "sapling"])


def _visits(ours: list[int], idle: list[int], **more: list[int]) -> Visits:
    """In truth, what was changed is so, what a third took is empty again, the bush is grown, the sapling is not."""
    truth = np.array([CHANGED] * 4 + [EMPTY, GROWN, CHANGED], np.uint16)
    edited = {"ours": np.array(ours, np.uint16), "ceiling": truth, "oracle": truth}
    edited |= {name: np.array(tokens, np.uint16) for name, tokens in more.items()}
    nothing = np.array([EMPTY] * 4 + [0] * 3, np.uint16)
    return Visits(
        kind=KINDS,
        before=np.full(7, EMPTY, np.uint16),
        truth=truth,
        edited=edited,
        idle={name: np.array(idle, np.uint16) if name == "ours" else nothing for name in edited},
        grown=np.array([0] * 5 + [GROWN, GROWN], np.uint16),
        grown_often=np.array([0.0] * 5 + [1.0, 0.25]),
        identical=np.array([True] * 4),
    )


def test_seeing_the_change_counts_only_where_it_was_made() -> None:
    right = [CHANGED] * 4 + [EMPTY, GROWN, CHANGED]
    scores = cross_agent_scores({64: _visits(right, [EMPTY] * 4 + [0] * 3)})
    rows = scores.metrics
    assert rows["xr@64"].value == rows["xr_effect@64"].value == rows["xr_of_oracle@64"].value == 1.0
    assert rows["xr@64"].copy_last == rows["xr_effect@64"].copy_last == 0.0 and rows["xr@64"].ceiling == 1.0
    # Who always expects a change sees it where there is none as well.
    rows = cross_agent_scores({64: _visits(right, [CHANGED] * 4 + [0] * 3)}).metrics
    assert rows["xr@64"].value == 1.0 and rows["xr_effect@64"].value == 0.0


def test_a_single_visit_is_no_certainty() -> None:
    one = np.array([0])
    visits = _visits([CHANGED] * 4 + [EMPTY, GROWN, CHANGED], [EMPTY] * 4 + [0] * 3, restored=[CHANGED] * 7)
    visits = replace(
        visits,
        **{name: getattr(visits, name)[one] for name in ("kind", "before", "truth", "grown", "grown_often")},
        edited={name: seen[one] for name, seen in visits.edited.items()},
        idle={name: seen[one] for name, seen in visits.idle.items()},
    )
    rows = cross_agent_scores({8: visits}).metrics
    for name in ("xr@8", "xr_effect@8", "xr_of_oracle@8", "xr_effect_restored@8"):
        assert rows[name].value == rows[name].high == 1.0 and rows[name].low < 0.25, name
    assert rows["xr_of_oracle@8"].low == rows["xr@8"].low
    assert rows["xr_restored_gap@8"].low < rows["xr_restored_gap@8"].value == 0.0 < rows["xr_restored_gap@8"].high


def test_nothing_is_held_against_an_oracle_that_sees_nothing() -> None:
    visits = _visits([CHANGED] * 4 + [EMPTY, GROWN, CHANGED], [EMPTY] * 4 + [0] * 3)
    visits.edited["oracle"] = np.zeros(7, np.uint16)
    scores = cross_agent_scores({8: visits})
    assert "xr_of_oracle@8" not in scores.metrics and "none" in scores.notes()["xr_of_oracle@8"]


def test_a_change_that_was_never_made_is_told_from_one_that_was_forgotten() -> None:
    visits = _visits([CHANGED, EMPTY, EMPTY, CHANGED, EMPTY, GROWN, CHANGED], [EMPTY] * 4 + [0] * 3)
    visits.made["ours"] = np.array([True, True, False, True, True, True, True])
    rows = cross_agent_scores({8: visits}).metrics
    assert rows["xr@8"].value == 0.5 and rows["xr_made@8"].value == 0.75
    assert rows["xr_kept@8"].value == pytest.approx(2 / 3) and rows["xr_made@8"].copy_last == 0.0


def test_where_no_dream_looks_at_what_should_have_grown_that_is_said() -> None:
    scores = cross_agent_scores({8: _visits([CHANGED, 0, 0, OTHER, EMPTY, 0, 0], [EMPTY] * 4 + [0] * 3)})
    assert "xr_growth_gap@8" not in scores.metrics and "looked at" in scores.notes()["xr_growth_gap@8"]


def test_where_b_does_not_look_it_sees_nothing() -> None:
    rows = cross_agent_scores({8: _visits([CHANGED, 0, 0, OTHER, EMPTY, 0, CHANGED], [EMPTY] * 4 + [0] * 3)}).metrics
    assert rows["xr@8"].value == 0.25 and rows["xr_of_oracle@8"].value == 0.25
    assert rows["xr_growth_gap@8"].value == -0.25, "of the crops only the sapling is looked at"


def test_what_a_third_changed_and_what_grew_are_scored_apart() -> None:
    rows = cross_agent_scores({64: _visits([EMPTY] * 4 + [CHANGED, GROWN, GROWN], [EMPTY] * 4 + [0] * 3)}).metrics
    assert rows["xr@64"].value == 0.0 and rows["xr_unseen@64"].value == 0.0 and rows["xr_unseen@64"].copy_last == 1.0
    assert rows["xr_growth_gap@64"].value == pytest.approx((0.0 + 0.75) / 2)
    assert rows["xr_growth_gap@64"].copy_last == pytest.approx((-1.0 - 0.25) / 2)


def test_restored_dreams_are_held_against_the_warm_ones() -> None:
    ours = [CHANGED, CHANGED, EMPTY, CHANGED, EMPTY, GROWN, CHANGED]
    restored = [CHANGED, EMPTY, EMPTY, CHANGED, EMPTY, GROWN, CHANGED]
    scores = cross_agent_scores({8: _visits(ours, [EMPTY] * 4 + [0] * 3, restored=restored)})
    rows = scores.metrics
    assert rows["xr@8"].value == 0.75 and rows["xr_restored@8"].value == 0.5
    assert rows["xr_effect_restored@8"].value == 0.5 and rows["xr_restored_gap@8"].value == -0.25
    assert rows["xr_restored_gap@8"].low <= -0.25 <= rows["xr_restored_gap@8"].high
    assert rows["xr_restored_identical@8"].value == 1.0
    assert [name for name in scores.unexplained() if not name.endswith(".no_memory")] == []


class _Honest:
    """Revives dreams by giving back what it was told they became."""

    def __init__(self) -> None:
        self.asked: list[tuple[int, tuple[int, ...], int]] = []

    def play(self, dreams: list[Snapshot], actions: Int32Array, *, kill_after: int) -> list[Snapshot]:
        """Note what was asked; the dreams do not go on."""
        self.asked.append((len(dreams), actions.shape, kill_after))
        return list(dreams)


def _played(tau: int, **options: bool) -> tuple[VisitPlay, _Honest]:
    play, reviver = VisitPlay(), _Honest()
    play_visits(
        homestead_stage("homestead:32x32x3", **options),
        play,
        seeds=range(len(ALL)),
        delays=[tau],
        reviver=reviver,
        progress=lambda *_: None,
    )
    return play, reviver


def test_a_dream_that_follows_the_rules_shows_b_what_a_did() -> None:
    play, reviver = _played(40)
    visits = play.visits[40]
    assert len(visits.kind) + play.failed == len(ALL) and play.failed <= 3
    assert {*STATIC, *UNSEEN_BY_B} - set(visits.kind) == set() or play.failed
    rows = cross_agent_scores(play.visits).metrics
    assert rows["xr@40"].value == rows["xr_effect@40"].value == rows["xr_unseen@40"].value == 1.0
    assert rows["xr_made@40"].value == rows["xr_kept@40"].value == 1.0
    assert rows["xr@40"].copy_last == 0.0 and rows["xr@40"].oracle == rows["xr@40"].ceiling == 1.0
    assert abs(rows["xr_growth_gap@40"].value) <= 0.75
    # Dreams of static changes, and the same without them, are killed half-way and go on in one batch.
    both = 2 * len(STATIC)
    assert reviver.asked == [(both, (42, both, 3), 20)]
    assert rows["xr_restored@40"].value == 0.0, "what did not go on saw nothing"
    assert rows["xr_restored_identical@40"].value == 0.0


class _Broken(_Honest):
    """Brings nothing back."""

    def play(self, dreams: list[Snapshot], actions: Int32Array, *, kill_after: int) -> list[Snapshot]:
        """Fail."""
        super().play(dreams, actions, kill_after=kill_after)
        raise StoreError("the host is late")


def test_visits_are_kept_where_they_cannot_be_killed_and_restored() -> None:
    stage, reviver = homestead_stage("homestead:32x32x3"), _Broken()
    config = replace(EvaluationConfig.quick(), seeds=(0,), visit_ticks=(8, 12))
    report = Evaluation(stage, None, config, reviver=reviver, progress=lambda *_: None).run("cross-agent")  # type: ignore[arg-type]
    rows = report.scores.metrics
    assert rows["xr@8"].value == rows["xr@12"].value == 1.0 and not any("restored" in name for name in rows)
    assert str(report.failure) == report.scores.notes()["xr_restored"] == "the host is late"
    assert len(reviver.asked) == 1, "what failed is not tried again"


def test_a_place_that_is_first_seen_when_it_should_have_been_changed_is_not_changed_in_time() -> None:
    play = VisitPlay()
    play_visits(
        homestead_stage("homestead:32x32x4"),
        play,
        seeds=[0],
        delays=[8],
        reviver=None,
        progress=lambda *_: None,
    )
    assert play.failed == 1, "in this world A comes five ticks late, from where nobody had looked at the place"


def test_a_change_that_a_made_too_late_is_no_visit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("world.evaluation.plays.visit_plans.EDIT_AT", EDIT_AT + 3)
    late, _ = _played(8, sees=True)
    assert late.failed >= len(STATIC) and not np.isin(late.visits[8].kind, STATIC).any()


def test_a_dream_that_goes_on_seeing_what_was_there_has_no_effect() -> None:
    play, _ = _played(8, sees=False)
    rows = cross_agent_scores(play.visits).metrics
    assert rows["xr@8"].value == rows["xr_effect@8"].value == 0.0
    assert "xr_unseen@8" not in rows and "no time" in cross_agent_scores(play.visits).reasons["xr_unseen@8"]


def test_b_was_never_there_before_and_a_is_gone_when_it_comes() -> None:
    from world.evaluation.plays.errands import planned_world
    from world.evaluation.plays.visit_plans import EDIT_AT, VISITOR, VisitPlanner

    stage, tau = homestead_stage(), 16
    planner = VisitPlanner("stone", tau)
    world = planned_world(stage, 0, planner)
    stage.ticker.tick([world])
    place = np.array(planner.place)
    arrived_at = 0
    for tick in range(1, EDIT_AT + tau + 1):
        stage.ticker.tick([world])
        far = np.abs(world.snapshot.poses - place).max(axis=1)
        if far[VISITOR] <= 4 and not arrived_at:
            arrived_at = tick
            assert far[0] > 4, "A does not see the place any more when B does"
    assert EDIT_AT + tau - 8 <= arrived_at <= EDIT_AT + tau


def test_one_agent_alone_visits_nobody() -> None:
    with pytest.raises(EnvironmentUnusable, match="more agents"):
        play_visits(
            homestead_stage("homestead:32x32x1"),
            VisitPlay(),
            seeds=[0],
            delays=[8],
            reviver=None,
            progress=lambda *_: None,
        )
