"""What a run shows of itself is what its processes reported, across their deaths."""

import io
import json
import math

from actors.ports import HostReport
from cluster.console import RunConsole, one_line
from cluster.status import RunStatus, StatusBoard
from learner.learner import Evaluation
from learner.limiter import LimiterState
from learner.loop import LearnerReport
from tests.fleet_cases import shard_report
from tests.host_cases import Clock
from world.evaluation.metrics import MetricRow
from world.snapshot import WorldId

W, D = WorldId("w"), WorldId("d")


def board(clock: Clock, *, before: LimiterState | None = None) -> StatusBoard:
    """Return an empty board."""
    counted_before = before or LimiterState(inserts=0, samples=0)
    return StatusBoard(grounded=[W], dreamed=[D], counted_before=counted_before, clock=clock)


def host_report(*, worlds: tuple[WorldId, ...] = (W,), ticks: int = 0, version: int = 0) -> HostReport:
    """Return a host's report."""
    return HostReport(
        host="host-0",
        pid=1,
        ticks=dict.fromkeys(worlds, 9),
        lost=(),
        notes=(),
        grounded_agent_ticks=ticks,
        dreamed_agent_ticks=0,
        inserted_items=0,
        num_agents=4 * len(worlds),
        commit_bytes=0,
        commit_s=(0.001, 0.003),
        tick_s=(),
        weights=(1, version),
        starved_s=0.0,
        blocked_s=0.0,
        store_away_s=0.0,
        store_silent=False,
    )


def learner_report(*, loss: float = 1.0, version: int = 0, evaluation: Evaluation | None = None) -> LearnerReport:
    """Return the learner's report."""
    return LearnerReport(
        pid=2,
        step=10,
        weights=(1, version),
        steps=5,
        step_s=(),
        data_wait_s=0.0,
        loss=loss,
        grad_norm=1.0,
        nonfinite=0,
        evaluation=evaluation,
        drained=False,
    )


def test_worlds_and_agents_alive_are_those_that_hosts_report() -> None:
    shown = board(Clock())
    shown.host(host_report(worlds=(W, D)))
    status = shown.status()
    assert (status.grounded_worlds, status.dreamed_worlds, status.agents) == (1, 1, 8)
    shown.host(host_report(worlds=()))
    assert shown.status().agents == 0


def test_rates_are_over_the_last_seconds() -> None:
    clock = Clock(look_s=0.0)
    shown = board(clock)
    for _ in range(30):
        shown.host(host_report(ticks=100))
        clock.sleep(1.0)
    assert 80 <= shown.status().agent_ticks_per_s <= 110
    assert shown.status().agent_ticks == 3000


def test_samples_per_insert_is_over_the_life_of_the_run_and_survives_the_death_of_a_shard() -> None:
    shown = board(Clock(), before=LimiterState(inserts=100, samples=200))
    shown.shard("replay-0", shard_report(5, inserts=50, samples=100))
    shown.shard("replay-1", shard_report(6, inserts=50, samples=100))
    shown.shard("replay-0", shard_report(7, inserts=25, samples=50))
    status = shown.status()
    assert (status.inserted_items, status.sampled_items, status.samples_per_insert) == (225, 450, 2.0)


def test_lag_counts_the_versions_that_a_host_has_not_taken_up() -> None:
    shown = board(Clock())
    shown.learner(learner_report(version=7))
    shown.host(host_report(version=4))
    assert shown.status().policy_lag == 3


def test_a_moment_is_json_even_where_a_number_is_none() -> None:
    shown = board(Clock())
    row = MetricRow(value=math.nan, low=math.nan, high=0.5)
    shown.learner(learner_report(loss=math.nan, evaluation=Evaluation(10, {"changed_f1_known": row}, False)))
    written = json.loads(json.dumps(shown.status().as_json(), allow_nan=False))
    assert written["loss"] is None
    assert written["metrics"]["changed_f1_known"]["value"] is None


def test_a_moment_is_told_in_one_line() -> None:
    status: RunStatus = board(Clock()).status()
    assert "\n" not in one_line(status)


def test_without_a_terminal_every_event_is_printed_once_however_many_there_are() -> None:
    clock, out = Clock(), io.StringIO()
    shown, console = board(clock), RunConsole(out, minutes=1, samples_per_insert=1.0, clock=clock)
    for number in range(500):
        shown.event(f"event {number}.")
        if number % 50 == 49:
            console.show(shown.status(), shown.events)
    printed = [line for line in out.getvalue().splitlines() if line.startswith("event")]
    assert printed == [f"event {number}." for number in range(500)]
