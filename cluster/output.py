"""What all commands have in common: their options, and how they print."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

DEFAULT_RUN_DIR = Path("runs/demo")

RunDir = Annotated[Path, typer.Option("--run-dir", help="Folder of the run; one that exists is continued.")]
RedisUrl = Annotated[
    str | None, typer.Option("--redis-url", help="Redis or Valkey to use; without it, an embedded server.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON on stdout; everything for people goes to stderr.")]


_WHOLE = ("id", "parent", "kind", "tick", "agents", "state", "host", "weights_version")


def answer(command: str, worlds: list[dict[str, Any]], notes: list[str] | None = None, **more: Any) -> dict[str, Any]:
    """Return what a command on worlds answers: the same shape for all of them, and what is its own after that."""
    return {"command": command, "worlds": worlds, "notes": notes or [], **more}


def print_answer(found: dict[str, Any], as_json: bool, *, leave_out: tuple[str, ...] = ()) -> None:
    """Print an answer as JSON, or its worlds as a table, without the columns that are too many, and the notes below."""
    if as_json:
        print_json(found)
        return
    print_table([{name: part for name, part in world.items() if name not in leave_out} for world in found["worlds"]])
    for note in found["notes"]:
        typer.echo(note)


def tell_progress(text: str) -> None:
    """Show a person at a terminal how far a command is, in a line of its own; an empty text takes it away."""
    if sys.stderr.isatty():
        sys.stderr.write(f"\r\033[K{text}")
        sys.stderr.flush()


def print_json(value: Any) -> None:
    """Print JSON on stdout."""
    json.dump(value, sys.stdout, indent=2, allow_nan=False)
    sys.stdout.write("\n")


def print_table(rows: list[dict[str, Any]]) -> None:
    """Print rows that have the same columns; one column without a name has no head."""
    from rich.console import Console
    from rich.table import Table

    # Without lines a list of worlds fits a terminal of 80 columns; an id that is cut or folded cannot be used.
    table = Table(box=None, pad_edge=False, show_header=bool(rows) and "" not in rows[0], header_style="bold")
    for name in rows[0] if rows else ():
        table.add_column("weights" if name == "weights_version" else name, no_wrap=name in _WHOLE, overflow="fold")
    for row in rows:
        table.add_row(*(plain(value) for value in row.values()))
    Console().print(table)


def plain(value: object) -> str:
    """Return a value as a person reads it."""
    if isinstance(value, dict):
        return ", ".join(f"{name} {plain(part)}" for name, part in value.items())
    if isinstance(value, list):
        return ", ".join(map(plain, value)) or "–"
    return "–" if value is None else str(value)
