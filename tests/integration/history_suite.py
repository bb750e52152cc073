"""What every `WorldHistory` promises. A store passes by subclassing the suite and saying how to connect to it."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from actors.requests import WorldRequests
from tests.integration.store_suite import NONCE, OTHER_NONCE, born, commit_one
from tests.store_cases import LivingField, record_of
from world.errors import Conflict, Fenced, LeaseHeld, NoHistory, NotRunning, Pinned, UnknownWorld, WorldExists
from world.snapshot import Snapshot, WorldId
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.audit import audit
from world.store.codec import decode_snapshot, encode_snapshot
from world.store.history import History
from world.store.inbox import Request
from world.store.lineage import Lineage, new_world_id
from world.store.past import HistoricStore, Line, SegmentRef
from world.store.records import Ack, Commit
from world.store.refusals import UNFINISHED

NAME = "0" * 32


class HistorySuite:
    """Fixtures that a subclass gives: `connect`, `lease_passes`, and `world`, an id that is new in each test."""

    @pytest.fixture
    def store(self, connect: Callable[..., HistoricStore]) -> HistoricStore:
        return connect(hot_log_ticks=4)

    @pytest.fixture
    def history(self, store: HistoricStore, tmp_path: Path) -> History:
        return History(store.history(), Archive(tmp_path / "archive"))

    @pytest.fixture
    def lineage(self, store: HistoricStore, history: History) -> Lineage:
        return Lineage(store, history)

    def test_the_past_is_what_was_committed(self, store: HistoricStore, world: WorldId) -> None:
        life, token = born(store, world)
        ticks = life.steps(3)
        commit_one(store, Commit(token, ticks[:2]))
        commit_one(store, Commit(token, ticks[2:], life.snapshot))
        kept = store.history()
        past = kept.past(world)
        assert (past.record, past.born_at, past.archived_to, past.segments) == (store.record(world), 0, 0, ())
        assert (past.keyframes, past.first_tick) == ((0, 3), 1)
        entries = kept.entries(world, 0, 99)
        assert [entry.tick for entry in entries] == [1, 2, 3]
        assert entries[-1].digest == past.digest
        assert kept.keyframe(world, 3) == encode_snapshot(life.snapshot, chain=past.digest)
        assert kept.keyframe(world, 2) is None

    def test_unknown_worlds_are_said_to_be_unknown(self, store: HistoricStore, world: WorldId) -> None:
        kept = store.history()
        for ask in (kept.past, kept.delete, lambda w: kept.forget(w, 1), lambda w: kept.pin(w, 0, WorldId("child"))):
            with pytest.raises(UnknownWorld):
                ask(world)
        with pytest.raises(UnknownWorld):
            kept.set_parent(world, WorldId("other"))
        kept.unpin(world, WorldId("child"))

    def test_an_archiver_moves_on_only_from_where_the_world_is_archived_and_with_its_digests(
        self, store: HistoricStore, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(6), life.snapshot))
        kept = store.history()
        right, wrong = kept.entries(world, 4, 4)[0].digest, b"?" * 16
        first = SegmentRef(1, 4, NAME)
        for digest, after in ((wrong, 0), (right, 1)):
            with pytest.raises(Conflict):
                kept.archived(world, first, digest, after=after, num_bytes=9)
        with pytest.raises(Conflict):
            kept.archived(world, SegmentRef(1, 9, NAME), right, after=0, num_bytes=9)
        assert kept.past(world).archived_to == 0
        kept.archived(world, first, right, after=0, num_bytes=9)
        kept.archived(world, first, right, after=0, num_bytes=9)
        past = kept.past(world)
        assert (past.archived_to, past.segments, past.first_tick) == (4, (first,), 1)
        with pytest.raises(Conflict):
            kept.archived(world, SegmentRef(5, 6, NAME), right, after=0, num_bytes=9)

    def test_a_world_pauses_at_its_cap_drops_nothing_and_goes_on_once_it_is_archived(
        self, connect: Callable[..., HistoricStore], world: WorldId, tmp_path: Path
    ) -> None:
        store = connect(max_log_ticks=10, hot_log_ticks=2)
        life, token = born(store, world)
        ticks = life.steps(10)
        assert isinstance(commit_one(store, Commit(token, ticks, life.snapshot)), Ack)
        alive = LivingField.resume(*_copied(life))
        refused = commit_one(store, Commit(token, life.steps(1)))
        assert isinstance(refused, NotRunning)
        assert "archived" in str(refused)
        record = store.record(world)
        assert (record.status, record.reason, record.tick) == ("paused", "log", 10)
        with pytest.raises(NotRunning, match="archived"):
            store.acquire(world, owner="host-1", nonce=OTHER_NONCE)
        assert len(store.history().entries(world, 1, 10)) == 10
        archiver = Archiver(store.history(), Archive(tmp_path), ArchiveConfig(segment_ticks=6, least_segment_ticks=2))
        assert [(ref.first, ref.last) for ref in archiver.archive(world)] == [(1, 6)]
        assert (store.record(world).status, store.record(world).reason) == ("running", "")
        assert isinstance(commit_one(store, Commit(token, alive.steps(4))), Ack)

    def test_a_world_pauses_at_its_cap_of_bytes_too_and_counts_them_whatever_is_done_to_it(
        self, connect: Callable[..., HistoricStore], world: WorldId, tmp_path: Path
    ) -> None:
        store = connect(max_log_bytes=2000, hot_log_ticks=2)
        kept, archive = store.history(), Archive(tmp_path)

        def counted(of: WorldId) -> int:
            past = kept.past(of)
            frames = [len(entry.frame) for entry in kept.entries(of, past.archived_to + 1, past.keyframes[-1])]
            assert past.log_bytes == sum(frames)
            return past.log_bytes

        life, token = born(store, world)
        while counted(world) < 2000:
            assert isinstance(commit_one(store, Commit(token, life.steps(1), life.snapshot)), Ack)
        last = len(kept.entries(world, life.tick, life.tick)[0].frame)
        assert counted(world) - last < 2000, "it was paused too late"
        alive, tick = LivingField.resume(*_copied(life)), life.tick
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), NotRunning)
        assert (store.record(world).reason, store.record(world).tick) == ("log", tick)
        lineage = Lineage(store, History(kept, archive))
        child = new_world_id()
        lineage.rewound(world, tick - 1, child)
        assert counted(child) >= 0
        # Less than is due otherwise: it waits for it.
        Archiver(kept, archive).archive(world)
        assert store.record(world).status == "running"
        assert counted(world) < 1000
        assert isinstance(commit_one(store, Commit(token, alive.steps(1))), Ack)
        assert isinstance(commit_one(store, Commit(token, alive.steps(1), alive.snapshot)), Ack)
        store.release(token)
        before = counted(world)
        lineage.rewind_in_place(world, alive.tick - 1)
        assert 0 < counted(world) < before
        assert store.record(world).tick == tick + 1

    def test_a_person_who_pauses_a_world_at_its_cap_keeps_it_paused(
        self, connect: Callable[..., HistoricStore], world: WorldId, tmp_path: Path
    ) -> None:
        store = connect(max_log_ticks=4)
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(4), life.snapshot))
        commit_one(store, Commit(token, life.steps(1)))
        store.set_status(world, "paused")
        assert store.record(world).reason == ""
        Archiver(store.history(), Archive(tmp_path)).archive(world, all_of_it=True)
        assert store.record(world).status == "paused"

    def test_archived_ticks_are_trimmed_and_still_visited(
        self, store: HistoricStore, history: History, world: WorldId
    ) -> None:
        life, token = born(store, world)
        digests = [life.snapshot.digest()]
        for _ in range(10):
            effects = []
            for _ in range(5):
                effects.append(life.step())
                digests.append(life.snapshot.digest())
            commit_one(store, Commit(token, tuple(effects), life.snapshot))
        config = ArchiveConfig(segment_ticks=16, least_segment_ticks=4)
        done = Archiver(history.kept, history.archive, config).run([world])
        assert (done.segments, done.ticks, done.refused) == (3, 45, {})
        assert history.kept.entries(world, 1, 44) == []
        assert [(ref.first, ref.last) for ref in history.kept.past(world).segments] == [(1, 15), (16, 30), (31, 45)]
        for tick, digest in enumerate(digests):
            assert history.state_at(world, tick).digest() == digest
        assert [effects.tick for effects in history.effects(world, 10, 48)] == list(range(10, 49))
        assert audit(history, world).verified
        for ask in (lambda: history.reach(world, 51), lambda: list(history.effects(world, 1, 51))):
            with pytest.raises(NoHistory, match="never was"):
                ask()

    def test_an_archive_that_is_full_lets_the_world_pause_rather_than_drop_its_past_and_a_fork_goes_on(
        self, store: HistoricStore, history: History, lineage: Lineage, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(8), life.snapshot))
        config = ArchiveConfig(segment_ticks=4, least_segment_ticks=1, max_bytes_per_world=1)
        done = Archiver(history.kept, history.archive, config).run([world])
        assert (done.segments, list(done.refused)) == (1, [world])
        assert "max_bytes_per_world = 1;" in done.refused[world]
        assert done.refused[world].endswith(f"go on with a fork, which has an archive of its own: worlds fork {world}")
        child = new_world_id()
        lineage.fork(world, 8, child, dream=True)
        token = store.acquire(child, owner="host-0", nonce=OTHER_NONCE)
        commit_one(store, Commit(token, LivingField.resume(*store.load(child)[1:]).steps(4)))
        config = replace(config, max_bytes_per_world=history.archive.num_bytes(world))
        assert Archiver(history.kept, history.archive, config).run([world]).refused
        assert Archiver(history.kept, history.archive, config).archive(child)

    def test_two_archivers_do_not_undo_each_other(self, store: HistoricStore, history: History, world: WorldId) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(12), life.snapshot))
        both = [
            Archiver(history.kept, history.archive, ArchiveConfig(segment_ticks=num, least_segment_ticks=1))
            for num in (4, 3)
        ]
        for archiver in both * 3:
            archiver.archive(world)
        past = history.kept.past(world)
        assert past.archived_to == 12
        assert audit(history, world).verified

    def test_pins_are_kept_until_they_are_taken_back(self, store: HistoricStore, world: WorldId) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(3)))
        kept, children = store.history(), [WorldId(f"{world}-{number}") for number in range(2)]
        kept.pin(world, 2, children[0])
        kept.pin(world, 1, children[1])
        kept.pin(world, 2, children[0])
        assert [(pin.tick, pin.child) for pin in kept.pins(world)] == [(1, children[1]), (2, children[0])]
        assert all(0 <= pin.age_s < 60 for pin in kept.pins(world))
        with pytest.raises(Conflict):
            kept.pin(world, 4, WorldId("beyond"))
        for refused in (lambda: kept.delete(world), lambda: kept.forget(world, 2)):
            with pytest.raises(Pinned, match=f"{world}-1"):
                refused()
        for child in children:
            kept.unpin(world, child)
        assert kept.pins(world) == []

    def test_a_world_made_of_a_past_lives_on_from_it(
        self, store: HistoricStore, lineage: Lineage, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(3), life.snapshot))
        commit_one(store, Commit(token, life.steps(4)))
        child = new_world_id()
        made = lineage.rewound(world, 5, child)
        assert (made.parent, made.fork_tick, made.tick, made.status) == (world, 5, 5, "running")
        again = lineage.rewound(world, 5, child)
        assert again == made
        other = store.acquire(child, owner="host-0", nonce=NONCE)
        twin = LivingField.resume(*store.load(child)[1:])
        assert twin.tick == 5
        assert isinstance(commit_one(store, Commit(other, twin.steps(2))), Ack)
        assert twin.snapshot.digest() == life.snapshot.digest(), "the same seed lives the same life"
        with pytest.raises(WorldExists):
            snapshot = LivingField(9).snapshot
            store.history().make(
                Line(
                    record=record_of(child, snapshot),
                    at=0,
                    digest=b"?" * 16,
                    keyframe=encode_snapshot(snapshot, chain=b"?" * 16),
                    entries=(),
                )
            )

    def test_a_fork_has_randomness_of_its_own_and_its_parents_past(
        self, store: HistoricStore, history: History, lineage: Lineage, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(6), life.snapshot))
        children = [new_world_id() for _ in range(2)]
        for child in children:
            lineage.fork(world, 4, child, dream=True)
            lineage.fork(world, 4, child, dream=True)
        seeds = [history.state_at(child, 4).seed for child in children]
        assert len({*seeds, 1}) == 3
        assert history.state_at(children[0], 3).digest() == history.state_at(world, 3).digest()
        assert history.begins(children[0]) == 0
        assert [pin.tick for pin in store.history().pins(world)] == [4, 4]
        with pytest.raises(Pinned):
            lineage.delete(world)
        for child in children:
            lineage.delete(child)
        lineage.delete(world)

    def test_rewinding_in_place_keeps_the_old_future_and_its_forks(
        self, store: HistoricStore, history: History, lineage: Lineage, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(8), life.snapshot))
        wanted = {tick: history.state_at(world, tick).digest() for tick in range(9)}
        fork = new_world_id()
        lineage.fork(world, 7, fork, dream=True)
        with pytest.raises(LeaseHeld, match="host-0"):
            lineage.rewind_in_place(world, 5)
        assert store.record(world).tick == 8
        store.set_status(world, "paused")
        done = lineage.rewind_in_place(world, 5)
        assert done.kept_as is not None
        record, future = store.record(world), store.record(done.kept_as)
        assert (record.tick, record.status, record.epoch) == (5, "paused", 2)
        assert (future.tick, future.status, future.parent, future.fork_tick) == (8, "paused", world, 5)
        assert store.record(fork).parent == done.kept_as
        assert {tick: history.state_at(done.kept_as, tick).digest() for tick in wanted} == wanted
        assert history.state_at(fork, 6).digest() == wanted[6]
        store.set_status(world, "running")
        assert isinstance(commit_one(store, Commit(token, LivingField(1).steps(1))), Fenced)
        fresh = store.acquire(world, owner="host-1", nonce=OTHER_NONCE)
        alive = LivingField.resume(*store.load(world)[1:])
        assert isinstance(commit_one(store, Commit(fresh, alive.steps(3))), Ack)
        assert history.state_at(world, 8).digest() == wanted[8], "the same seed lives the same life"

    def test_requests_are_applied_once_in_each_line_though_a_world_is_rewound(
        self, store: Any, history: History, lineage: Lineage, world: WorldId
    ) -> None:
        inbox = store.inbox()
        life, token = born(store, world)

        def live(requests: WorldRequests, num: int) -> None:
            for _ in range(num):
                requests.take_in(inbox.read({world: requests.read_up_to}, 8).get(world, []))
                asked = requests.asked(life.tick + 1, num_agents=4, num_actions=10**6)
                commit = Commit(token, (life.step(asked=asked.actions),), inbox=requests.progress())
                assert isinstance(commit_one(store, commit), Ack)
                requests.acknowledged()

        def applied(of: WorldId) -> dict[int, list[int]]:
            """Return the ticks at which each action beyond the ordinary was taken."""
            found: dict[int, list[int]] = {}
            for tick in history.effects(of, 1, history.kept.past(of).record.tick):
                for action in tick.actions[tick.actions >= 1000].tolist():
                    found.setdefault(action, []).append(tick.tick)
            return found

        first, second, third = (Request(f"q{number}", 0, 1000 + number) for number in range(3))
        requests = WorldRequests(inbox.progress(world))
        inbox.post(world, [first])
        live(requests, 5)
        inbox.post(world, [second])
        live(requests, 3)
        inbox.post(world, [third])
        store.set_status(world, "paused")
        future = lineage.rewind_in_place(world, 5).kept_as
        store.set_status(world, "running")
        assert future is not None
        assert applied(future) == {1000: [1], 1001: [6]}
        # What the cut-off ticks answered is no longer answered here; what was answered before still is.
        assert inbox.result(world, "q0").tick == 1
        assert inbox.result(world, "q1") is None
        token = store.acquire(world, owner="host-1", nonce=OTHER_NONCE)
        life = LivingField.resume(*store.load(world)[1:])
        requests = WorldRequests(inbox.progress(world))
        live(requests, 2)
        assert applied(world) == {1000: [1], 1002: [6]}, "an input of the ticks that were cut off came back by itself"
        # Clients who are in doubt post again: one had its answer, to the other nothing has happened in this line.
        inbox.post(world, [first, second])
        live(requests, 2)
        assert applied(world) == {1000: [1], 1002: [6], 1001: [8]}

    def test_a_world_that_was_rewound_into_its_archive_lives_and_is_archived_anew(
        self, store: HistoricStore, history: History, lineage: Lineage, world: WorldId
    ) -> None:
        life, token = born(store, world)
        digests, futures = [life.snapshot.digest()], {}
        archiver = Archiver(history.kept, history.archive, ArchiveConfig(segment_ticks=8, least_segment_ticks=3))
        for salt, back_to in enumerate((16, 20, 11, None)):
            for with_keyframe in (False, True, True):
                effects = []
                for _ in range(9):
                    effects.append(life.step(salt=salt))
                    digests.append(life.snapshot.digest())
                commit = Commit(token, tuple(effects), life.snapshot if with_keyframe else None)
                assert isinstance(commit_one(store, commit), Ack)
            archiver.archive(world, all_of_it=True)
            assert [history.state_at(world, tick).digest() for tick in range(len(digests))] == digests
            assert audit(history, world).verified
            if back_to is None:
                break
            store.set_status(world, "paused")
            kept_as = lineage.rewind_in_place(world, back_to).kept_as
            assert kept_as is not None
            futures[kept_as] = list(digests)
            del digests[back_to + 1 :]
            store.set_status(world, "running")
            token = store.acquire(world, owner="host-0", nonce=bytes((salt,)) * 16)
            life = LivingField.resume(*store.load(world)[1:])
        for future, wanted in futures.items():
            assert [history.state_at(future, tick).digest() for tick in range(len(wanted))] == wanted
            assert audit(history, future).verified

    def test_a_rewind_is_refused_where_the_world_moved_on_meanwhile(
        self, store: HistoricStore, history: History, world: WorldId, lease_passes: Callable[[WorldId], None]
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(4), life.snapshot))
        kept, past = store.history(), store.history().past(world)
        line = _line(history, world, 2)
        commit_one(store, Commit(token, life.steps(1)))
        lease_passes(world)
        with pytest.raises(Conflict):
            kept.rewind(past, line, "running")
        assert store.record(world).tick == 5
        kept.pin(world, 3, WorldId("child"))
        with pytest.raises(Pinned):
            kept.rewind(kept.past(world), line, "running")
        kept.unpin(world, WorldId("child"))
        kept.rewind(kept.past(world), line, "running")
        assert store.load(world)[0].tick == 2

    def test_deleting_leaves_only_the_fact_that_it_was(
        self, store: HistoricStore, history: History, lineage: Lineage, world: WorldId
    ) -> None:
        life, token = born(store, world)
        commit_one(store, Commit(token, life.steps(6), life.snapshot))
        Archiver(history.kept, history.archive).archive(world, all_of_it=True)
        assert history.archive.num_bytes(world) > 0
        lineage.delete(world)
        lineage.delete(world)
        assert store.record(world).status == "deleted"
        assert history.archive.num_bytes(world) == 0
        past = history.kept.past(world)
        assert (past.keyframes, past.segments, history.kept.entries(world, 1, 6)) == ((), (), [])
        assert world not in [record.world for record in store.records()]
        assert isinstance(commit_one(store, Commit(token, life.steps(1))), Fenced | NotRunning)
        with pytest.raises(NotRunning, match="deleted"):
            store.set_status(world, "running")
        with pytest.raises(NoHistory, match="deleted"):
            lineage.fork(world, 6, new_world_id(), dream=True)

    def test_the_janitor_drops_pins_whose_fork_never_came_to_be(
        self, store: HistoricStore, lineage: Lineage, world: WorldId
    ) -> None:
        born(store, world)
        kept, child = store.history(), new_world_id()
        kept.pin(world, 0, WorldId("never"))
        lineage.fork(world, 0, child, dream=True)
        assert lineage.sweep(world) == 0
        assert lineage.sweep(world, grace_s=0.0) == 1
        assert [pin.child for pin in kept.pins(world)] == [child]

    def test_worlds_are_listed_in_pages_the_newest_made_first(self, store: HistoricStore, world: WorldId) -> None:
        worlds = [WorldId(f"{world}-{number}") for number in range(7)]
        for number, each in enumerate(worlds):
            born(store, each, seed=number)
            self.a_moment_passes()
        kept = store.history()
        kept.delete(worlds[2])
        found: list[WorldId] = []
        while page := kept.listed(after=found[-1] if found else None, limit=2):
            assert len(page) <= 2
            found += [record.world for record in page]
        mine = [each for each in found if each in worlds]
        assert mine == [each for each in reversed(worlds) if each != worlds[2]]
        assert len(found) == len(set(found))
        assert kept.listed(limit=1)[0] == store.record(worlds[6])

    def test_a_world_that_is_made_of_a_past_is_paused_once_it_is_whole(
        self, store: HistoricStore, world: WorldId
    ) -> None:
        life = LivingField(3)
        beginning, parent = record_of(world, life.snapshot), WorldId(f"{world}-parent")
        token = born(store, parent, seed=3)[1]
        commit_one(store, Commit(token, life.steps(5)))
        kept = store.history()
        entries = tuple(kept.entries(parent, 1, 5))
        start = kept.past(parent).birth_digest
        keyframe = kept.keyframe(parent, 0)
        assert keyframe is not None
        line = Line(record=beginning, at=0, digest=start, keyframe=keyframe, entries=entries)
        for _ in range(2):
            kept.make(line)
            assert (store.record(world).tick, store.record(world).status) == (5, "paused")
            assert store.load(world)[1].tick == 0

    def test_a_world_is_listed_and_quarantined_while_its_segments_are_written(
        self, store: HistoricStore, world: WorldId
    ) -> None:
        life, parent = LivingField(3), WorldId(f"{world}-parent")
        token = born(store, parent, seed=3)[1]
        commit_one(store, Commit(token, life.steps(5)))
        kept = store.history()
        keyframe, start = kept.keyframe(parent, 0), kept.past(parent).birth_digest
        assert keyframe is not None
        entries = tuple(kept.entries(parent, 1, 5))
        line = Line(record=record_of(world, life.snapshot), at=0, digest=start, keyframe=keyframe, entries=entries)

        def dies() -> None:
            assert store.record(world).status == "quarantined"
            raise OSError("struck")

        for _ in range(2):
            with pytest.raises(OSError, match="struck"):
                kept.make(line, dies)
            record = store.record(world)
            assert (record.status, record.reason) == ("quarantined", UNFINISHED)
            assert world in [record.world for record in kept.listed()]
        for _ in range(2):
            kept.make(line, lambda: None)
            assert (store.record(world).tick, store.record(world).status) == (5, "paused")

    def a_moment_passes(self) -> None:
        """Let later activity be later."""
        raise NotImplementedError


def _copied(life: LivingField) -> tuple[Snapshot]:
    return (decode_snapshot(encode_snapshot(life.snapshot))[0],)


def _line(history: History, world: WorldId, tick: int) -> Line:
    reached = history.reach(world, tick)
    keyframe = encode_snapshot(reached.state(), chain=reached.digest)
    return Line(record=reached.record, at=tick, digest=reached.digest, keyframe=keyframe, entries=())
