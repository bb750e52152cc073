"""Commands that look at the past of worlds."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from cluster.lineage_commands import World
from cluster.output import DEFAULT_RUN_DIR, Json, RedisUrl, RunDir, answer, print_answer, print_json, print_table

if TYPE_CHECKING:
    from cluster.histories import Opened
    from world.event import WorldEvent
    from world.provenance import CellChange
    from world.snapshot import WorldId

From = Annotated[int | None, typer.Option("--from", help="First tick.")]
To = Annotated[int | None, typer.Option("--to", help="Last tick; without it, the newest.")]
_CELLS_SHOWN = 40


def register(app: typer.Typer) -> None:
    """Add these commands."""
    for command in (history, diff, replay):
        app.command()(command)


def history(
    world: World,
    first: From = None,
    last: To = None,
    cell: Annotated[str | None, typer.Option("--cell", help="Y,X of one cell: who changed it, and when.")] = None,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Tell who did what, and which cells changed through whom: the last 20 ticks, or those of a range.

    Causes are inferred from what was logged, and marked where they are; what neither agents nor events explain is
    nature's.
    """
    from cluster.histories import opened_history, tick_range
    from world.provenance import cell_changes, stories
    from world.snapshot import WorldId

    place = None if cell is None else _cell(cell)
    with opened_history(run_dir, redis_url) as opened:
        past = opened.history
        record = past.kept.past(WorldId(world)).record
        every = record.tick
        begin, end = tick_range(past, WorldId(world), first, last, default=20 if place is None else every)
        snapshot = past.state_at(WorldId(world), begin - 1)
        effects = past.effects(WorldId(world), begin, end)
        about = {"id": world, "from": begin, "to": end}
        if place is not None:
            changes = [_change(change) for change in cell_changes(snapshot, effects, *place)]
            found = answer("history", [{**about, "cell": list(place), "changes": changes}], [_INFERRED])
        else:
            ticks = [
                {
                    "tick": story.tick,
                    "is_first": story.is_first,
                    "weights_version": story.weights_version,
                    "agents": [_fields(deed) for deed in story.deeds],
                    "events": _told(story.events, record.env),
                    "changes": [_change(change) for change in story.changes],
                }
                for story in stories(snapshot, effects)
            ]
            found = answer("history", [{**about, "ticks": ticks}], [_INFERRED])
    if as_json:
        print_json(found)
        return
    told = found["worlds"][0]
    print_table(told["changes"] if place is not None else [_line(tick) for tick in told["ticks"]])
    typer.echo(_INFERRED)


def diff(
    one: Annotated[str, typer.Argument(help="A world, or ID@TICK for what it was then.")],
    other: Annotated[str, typer.Argument(help="Another, or the same at another tick.")],
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Compare two worlds: which cells differ, and which agents are elsewhere."""
    from cluster.histories import opened_history
    from world.difference import difference

    with opened_history(run_dir, redis_url) as opened:
        sides = [_side(opened, text) for text in (one, other)]
        states = [opened.history.state_at(world, tick) for world, tick in sides]
    found = difference(*states)
    worlds = [
        {"id": world, "tick": tick, "state_digest": state.digest().hex(), "cells_seen": seen}
        for (world, tick), state, seen in zip(sides, states, found.cells_seen, strict=True)
    ]
    cells = [_fields(cell) for cell in found.cells]
    poses = [{"agent": agent, "one": a and list(a), "other": b and list(b)} for agent, a, b in found.poses]
    if as_json:
        print_json(answer("diff", worlds, same_state=found.same_state, cells=cells, poses=poses))
        return
    print_answer(answer("diff", worlds), as_json=False)
    typer.echo(f"{len(cells)} cells differ, {len(poses)} agents are elsewhere" if cells or poses else "no cell differs")
    for rows in (poses, cells[:_CELLS_SHOWN]):
        if rows:
            print_table(rows)
    if len(cells) > _CELLS_SHOWN:
        typer.echo(f"{len(cells) - _CELLS_SHOWN} more cells; --json tells them all")


def replay(
    world: World,
    gif: Annotated[Path, typer.Option("--gif", help="File to write.")],
    first: From = None,
    last: To = None,
    view: Annotated[str, typer.Option("--view", help="agents: what each sees; map: all that is known.")] = "agents",
    every: Annotated[int, typer.Option("--every", help="Ticks from one picture to the next.")] = 1,
    run_dir: RunDir = DEFAULT_RUN_DIR,
    redis_url: RedisUrl = None,
    as_json: Json = False,
) -> None:
    """Film what happened, as the run's tokenizer draws it: the last 100 ticks, or those of a range."""
    from cluster.histories import opened_history, tick_range
    from cluster.replays import film
    from world.snapshot import WorldId

    with opened_history(run_dir, redis_url) as opened:
        begin, end = tick_range(opened.history, WorldId(world), first, last, default=100)
        frames = film(opened, WorldId(world), begin, end, gif, view=view, every=every)
    told = {"id": world, "from": begin, "to": end, "frames": frames, "gif": str(gif), "bytes": gif.stat().st_size}
    print_answer(answer("replay", [told]), as_json)


_INFERRED = "causes marked as inferred are concluded from poses and actions; the log does not say them"


def _line(tick: dict[str, Any]) -> dict[str, Any]:
    deeds, changes = tick["agents"], [change for change in tick["changes"] if change["layer"] == "map"]
    causes = [change["cause"] + "".join(f" {agent}" for agent in change["agents"]) for change in changes]
    counted = {cause: causes.count(cause) for cause in dict.fromkeys(causes)}
    return {
        "tick": f"{tick['tick']}{' (reset)' if tick['is_first'] else ''}",
        "actions": [deed["action"] for deed in deeds],
        "rewards": [round(deed["reward"], 3) for deed in deeds],
        "at": " ".join("–" if deed["pose"] is None else "{},{}".format(*deed["pose"]) for deed in deeds),
        "events": ", ".join(event["text"] or f"kind {event['kind']}" for event in tick["events"]) or "–",
        "cells of the map": ", ".join(f"{num}× {cause}" for cause, num in counted.items()) or "–",
    }


def _told(events: "tuple[WorldEvent, ...]", env_name: str) -> list[dict[str, Any]]:
    """Return events as rows and, where their environment is known here, as text."""
    from cluster.prompting import phrases_of
    from world.errors import EnvironmentUnusable
    from world.event import event_text

    if not events:
        return []
    try:
        phrases = phrases_of(env_name)
    except EnvironmentUnusable:
        phrases = ()
    texts = [event_text(event, phrases) if event.kind <= len(phrases) else None for event in events]
    return [{**event._asdict(), "text": text} for event, text in zip(events, texts, strict=True)]


def _fields(record: Any) -> dict[str, Any]:
    from dataclasses import asdict

    return {name: list(value) if isinstance(value, tuple) else value for name, value in asdict(record).items()}


def _change(change: "CellChange") -> dict[str, Any]:
    return _fields(change)


def _cell(text: str) -> tuple[int, int]:
    from world.errors import ConfigError

    try:
        y, x = map(int, text.split(","))
    except ValueError:
        raise ConfigError(f"--cell should be Y,X as in 12,-3, got {text!r}") from None
    return y, x


def _side(opened: "Opened", text: str) -> "tuple[WorldId, int]":
    from world.errors import ConfigError
    from world.snapshot import WorldId

    world, at, tick = text.partition("@")
    if not at:
        return WorldId(world), opened.store.record(WorldId(world)).tick
    if not tick.isdecimal():
        raise ConfigError(f"a world should be given as ID or ID@TICK, got {text!r}")
    return WorldId(world), int(tick)
