"""Commands that make worlds of worlds, stop and start them, and delete them."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.output import DEFAULT_RUN_DIR, Json, RedisUrl, RunDir, answer, print_answer

if TYPE_CHECKING:
    from cluster.histories import Opened
    from world.snapshot import WorldId
    from world.store.records import Status

World = Annotated[str, typer.Argument(help="Id of a world, as `worlds list` prints it.")]
Worlds = Annotated[list[str], typer.Argument(help="Ids of worlds, as `worlds list` prints them.")]
MAX_FORKS = 10_000


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (fork, rewind, pause, resume, delete):
        app.command()(command)


def fork(
    world: World,
    at: Annotated[int | None, typer.Option("--at", help="Tick to fork it at; without it, its last.")] = None,
    dream: Annotated[bool, typer.Option("--dream", help="Let the world model go on with it.")] = False,
    count: Annotated[int, typer.Option("--count", help="How many; each has randomness of its own.")] = 1,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Make new worlds that begin as a world was at a tick, and go their own ways."""
    from cluster.histories import described, opened_history
    from world.errors import ConfigError
    from world.snapshot import WorldId
    from world.store.lineage import new_world_id

    if not 1 <= count <= MAX_FORKS:
        raise ConfigError(f"--count must be in 1 … {MAX_FORKS}, got {count}")
    with opened_history(run_dir, redis_url) as opened:
        tick = opened.store.record(WorldId(world)).tick if at is None else at
        made = [opened.lineage.fork(WorldId(world), tick, new_world_id(), dream=dream) for _ in range(count)]
    notes = sorted(set(opened.lineage.notes))
    print_answer(answer("fork", [described(record) for record in made], notes), as_json)


def rewind(
    world: World,
    to: Annotated[int, typer.Option("--to", help="Tick to go back to.")],
    in_place: Annotated[
        bool, typer.Option("--in-place", help="Take the world itself back; what it did since is kept as a fork.")
    ] = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Go back to a tick: in a new world that is exactly what this one was, or, when asked, in this world itself."""
    from cluster.histories import described, opened_history
    from world.snapshot import WorldId
    from world.store.lineage import new_world_id

    with opened_history(run_dir, redis_url) as opened:
        store, lineage = opened.store, opened.lineage
        if not in_place:
            made = lineage.rewound(WorldId(world), to, new_world_id())
            print_answer(answer("rewind", [described(made)], lineage.notes), as_json)
            return
        done = lineage.rewind_in_place(WorldId(world), to)
        worlds = [described(store.record(done.world))]
        notes = list(lineage.notes)
        if done.kept_as is not None:
            worlds.append(described(store.record(done.kept_as)))
            notes.append(f"what it did after tick {to} is kept as world {done.kept_as}, which is paused")
    print_answer(answer("rewind", worlds, notes), as_json)


def pause(worlds: Worlds, run_dir: RunDir = DEFAULT_RUN_DIR, redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """Stop worlds; their hosts let go of them, and nothing that was acknowledged is lost."""
    _set_status("pause", worlds, "running", "paused", run_dir, redis_url, as_json)


def resume(
    worlds: Worlds, run_dir: RunDir = DEFAULT_RUN_DIR, redis_url: RedisUrl = None, as_json: Json = False
) -> None:
    """Let paused worlds go on, where and as soon as a run hosts them."""
    _set_status("resume", worlds, "paused", "running", run_dir, redis_url, as_json)


def delete(
    worlds: Worlds,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Delete worlds for good: their state, their history and their archive."""
    from cluster.histories import opened_history
    from world.errors import ConfigError
    from world.snapshot import WorldId

    with opened_history(run_dir, redis_url) as opened:
        known = [_known(opened, WorldId(world)) for world in worlds]
        if not yes:
            for told in known:
                typer.echo(f"{told['id']}: {told['name']}, {told['kind']}, {told['tick']} ticks", err=True)
            if as_json or not typer.confirm("Delete for good?", err=True):
                raise ConfigError("nothing was deleted; say --yes to delete without being asked")
        for world in worlds:
            opened.lineage.delete(WorldId(world))
    print_answer(answer("delete", [told | {"state": "deleted"} for told in known]), as_json)


def _known(opened: "Opened", world: "WorldId") -> dict[str, Any]:
    """Return what is known of a world, can its record be read or not."""
    from cluster.histories import described, described_damaged
    from world.errors import CorruptRecord
    from world.store.refusals import unreadable

    try:
        return described(opened.store.record(world))
    except CorruptRecord as error:
        return described_damaged(world, unreadable(error))


def _set_status(
    command: str,
    worlds: list[str],
    before: "Status",
    after: "Status",
    run_dir: Any,
    redis_url: str | None,
    as_json: bool,
) -> None:
    from cluster.histories import described, opened_history
    from world.errors import NotRunning
    from world.snapshot import WorldId

    remedies = {"quarantined": "see what `worlds repair` offers", "deleted": "it cannot be brought back"}
    with opened_history(run_dir, redis_url) as opened:
        store = opened.store
        for world in worlds:
            record = store.record(WorldId(world))
            if record.status not in (before, after):
                raise NotRunning(f"world {world!r}: it is {record.status}; {remedies[record.status]}")
        for world in worlds:
            # A world that paused itself at its cap is paused by a person too, and then does not go on by itself.
            if store.record(WorldId(world)).status != after or after == "paused":
                store.set_status(WorldId(world), after)
        done = [described(store.record(WorldId(world))) for world in worlds]
    print_answer(answer(command, done), as_json)
