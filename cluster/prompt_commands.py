"""Commands that let events befall living worlds."""

from typing import Annotated

import typer

from cluster.lineage_commands import World
from cluster.output import DEFAULT_RUN_DIR, Json, RedisUrl, RunDir, answer, print_answer


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (prompt, events):
        app.command()(command)


def prompt(
    world: World,
    event: Annotated[str, typer.Argument(help='What befalls it, as "rain of saplings at (12, 9)", row and column.')],
    agent: Annotated[
        int | None, typer.Option("--agent", help='Whose place "here" is, as in "a wall rises here".')
    ] = None,
    within: Annotated[float, typer.Option("--within", help="Seconds to wait for it.")] = 30.0,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Let an event befall a world that a run hosts, grounded or dreamed, and say what changed."""
    from cluster.listing import opened_store
    from cluster.prompting import prompt_world
    from world.snapshot import WorldId

    with opened_store(run_dir, redis_url) as store:
        told = prompt_world(store, WorldId(world), event, agent=agent, within_s=within)
    if as_json:
        print_answer(answer("prompt", [told]), as_json=True)
        return
    changed = len(told["changes"])
    typer.echo(
        f"tick {told['tick']} of {world}: {told['event']}; somebody saw {changed} cells change there"
        if changed
        else f"tick {told['tick']} of {world}: {told['event']}; nobody saw anything change there"
    )


def events(world: World, run_dir: RunDir = DEFAULT_RUN_DIR, redis_url: RedisUrl = None, as_json: Json = False) -> None:
    """List the events that can befall a world, as `worlds prompt` takes them."""
    from cluster.listing import opened_store
    from cluster.prompting import phrases_of
    from world.snapshot import WorldId

    with opened_store(run_dir, redis_url) as store:
        record = store.record(WorldId(world))
    found = [f"{phrase} at (y, x)" for phrase in phrases_of(record.env)]
    told = {"id": world, "kind": record.kind, "env": record.env, "events": found}
    if as_json:
        print_answer(answer("events", [told]), as_json=True)
        return
    for text in found or [f"nothing befalls {record.env} from outside"]:
        typer.echo(text)
