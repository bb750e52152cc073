"""World events as text and as rows: what is said is what is meant, and what befalls by itself befalls again."""

import numpy as np
import pytest

from world.errors import ConfigError
from world.event import (
    MAX_EVENTS,
    WorldEvent,
    drawn_events,
    event_rows,
    event_slots,
    event_text,
    parse_event,
)

PHRASES = ("rain of saplings", "a wall rises")
POSES = np.array([[0, 0], [100, -50], [-70, 3]], np.int32)


@pytest.mark.parametrize(
    ("text", "event"),
    [
        ("rain of saplings at (12, 9)", WorldEvent(1, 12, 9)),
        ("  A  Wall\trises   at ( -3 ,0 )", WorldEvent(2, -3, 0)),
        ("a wall rises at (999999999,-999999999)", WorldEvent(2, 999999999, -999999999)),
        ("a wall rises here", WorldEvent(2, 4, 5)),
    ],
)
def test_a_text_tells_an_event(text: str, event: WorldEvent) -> None:
    assert parse_event(text, PHRASES, here=(4, 5)) == event
    assert parse_event(event_text(event, PHRASES), PHRASES) == event


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a wall rises",
        "a wall rises at 3, 4",
        "a wall rises at (3, 4) and (5, 6)",
        "a wall rises at (3.5, 4)",
        "a wall rises at (9999999999, 4)",
        "walls rise at (3, 4)",
        "at (3, 4)",
        "here",
    ],
)
def test_what_tells_no_event_is_answered_with_what_could_be_said(text: str) -> None:
    with pytest.raises(ConfigError, match=r'"rain of saplings at \(y, x\)", "a wall rises at \(y, x\)"'):
        parse_event(text, PHRASES, here=(4, 5))


def test_here_is_a_place_only_for_somebody_who_stands_in_the_world() -> None:
    with pytest.raises(ConfigError, match="somebody who stands"):
        parse_event("a wall rises here", PHRASES)


def test_a_world_without_events_says_so() -> None:
    with pytest.raises(ConfigError, match="it has none"):
        parse_event("a wall rises at (3, 4)", ())


def test_slots_hold_events_in_order_and_give_them_back() -> None:
    events = [WorldEvent(2, -1, 7), WorldEvent(1, 3, 3)]
    slots = event_slots(events)
    assert slots.dtype == np.int32
    assert slots.tolist() == [[2, -1, 7], [1, 3, 3], [0, 0, 0], [0, 0, 0]]
    assert event_rows(slots).tolist() == [[2, -1, 7], [1, 3, 3]]
    np.testing.assert_array_equal(event_slots(event_rows(slots)), slots)
    assert event_rows(event_slots([])).shape == (0, 3)
    with pytest.raises(ConfigError, match="5 events"):
        event_slots(events * 2 + events[:1])


def drawn(seed: int, tick: int, rate: float = 0.1, view: tuple[int, int] = (9, 7)) -> list[list[int]]:
    found = drawn_events(seed, tick, rate, poses=POSES, view=view, num_kinds=4)
    assert found.dtype == np.int32 and found.shape[1:] == (3,) and len(found) <= MAX_EVENTS
    return found.tolist()  # type: ignore[no-any-return]


def test_what_befalls_by_itself_depends_on_seed_and_tick_alone() -> None:
    life = [drawn(7, tick) for tick in range(300)]
    assert life == [drawn(7, tick) for tick in range(300)]
    assert life != [drawn(8, tick) for tick in range(300)]
    assert drawn(2**63 + 5, 3) == drawn(2**63 + 5, 3) != drawn(2**63 + 6, 3, 1.0)
    assert drawn(-1, 3, 1.0) == drawn(2**64 - 1, 3, 1.0)


def test_it_befalls_at_its_rate_and_now_and_then_not_alone() -> None:
    counts = np.array([len(drawn(1, tick)) for tick in range(20_000)])
    assert abs((counts > 0).mean() - 0.1) < 0.01
    several = (counts > 1).sum() / (counts > 0).sum()
    assert 0.09 < several < 0.16
    assert not any(drawn(1, tick, rate=0.0) for tick in range(1000))
    assert all(drawn(1, tick, rate=1.0) for tick in range(1000))


def test_all_kinds_befall_and_all_places_that_somebody_sees_and_no_other() -> None:
    rows = np.array([row for tick in range(6000) for row in drawn(1, tick, rate=1.0)])
    assert np.bincount(rows[:, 0])[1:].min() > 0.9 * len(rows) / 4
    offsets = rows[:, None, 1:] - POSES
    inside = (np.abs(offsets[..., 0]) <= 4) & (np.abs(offsets[..., 1]) <= 3)
    assert (inside.sum(axis=1) == 1).all()
    seen, count = np.unique(offsets[inside], axis=0, return_counts=True)
    assert len(seen) == 9 * 7 and count.min() > 0.6 * len(rows) / 63
    assert inside.sum(axis=0).min() > 0.9 * len(rows) / 3
