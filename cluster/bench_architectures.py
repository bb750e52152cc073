"""`worlds bench architectures`: our model beside others, trained on the same data for the same processor seconds."""

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from learner.peers.comparison import ComparisonConfig, compare

_HEADLINE = "f1@in_view"
_LEAST_WIDTH = 120


def bench_architectures(data: Path, seconds: float | None) -> dict[str, Any]:
    """Return the measurement; what people read goes to stderr. Raises `ConfigError` where nothing is recorded."""
    screen = Console(stderr=True, highlight=False)
    screen = Console(stderr=True, highlight=False, width=max(screen.width, _LEAST_WIDTH))
    config = ComparisonConfig() if seconds is None else ComparisonConfig(seconds=seconds)
    details = compare(data, config, lambda what: screen.print(what))
    scores = details["scores"]
    screen.print(_table(scores))
    ours = scores["ours"][_HEADLINE]["value"]
    best = max(of[_HEADLINE]["value"] for name, of in scores.items() if name != "ours")
    return {
        "bench": "architectures",
        "value": ours,
        "unit": "changed-token F1 of the next view",
        "baseline": best,
        "ratio": ours / best if best else None,
        "details": details,
    }


def _table(scores: dict[str, dict[str, dict[str, float | None]]]) -> Table:
    table = Table(title="held-out worlds, 95% intervals over worlds")
    table.add_column("score", no_wrap=True)
    for name in scores:
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for metric in scores["ours"]:
        table.add_row(metric, *(_shown(of[metric]) for of in scores.values()))
    return table


def _shown(score: dict[str, float | None]) -> str:
    if score["low"] is None:
        return f"{score['value']:.3f}"
    return f"{score['value']:.3f} {score['low']:.3f} … {score['high']:.3f}"
