"""Whatever dies, stops, stalls, fills up or lies: nothing acknowledged is lost or applied twice, and no chain breaks.

A slice of what `make chaos` does at length.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.__main__ import find_mistake
from tests.chaos.acts import ACTS, Act
from tests.chaos.enumerated import (
    fail_in_every_redis_call,
    kill_host_at_every_call,
    kill_server_at_every_call,
    strike_act_at_every_call,
)
from tests.chaos.fuzz import fuzz
from tests.chaos.log_damage import cut_log_at_many_bytes, flip_bits
from tests.chaos.scenarios import all_scenarios
from tests.chaos.server import ChaosServer
from tests.chaos.store_chaos import run_chaos
from tests.chaos.variants import VARIANTS, Variant

pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ChaosServer]:
    with ChaosServer(tmp_path_factory.mktemp("chaos") / "store") as server:
        yield server


def test_promises_hold_through_a_seeded_mix_of_faults(tmp_path: Path) -> None:
    # Every fault once, however long that takes.
    report = run_chaos(tmp_path, seed=20, seconds=10.0, num_faults=13, acks=200, posted=50)
    assert report["violations"] == 0, report
    assert report["crashed"] == [], report
    assert len(report["faults"]) >= 10, report


@pytest.mark.parametrize(
    "at_every_call", [kill_host_at_every_call, kill_server_at_every_call, fail_in_every_redis_call]
)
def test_a_death_at_any_call_costs_nothing_acknowledged(
    server: ChaosServer, tmp_path: Path, at_every_call: Any
) -> None:
    report = at_every_call(server, tmp_path, stride=3)
    assert report["violations"] == 0, report
    assert report["num_faults"] >= 10, report


@pytest.mark.parametrize("act", ACTS)
def test_a_death_at_any_call_of_what_is_done_to_a_world_can_be_made_good(
    server: ChaosServer, tmp_path: Path, act: type[Act]
) -> None:
    report = strike_act_at_every_call(act(), server, tmp_path / "act", stride=7)
    assert report["violations"] == 0, report
    assert report["num_faults"] >= 5, report


def test_staged_faults_end_as_promised(tmp_path: Path) -> None:
    with ChaosServer(tmp_path / "store") as server:
        for report in all_scenarios(server, tmp_path):
            assert report["violations"] == 0, report


def test_a_log_that_was_cut_or_whose_bits_were_flipped_gives_what_was_committed_or_nothing(tmp_path: Path) -> None:
    for report in (
        cut_log_at_many_bytes(tmp_path / "cuts", num=10, seed=3),
        flip_bits(tmp_path / "flips", num=10, seed=3),
    ):
        assert report["violations"] == 0, report


def test_mutated_frames_are_refused_or_read_within_their_memory() -> None:
    report = fuzz(4000, seed=5)
    assert report["violations"] == 0, report
    assert min(count for kind, count in report["outcomes"].items() if kind.endswith("refused")) > 50


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_store_with_a_known_mistake_is_found_out(tmp_path: Path, variant: Variant) -> None:
    # `make chaos` leaves even the choice of faults to the mix; a few seconds of it may not strike the right one.
    faults = {"naive_everysec_ack": ["cut_power"], "increment_calls": ["cut_answers", "stall_server"]}
    for seconds in (4.0, 16.0, 64.0, 256.0):
        report = find_mistake(
            tmp_path / f"{seconds:.0f}", variant, seed=7, seconds=seconds, only=faults.get(variant, ())
        )
        if report["violations"]:
            break
    assert report["violations"] > 0, report
