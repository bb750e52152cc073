"""The fleet's measurement runs, counts what it says it counts, and leaves nothing behind."""

from cluster.bench_fleet import NUM_HOSTS, TICKS_PER_S, bench_fleet, predicted_bytes


def test_a_small_fleet_commits_every_tick_within_the_predicted_memory() -> None:
    found = bench_fleet(2.0, num_worlds=20)
    assert set(found) == {"bench", "value", "unit", "baseline", "ratio", "details"}
    details = found["details"]
    assert 0 <= found["value"] <= 1
    assert details["commits"] > 0
    # A tick that was due just before the end may be acknowledged just after it, and is judged too; none is left out.
    assert details["ticks_due"] >= 20 * 2.0 * TICKS_PER_S
    assert len(details["group_commit_ms"]) == NUM_HOSTS
    assert 0 < details["redis_bytes"] <= details["redis_bytes_predicted"]


def test_the_prediction_grows_with_worlds_ticks_and_keyframes() -> None:
    base = {"num_worlds": 10, "ticks": 100.0, "keyframes": 2.0, "frame_bytes": 300.0, "keyframe_bytes": 4000}
    for name in base:
        assert predicted_bytes(**(base | {name: 2 * base[name]})) > predicted_bytes(**base)  # type: ignore[arg-type]
