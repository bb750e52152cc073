"""Commands that verify worlds, mend them, and carry them elsewhere."""

from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.lineage_commands import World
from cluster.output import DEFAULT_RUN_DIR, Json, RedisUrl, RunDir, answer, print_answer, tell_progress

if TYPE_CHECKING:
    from cluster.histories import Opened
    from world.errors import CorruptRecord
    from world.snapshot import WorldId
    from world.store.audit import Audit
    from world.store.records import WorldRecord

All = Annotated[bool, typer.Option("--all", help="Every world that is not deleted.")]
_FOR_PROGRAMS = ("from", "problems", "missing", "segments", "keyframes")
Ids = Annotated[list[str] | None, typer.Argument(help="Ids of worlds, as `worlds list` prints them.")]


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (verify, repair, archive, export):
        app.command()(command)
    app.command(name="import")(import_)


def verify(
    worlds: Ids = None,
    all_: All = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Verify every byte of worlds and of their history. One that does not verify is quarantined; exit code 1.

    What a newer program wrote is told as newer, and left as it is.
    """
    from cluster.histories import opened_history
    from world.errors import CorruptRecord
    from world.store.audit import audit
    from world.store.refusals import REASONS, UNFINISHED

    found, notes = [], []
    with opened_history(run_dir, redis_url) as opened:
        chosen = _chosen(opened, worlds, all_)
        for number, world in enumerate(chosen, 1):
            tell_progress(f"verifying world {number} of {len(chosen)}")
            try:
                audited = audit(opened.history, world)
            except CorruptRecord as error:
                found.append(_unreadable(opened, world, error))
                notes.append(str(error))
                continue
            found.append(_told(opened, audited))
            if opened.store.record(world).reason == UNFINISHED:
                notes.append(f"world {world}: {REASONS[UNFINISHED]}")
            if not audited.verified:
                notes.append(f"world {world}: {audited.problems[0]}; see `worlds repair {world}`")
            notes += audited.missing
        tell_progress("")
    print_answer(answer("verify", found, notes), as_json, leave_out=_FOR_PROGRAMS)
    if notes:
        raise typer.Exit(1)


def repair(
    world: World,
    to: Annotated[
        int | None, typer.Option("--to", help="Roll it back to this tick; without it, only say which verify.")
    ] = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Offer the newest tick at which a damaged world verifies, and roll it back there only when asked with --to."""
    from cluster.histories import opened_history
    from world.errors import Pinned
    from world.snapshot import WorldId
    from world.store.audit import audit
    from world.store.repair import offered, roll_back

    with opened_history(run_dir, redis_url) as opened:
        audited = audit(opened.history, WorldId(world))
        told, notes = _told(opened, audited), []
        if to is not None:
            try:
                aside = roll_back(opened.store, opened.lineage, opened.history, audited, to)
            except Pinned as error:
                raise Pinned(f"{error}, or leave this one be and go on from: worlds fork {world} --at {to}") from None
            notes.append(f"it is at tick {to} and runs again")
            if aside is not None:
                notes.append(f"what it did after that is kept in {aside}")
            told |= {"state": opened.store.record(WorldId(world)).status, "rolled_back_to": to}
        elif audited.verified:
            notes.append(_unharmed(opened.store.record(WorldId(world))))
        elif (newest := offered(opened.history, audited)) is None:
            notes.append("no tick of it verifies; restore it from a backup, or delete it")
        else:
            notes.append(
                f"its newest verified tick is {newest}; roll it back with: worlds repair {world} --to {newest}"
            )
            told["newest_verified"] = newest
    print_answer(answer("repair", [told], notes), as_json, leave_out=_FOR_PROGRAMS)


def archive(
    worlds: Ids = None,
    all_: All = False,
    everything: Annotated[
        bool, typer.Option("--everything", help="Up to the newest tick, rather than what is due.")
    ] = False,
    forget_before: Annotated[
        int | None, typer.Option("--forget-before", help="Delete archived history older than this tick, for good.")
    ] = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Move old ticks into the run folder's archive, as a run does by itself; nothing is forgotten unless asked.

    Of all, one that cannot be archived keeps no other from it; exit code 1.
    """
    from cluster.histories import opened_history
    from world.errors import StoreError, StoreUnavailable
    from world.store.archiver import Archiver

    done, notes, failed = [], [], []
    with opened_history(run_dir, redis_url) as opened:
        archiver = Archiver(opened.history.kept, opened.history.archive)
        for world in _chosen(opened, worlds, all_):
            try:
                refs = archiver.archive(world, all_of_it=everything)
                opened.lineage.sweep(world)
                if forget_before is not None:
                    opened.lineage.forget(world, forget_before)
                    if (begins := opened.history.begins(world)) < forget_before:
                        notes.append(f"world {world}: whole segments are forgotten, so its history begins at {begins}")
                past = opened.history.kept.past(world)
            except StoreUnavailable:
                raise
            except StoreError as error:
                if not all_:
                    raise
                failed.append(str(error))
                continue
            done.append(
                {
                    "id": world,
                    "tick": past.record.tick,
                    "state": past.record.status,
                    "begins": opened.history.begins(world),
                    "archived_to": past.archived_to,
                    "new_segments": len(refs),
                    "archive_bytes": opened.history.archive.num_bytes(world),
                }
            )
    print_answer(answer("archive", done, notes + failed), as_json)
    if failed:
        raise typer.Exit(1)


def export(
    world: World,
    file: Annotated[Path, typer.Argument(help="Zip file to write.")],
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Write a world with its own history into one file."""
    from cluster.histories import opened_history
    from world.errors import ConfigError
    from world.snapshot import WorldId
    from world.store.exported import export_world

    if file.exists():
        raise ConfigError(f"{file}: it exists already; name another file")
    with opened_history(run_dir, redis_url) as opened:
        record = opened.store.record(WorldId(world))
        done = export_world(opened.history, WorldId(world), file)
    told = {"id": world, "tick": done.tick, "first_tick": done.first_tick, "file": str(file), "bytes": done.num_bytes}
    notes = []
    if record.parent is not None:
        notes.append(f"what it was before tick {record.fork_tick} is world {record.parent}'s; export that one too")
    print_answer(answer("export", [told], notes), as_json)


def import_(
    file: Annotated[Path, typer.Argument(help="Zip file that `worlds export` wrote.")],
    any_env: Annotated[
        bool, typer.Option("--any-env", help="Take a world whose environment is code of its own, module:factory.")
    ] = False,
    max_mb: Annotated[int, typer.Option("--max-mb", help="Largest file that is read.")] = 4096,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Make a world of an exported one, under a new id, after verifying all of it. It is paused until resumed."""
    from cluster.histories import described, opened_history
    from world.store.lineage import new_world_id
    from world.store.portable import import_world

    with opened_history(run_dir, redis_url) as opened:
        history, made = opened.history, new_world_id()
        with ExitStack() as unless_made:
            unless_made.callback(_delete, opened, made)
            import_world(history.kept, history.archive, file, made, max_bytes=max_mb << 20, any_env=any_env)
            unless_made.pop_all()
        told = described(opened.store.record(made))
    print_answer(answer("import", [told], [f"it is paused; let it go on with: worlds resume {made}"]), as_json)


def _chosen(opened: "Opened", worlds: list[str] | None, all_: bool) -> "list[WorldId]":
    from world.errors import ConfigError
    from world.snapshot import WorldId

    if bool(worlds) == all_:
        raise ConfigError("name worlds, or say --all")
    if worlds:
        return [WorldId(world) for world in worlds]
    found: list[WorldId] = []
    while page := opened.store.history().page(after=found[-1] if found else None, limit=1000):
        found += [world for world, _ in page]
    return found


def _delete(opened: "Opened", world: "WorldId") -> None:
    """Delete a world that was not made to the end; what cannot be deleted now stays listed as such."""
    from world.errors import LivingWorldsError

    with suppress(LivingWorldsError):
        opened.lineage.delete(world)


def _unharmed(record: "WorldRecord") -> str:
    """Return what is told of a world that verifies."""
    from world.store.refusals import REASONS, UNFINISHED

    if record.reason == UNFINISHED:
        return REASONS[UNFINISHED]
    if record.status == "quarantined":
        return f"nothing is wrong with it; let it go on with: worlds repair {record.world} --to {record.tick}"
    return "nothing is wrong with it"


def _unreadable(opened: "Opened", world: "WorldId", error: "CorruptRecord") -> dict[str, Any]:
    """Return what is told of a world that cannot be read, having quarantined one whose record is damaged."""
    from world.errors import NewerSchema, NotRunning
    from world.store.refusals import unreadable

    if not isinstance(error, NewerSchema):
        # One that was deleted for good stays that.
        with suppress(NotRunning):
            opened.store.set_status(world, "quarantined")
    columns = ("tick", "state", "verified", "from", "ticks", "segments", "keyframes", "newest_verified")
    told = {"id": world, **dict.fromkeys(columns), "problems": [str(error)], "missing": []}
    return told | {"state": unreadable(error), "verified": False}


def _told(opened: "Opened", audited: "Audit") -> dict[str, Any]:
    """Return what is told of an audit, having quarantined a world that fails it."""
    record = opened.store.record(audited.world)
    if not audited.verified and record.status in ("running", "paused"):
        opened.store.set_status(audited.world, "quarantined")
        record = opened.store.record(audited.world)
    return {
        "id": audited.world,
        "tick": audited.tick,
        "state": record.status,
        "verified": audited.verified,
        "from": audited.first_tick - 1,
        "ticks": audited.ticks,
        "segments": audited.segments,
        "keyframes": audited.keyframes,
        "problems": list(audited.problems),
        "missing": list(audited.missing),
        "newest_verified": audited.newest_verified,
    }
