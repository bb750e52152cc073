"""What a newer program wrote is told as that: nobody calls it damaged, cuts it off or deletes it."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.integration.store_suite import born, commit_one
from world.errors import NewerSchema
from world.snapshot import WorldId
from world.store import segment as segments
from world.store.archive import Archive, content_name
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.codec import seal_effects, seal_snapshot
from world.store.frame import seal
from world.store.history import History
from world.store.in_process import InProcessWorldStore
from world.store.in_process_world import InProcessWorld
from world.store.lineage import Lineage
from world.store.log import LogEntry
from world.store.past import SegmentRef
from world.store.records import Commit
from world.store.repair import offered, roll_back
from world.store.upgrade import SCHEMA_VERSION

WORLD = WorldId("w-origin")
NEWER = bytes((SCHEMA_VERSION + 1,))
NEWER_SEGMENT = seal(segments._MAGIC, segments._VERSION + 1, b"?", 100)


@pytest.fixture
def store() -> InProcessWorldStore:
    """A store with a world of 28 ticks, of which 24 are archived later."""
    store = InProcessWorldStore(hot_log_ticks=8)
    life, token = born(store, WORLD)
    for _ in range(6):
        commit_one(store, Commit(token, life.steps(4), life.snapshot))
    commit_one(store, Commit(token, life.steps(4)))
    return store


@pytest.fixture
def history(store: InProcessWorldStore, tmp_path: Path) -> History:
    history = History(store.history(), Archive(tmp_path / "archive"))
    Archiver(history.kept, history.archive, ArchiveConfig(segment_ticks=8, least_segment_ticks=4)).archive(WORLD)
    return history


def _newer_keyframe(held: InProcessWorld) -> None:
    held.keyframes[max(held.keyframes)] = seal_snapshot(NEWER)


def _newer_tick(held: InProcessWorld) -> None:
    held.log[26] = LogEntry(26, held.log[26].digest, seal_effects(NEWER))


def _newer_copy_of_an_archived_tick(held: InProcessWorld) -> None:
    tick = held.archived_to - 1
    held.log[tick] = LogEntry(tick, held.log[tick].digest, seal_effects(NEWER))


def _newer_segment(held: InProcessWorld) -> None:
    held.segments = (replace(held.segments[0], name=content_name(NEWER_SEGMENT)), *held.segments[1:])


@pytest.mark.parametrize(
    "become_newer", [_newer_keyframe, _newer_tick, _newer_copy_of_an_archived_tick, _newer_segment]
)
def test_a_world_of_which_a_newer_program_wrote_some_is_not_audited(
    become_newer: Callable[[InProcessWorld], None], store: InProcessWorldStore, history: History
) -> None:
    history.archive.put(WORLD, SegmentRef(1, 8, content_name(NEWER_SEGMENT)), NEWER_SEGMENT)
    assert audit(history, WORLD).verified
    become_newer(store._worlds[WORLD])
    with pytest.raises(NewerSchema, match=f"{WORLD}.*use the one that wrote it"):
        audit(history, WORLD)


def test_a_repair_cuts_nothing_off_that_a_newer_program_wrote(store: InProcessWorldStore, history: History) -> None:
    store.set_status(WORLD, "paused")
    sound = audit(history, WORLD)
    _newer_tick(store._worlds[WORLD])
    for cut in (
        lambda: offered(history, sound),
        lambda: roll_back(store, Lineage(store, history), history, sound, 27),
    ):
        with pytest.raises(NewerSchema, match=f"{WORLD}.*use the one that wrote it"):
            cut()
    assert store.record(WORLD).tick == 28


def test_the_past_is_newer_where_nothing_older_leads_there(store: InProcessWorldStore, history: History) -> None:
    _newer_tick(store._worlds[WORLD])
    assert history.state_at(WORLD, 25).tick == 25
    with pytest.raises(NewerSchema, match=f"{WORLD}.*tick 27"):
        history.reach(WORLD, 27)


def test_a_segment_of_a_newer_program_is_not_swept(history: History) -> None:
    history.archive.put(WORLD, SegmentRef(1, 8, content_name(NEWER_SEGMENT)), NEWER_SEGMENT)
    for path in (history.archive.directory / WORLD).iterdir():
        os.utime(path, (0, 0))
    past = history.kept.past(WORLD)
    assert history.archive.sweep(WORLD, past.segments, past.archived_to) == 0
