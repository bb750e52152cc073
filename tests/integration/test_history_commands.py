"""The commands on worlds and their past: JSON of one shape, sentences for what is wrong, and nothing done unasked."""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import pytest

from cluster import cli
from cluster.archiving import archiving
from tests.history_cases import SmallRun
from world.errors import DiskFull, StoreUnavailable
from world.snapshot import WorldId
from world.store import keys
from world.store.archive import Archive
from world.store.archiver import ArchiveConfig, Archiver
from world.store.codec import seal_snapshot
from world.store.lineage import Lineage
from world.store.redis_history import RedisHistory
from world.store.server import EmbeddedServer, shared_server
from world.store.upgrade import SCHEMA_VERSION

NUM_TICKS = 130


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRun]:
    """A run folder whose server stays up, so that commands need not start it each time."""
    run = SmallRun(tmp_path_factory.mktemp("run"))
    with shared_server(run.directory / "redis"):
        run.live(NUM_TICKS)
        yield run


@pytest.fixture
def worlds(made: SmallRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run a command and return its exit code, and what it printed as JSON, or the error it told."""

    def worlds(*arguments: str, as_json: bool = True) -> tuple[int, Any]:
        given = [*arguments, "--run-dir", str(made.directory), *(["--json"] if as_json else [])]
        monkeypatch.setattr(sys, "argv", ["worlds", *given])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        code = int(left.value.code or 0)
        return code, (json.loads(out) if as_json and out else out) if code in (0, 1) else err

    return worlds


def fork(worlds: Any, of: str, *arguments: str) -> str:
    """Fork a world and return its id."""
    code, found = worlds("fork", of, *arguments)
    assert code == 0, found
    return str(found["worlds"][0]["id"])


def lose_tick(made: SmallRun, world: str, tick: int) -> None:
    """Take one tick from a world's log."""
    with made.opened() as opened:
        link, key = opened.store._link, f"w:{{{world}}}:l"
        ((name, _),) = link.one("XRANGE", key, tick, tick)
        link.one("XDEL", key, name)


def test_every_answer_has_the_same_shape(made: SmallRun, worlds: Any, tmp_path: Path) -> None:
    world = fork(worlds, made.world)
    file = str(tmp_path / "w.zip")
    commands = [
        ("history", made.world, "--from", "100", "--to", "104"),
        ("diff", made.world, f"{made.world}@50"),
        ("replay", made.world, "--to", "20", "--gif", str(tmp_path / "r.gif")),
        ("fork", made.world, "--at", "90", "--dream", "--count", "2"),
        ("rewind", made.world, "--to", "30"),
        ("pause", world),
        ("resume", world),
        ("verify", world),
        ("repair", world),
        ("archive", world, "--everything"),
        ("export", world, file),
        ("import", file),
        ("delete", world, "--yes"),
    ]
    for command in commands:
        code, found = worlds(*command)
        assert code == 0, found
        assert (found["command"], type(found["worlds"]), type(found["notes"])) == (command[0], list, list)
        assert all("id" in told for told in found["worlds"])
        if command[0] not in ("delete", "import", "export", "resume", "pause"):
            assert worlds(*command, as_json=False)[0] == 0


def test_what_is_wrong_is_told_in_a_sentence(made: SmallRun, worlds: Any, tmp_path: Path) -> None:
    taken = tmp_path / "taken.zip"
    taken.touch()
    for command, said in (
        (("history", "nosuch"), "no world of this id"),
        (("history", made.world, "--from", "0"), "it has ticks 1 to"),
        (("history", made.world, "--cell", "five"), "Y,X"),
        (("rewind", made.world, "--to", "9999"), "never was at 9999"),
        (("fork", made.world, "--count", "0"), "--count"),
        (("diff", made.world, f"{made.world}@x"), "ID@TICK"),
        (("replay", made.world, "--gif", "film.mp4"), ".gif"),
        (("replay", made.world, "--gif", "film.gif", "--view", "ears"), "agents or map"),
        (("verify",), "--all"),
        (("delete", made.world), "--yes"),
        (("export", made.world, str(taken)), "exists already"),
        (("export", made.world, str(tmp_path / "none" / "w.zip")), "cannot be written"),
        (("replay", made.world, "--gif", str(tmp_path / "none" / "w.gif")), "cannot be written"),
        (("import", str(taken)), "zip"),
        (("import", str(tmp_path / "none.zip")), "No such file"),
        (("list", "--redis-url", "redis://127.0.0.1:1"), "Start the server"),
    ):
        code, told = worlds(*command)
        assert code == 2, command
        assert said in told, told
        assert told.splitlines()[-1].startswith("worlds: ")
        assert "Traceback" not in told


def test_a_rewound_world_is_what_the_world_was(made: SmallRun, worlds: Any) -> None:
    _, found = worlds("rewind", made.world, "--to", "47")
    (told,) = found["worlds"]
    assert (told["tick"], told["parent"], told["fork_tick"], told["state"]) == (47, made.world, 47, "running")
    _, shown = worlds("show", told["id"])
    assert shown["state_digest"] == made.digests[47].hex()
    _, differs = worlds("diff", told["id"], f"{made.world}@47")
    assert (differs["same_state"], differs["cells"], differs["poses"]) == (True, [], [])


def test_rewinding_in_place_is_done_only_when_asked_and_keeps_the_future(made: SmallRun, worlds: Any) -> None:
    world = fork(worlds, made.world, "--at", "60")
    _, before = worlds("show", world)
    _, found = worlds("rewind", made.world, "--to", "75")
    assert worlds("show", made.world)[1]["tick"] == NUM_TICKS
    twin = found["worlds"][0]["id"]
    _, done = worlds("rewind", twin, "--to", "65", "--in-place")
    rewound, kept = done["worlds"]
    assert (rewound["id"], rewound["tick"], kept["tick"], kept["state"]) == (twin, 65, 75, "paused")
    assert worlds("show", twin)[1]["state_digest"] == made.digests[65].hex()
    assert worlds("show", kept["id"])[1]["state_digest"] == made.digests[75].hex()
    assert worlds("show", world)[1] == before
    code, told = worlds("rewind", world, "--to", "20", "--in-place")
    assert (code, "it was still world" in told) == (2, True)


def test_history_tells_ticks_and_who_changed_a_cell(made: SmallRun, worlds: Any) -> None:
    _, found = worlds("history", made.world, "--from", "1", "--to", str(NUM_TICKS))
    ticks = found["worlds"][0]["ticks"]
    assert [tick["tick"] for tick in ticks] == list(range(1, NUM_TICKS + 1))
    assert all(len(tick["agents"]) == 2 for tick in ticks)
    moves = [change for tick in ticks for change in tick["changes"] if change["cause"] == "moved"]
    assert moves
    cell = f"{moves[-1]['y']},{moves[-1]['x']}"
    _, found = worlds("history", made.world, "--cell", cell)
    changes = found["worlds"][0]["changes"]
    assert moves[-1] in changes
    assert all({"tick", "before", "after", "cause", "agents", "inferred", "since"} <= set(c) for c in changes)


def test_a_fork_remembers_what_it_was_before(made: SmallRun, worlds: Any) -> None:
    world = fork(worlds, made.world, "--at", "70", "--dream")
    _, found = worlds("history", world, "--from", "60", "--to", "70")
    _, parent = worlds("history", made.world, "--from", "60", "--to", "70")
    assert found["worlds"][0]["ticks"] == parent["worlds"][0]["ticks"]
    _, differs = worlds("diff", f"{world}@65", f"{made.world}@65")
    assert differs["same_state"]


def test_a_film_has_a_picture_for_every_tick(made: SmallRun, worlds: Any, tmp_path: Path) -> None:
    for view in ("agents", "map"):
        gif = tmp_path / f"{view}.gif"
        _, found = worlds(
            "replay", made.world, "--from", "10", "--to", "29", "--every", "2", "--view", view, "--gif", str(gif)
        )
        assert found["worlds"][0]["frames"] == 10
        # A picture like the one before is shown longer, not stored again.
        assert 2 <= len(iio.imread(gif)) <= 10


def test_an_exported_world_lives_on_elsewhere(made: SmallRun, worlds: Any, tmp_path: Path) -> None:
    file = tmp_path / "world.zip"
    assert worlds("export", made.world, str(file))[0] == 0
    _, found = worlds("import", str(file))
    (told,) = found["worlds"]
    assert (told["tick"], told["state"], told["id"] != made.world) == (NUM_TICKS, "paused", True)
    _, shown = worlds("show", told["id"])
    assert shown["state_digest"] == made.digests[NUM_TICKS].hex()
    assert worlds("verify", told["id"])[1]["worlds"][0]["verified"]
    assert worlds("delete", told["id"], "--yes")[0] == 0


def test_a_world_that_has_forks_is_not_deleted(made: SmallRun, worlds: Any) -> None:
    world = fork(worlds, made.world)
    child = fork(worlds, world)
    code, told = worlds("delete", world, "--yes")
    assert (code, child in told) == (2, True)
    for each in (child, world):
        _, found = worlds("delete", each, "--yes")
        assert found["worlds"][0]["state"] == "deleted"
    assert world not in [listed["id"] for listed in worlds("list")[1]]
    code, told = worlds("resume", world)
    assert (code, "deleted" in told) == (2, True)


def test_a_damaged_world_is_quarantined_and_repaired_only_when_asked(made: SmallRun, worlds: Any) -> None:
    _, found = worlds("rewind", made.world, "--to", "95")
    world = found["worlds"][0]["id"]
    lose_tick(made, world, 93)
    code, found = worlds("verify", world)
    assert (code, found["worlds"][0]["verified"], found["worlds"][0]["state"]) == (1, False, "quarantined")
    code, told = worlds("resume", world)
    assert (code, "worlds repair" in told) == (2, True)
    _, found = worlds("repair", world)
    assert (found["worlds"][0]["newest_verified"], found["worlds"][0]["tick"]) == (92, 95)
    assert worlds("repair", world, "--to", "94")[0] == 2
    _, found = worlds("repair", world, "--to", "92")
    assert found["worlds"][0]["state"] == "running"
    assert worlds("show", world)[1]["state_digest"] == made.digests[92].hex()
    assert worlds("verify", world)[0] == 0


def test_a_damaged_world_with_forks_is_not_rolled_back_behind_them_and_a_way_out_is_told(
    made: SmallRun, worlds: Any
) -> None:
    world = worlds("rewind", made.world, "--to", "95")[1]["worlds"][0]["id"]
    child = fork(worlds, world, "--dream")
    lose_tick(made, world, 93)
    assert worlds("verify", world)[0] == 1
    code, told = worlds("repair", world, "--to", "92")
    assert code == 2
    assert child in told
    assert f"worlds fork {world} --at 92" in told
    sound = fork(worlds, world, "--at", "92")
    assert worlds("verify", sound, child)[0] == 0


def test_a_world_whose_record_is_damaged_is_listed_found_and_deleted_and_hides_no_other(
    made: SmallRun, worlds: Any
) -> None:
    world = fork(worlds, made.world, "--dream")
    with made.opened() as opened:
        opened.store._link.one("HSET", f"w:{{{world}}}:m", "kind", "cheese")
    for page in ((), ("--limit", "100")):
        listed = {told["id"]: told["state"] for told in worlds("list", *page)[1]}
        assert (listed[world], listed[made.world]) == ("damaged", "running")
        assert worlds("list", *page, as_json=False)[0] == 0
    code, found = worlds("verify", "--all")
    verdicts = {told["id"]: told["verified"] for told in found["worlds"]}
    assert (code, verdicts[world], verdicts[made.world]) == (1, False, True)
    assert any("cheese" in note for note in found["notes"])
    assert worlds("verify", world, as_json=False)[0] == 1
    with made.opened() as opened:
        assert opened.store._link.one("HGET", f"w:{{{world}}}:m", "st") == b"quarantined"
    assert worlds("show", world)[0] == 2
    code, found = worlds("archive", "--all", "--everything")
    assert code == 1 and made.world in [told["id"] for told in found["worlds"]]
    assert any("cheese" in note for note in found["notes"]) and worlds("archive", world)[0] == 2
    assert worlds("delete", world, "--yes")[1]["worlds"][0]["state"] == "deleted"
    assert world not in [told["id"] for told in worlds("list")[1]]
    with made.opened() as opened:
        assert world not in [pin.child for pin in opened.history.kept.pins(made.world)]


def test_what_a_newer_program_wrote_is_told_as_newer_and_left_as_it_is(made: SmallRun, worlds: Any) -> None:
    record, keyframe = fork(worlds, made.world, "--dream"), fork(worlds, made.world, "--dream")
    with made.opened() as opened:
        link = opened.store._link
        link.one("HSET", f"w:{{{record}}}:m", "sv", SCHEMA_VERSION + 1)
        newer = seal_snapshot(bytes((SCHEMA_VERSION + 1,)))
        link.one("SET", keys.keyframe(WorldId(keyframe), NUM_TICKS), newer)
    for page in ((), ("--limit", "100")):
        listed = {told["id"]: told["state"] for told in worlds("list", *page)[1]}
        assert (listed[record], listed[keyframe]) == ("newer", "running")
    code, found = worlds("verify", record, keyframe)
    assert (code, [told["state"] for told in found["worlds"]]) == (1, ["newer", "newer"])
    assert all("use the one that wrote it" in note for note in found["notes"])
    code, told = worlds("repair", keyframe)
    assert (code, "use the one that wrote it" in told) == (2, True)
    with made.opened() as opened:
        for world in (record, keyframe):
            assert opened.store._link.one("HGET", f"w:{{{world}}}:m", "st") == b"running"
    assert worlds("delete", record, keyframe, "--yes")[0] == 0


def test_a_world_whose_maker_died_is_told_as_such_and_can_be_deleted(
    made: SmallRun, worlds: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = RedisHistory._write

    def dies(self: RedisHistory, world: WorldId, name: str, *arguments: Any) -> Any:
        if name == "finish":
            raise StoreUnavailable("killed")
        return write(self, world, name, *arguments)

    before = {told["id"] for told in worlds("list")[1]}
    with monkeypatch.context() as patched:
        patched.setattr(RedisHistory, "_write", dies)
        assert worlds("rewind", made.world, "--to", "60")[0] == 2
    (world,) = {told["id"] for told in worlds("list")[1]} - before
    assert worlds("show", world)[1]["state"] == "quarantined"
    for told in (worlds("show", world)[1]["reason"], worlds("repair", world)[1]["notes"][0]):
        assert "delete it" in told
    assert worlds("resume", world)[0] == 2
    assert worlds("delete", world, "--yes")[0] == 0


def test_an_import_that_fails_is_undone_and_one_that_was_killed_is_told_by_verify(
    made: SmallRun, worlds: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with made.opened() as opened:
        Archiver(
            opened.history.kept, opened.history.archive, ArchiveConfig(segment_ticks=32, least_segment_ticks=8)
        ).archive(made.world)
    file, archive = tmp_path / "w.zip", made.directory / "archive"
    assert worlds("export", made.world, str(file))[0] == 0
    before, folders = {told["id"] for told in worlds("list")[1]}, set(archive.iterdir())
    put = Archive.put

    def full(archive: Archive, *arguments: Any) -> None:
        put(archive, *arguments)
        raise DiskFull("no space")

    with monkeypatch.context() as patched:
        patched.setattr(Archive, "put", full)
        assert worlds("import", str(file))[0] == 2
    assert {told["id"] for told in worlds("list")[1]} == before
    assert set(archive.iterdir()) == folders
    with monkeypatch.context() as patched:
        patched.setattr(Archive, "put", full)
        # Whoever is killed undoes nothing.
        patched.setattr(Lineage, "delete", lambda lineage, world: None)
        assert worlds("import", str(file))[0] == 2
    (world,) = {told["id"] for told in worlds("list")[1]} - before
    code, found = worlds("verify", world)
    assert (code, found["worlds"][0]["state"]) == (1, "quarantined")
    assert any(world in note and "delete it" in note for note in found["notes"])
    assert worlds("delete", world, "--yes")[0] == 0
    assert set(archive.iterdir()) == folders
    assert worlds("verify", made.world)[0] == 0


def test_a_quarantined_world_that_verifies_after_all_is_let_go_on(made: SmallRun, worlds: Any) -> None:
    world = fork(worlds, made.world)
    with made.opened() as opened:
        opened.store.set_status(WorldId(world), "quarantined")
    _, found = worlds("repair", world)
    tick = found["worlds"][0]["tick"]
    assert found["notes"] == [f"nothing is wrong with it; let it go on with: worlds repair {world} --to {tick}"]
    assert worlds("repair", world, "--to", str(tick))[1]["worlds"][0]["state"] == "running"


def test_what_is_not_forgotten_of_what_was_asked_is_told(made: SmallRun, worlds: Any) -> None:
    world = worlds("rewind", made.world, "--to", "95")[1]["worlds"][0]["id"]
    _, found = worlds("archive", world, "--everything", "--forget-before", "94")
    assert found["worlds"][0]["begins"] < 94
    assert "whole segments" in found["notes"][0]


def test_worlds_are_listed_in_pages(made: SmallRun, worlds: Any) -> None:
    all_ = {listed["id"] for listed in worlds("list")[1]}
    found: list[str] = []
    while page := worlds("list", "--limit", "2", *(("--after", found[-1]) if found else ()))[1]:
        found += [listed["id"] for listed in page]
    assert (set(found), len(found)) == (all_, len(all_))


def test_a_run_archives_its_worlds_while_it_goes_on(made: SmallRun, tmp_path: Path) -> None:
    told: list[str] = []
    with made.opened() as opened:
        url = EmbeddedServer(made.directory / "redis")
        url.start()
        Archiver(
            opened.history.kept, opened.history.archive, ArchiveConfig(segment_ticks=64, least_segment_ticks=8)
        ).archive(made.world)
        archived_to = opened.history.kept.past(made.world).archived_to
        assert archived_to > 0
        with archiving(url.url, tmp_path, lambda store: [made.world, WorldId("nosuch")], told.append):
            deadline = time.monotonic() + 120
            while not told and time.monotonic() < deadline:
                time.sleep(0.05)
        assert opened.history.state_at(made.world, 5).digest() == made.digests[5]
    assert "nosuch" in told[0]
