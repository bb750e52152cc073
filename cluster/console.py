"""Shows a run as it goes: a live table on a terminal, a plain line now and then elsewhere."""

import time
from collections.abc import Callable, Iterable
from typing import TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from cluster.status import RunStatus
from world.evaluation.metrics import MetricRow

F1 = "changed_f1_known"
"""The metric that is shown first: edits foretold, on cells that had been seen before."""
_LINE_EVERY_S = 10.0
_EVENTS_SHOWN = 5


class RunConsole:
    """What a person sees while a run goes on. Use as a context manager."""

    def __init__(
        self, stream: TextIO, *, minutes: float, samples_per_insert: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._console = Console(file=stream, highlight=False)
        self._minutes, self._wanted_spi, self._clock = minutes, samples_per_insert, clock
        self._live = Live(console=self._console, auto_refresh=False) if self._console.is_terminal else None
        self._shown_at = float("-inf")
        self._num_events = 0
        self._progress_of = ""

    def __enter__(self) -> "RunConsole":
        if self._live:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live:
            self._live.stop()

    def say(self, text: str) -> None:
        """Say one thing, above the table if there is one."""
        self._console.print(Text(text), soft_wrap=True)

    def progress(self, what: str, done: float) -> None:
        """Say which share of something is done, not too often."""
        text, now = f"{what}: {done:.0%}", self._clock()
        if self._live:
            self._live.update(Text(text), refresh=True)
        elif what != self._progress_of or now - self._shown_at >= _LINE_EVERY_S:
            self._progress_of, self._shown_at = what, now
            self.say(text)

    def show(self, status: RunStatus, events: Iterable[tuple[int, str]]) -> None:
        """Show the present moment, and of the newest events, numbered, those that were not shown yet."""
        events = list(events)
        now = self._clock()
        if self._live:
            newest = [text for _, text in events[-_EVENTS_SHOWN:]]
            self._live.update(self._panel(status, newest), refresh=True)
            return
        for number, text in events:
            if number >= self._num_events:
                self.say(text)
                self._num_events = number + 1
        if now - self._shown_at >= _LINE_EVERY_S:
            self._shown_at = now
            self.say(one_line(status))

    def _panel(self, status: RunStatus, events: list[str]) -> RenderableType:
        table = Table.grid(padding=(0, 2))
        for _ in range(4):
            table.add_column(no_wrap=True)
        for left, right in zip(*_halves(_rows(status, self._wanted_spi)), strict=True):
            table.add_row(Text(left[0], "dim"), left[1], Text(right[0], "dim"), right[1])
        title = f"living worlds · {_clock_text(status.elapsed_s)} of {_clock_text(60 * self._minutes)}"
        return Panel(Group(table, *(Text(f"· {text}", "dim", overflow="ellipsis") for text in events)), title=title)


def one_line(status: RunStatus) -> str:
    """Return a run's moment as one line of plain text."""
    f1 = status.metrics.get(F1)
    return (
        f"{_clock_text(status.elapsed_s)}  worlds {status.grounded_worlds}+{status.dreamed_worlds} dreamed,"
        f" {status.agents} agents, {status.agent_ticks_per_s:,.0f} agent-ticks/s"
        f" | commit p50 {_ms(status.commit_p50_s)} p99 {_ms(status.commit_p99_s)}"
        f" | replay {status.replay_fill:.0%}, {status.samples_per_insert:.3f} samples per insert"
        f" | step {status.learner_step}, loss {_number(status.loss)}, changed-token F1 {_score(f1)}"
        f" | weights v{status.weights[1]}, lag {status.policy_lag}, restarts {status.restarts}"
    )


def summary_table(status: RunStatus, wanted_spi: float) -> Table:
    """Return what a run came to."""
    table = Table(title="What this run came to", title_justify="left", show_header=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in _rows(status, wanted_spi):
        if name:
            table.add_row(name, value)
    for name, row in status.metrics.items():
        if name != F1:
            table.add_row(f"held-out {name}", _score(row))
    for name, row in status.metrics.items():
        table.add_row(f"beside {name}", _beside(row))
    return table


def _rows(status: RunStatus, wanted_spi: float) -> list[tuple[str, str]]:
    return [
        ("worlds", f"{status.grounded_worlds} grounded, {status.dreamed_worlds} dreamed"),
        ("agents", f"{status.agents}"),
        ("agent-ticks", f"{status.agent_ticks:,} ({status.dreamed_agent_ticks:,} dreamed)"),
        ("agent-ticks/s", f"{status.agent_ticks_per_s:,.0f}"),
        ("commits", f"{status.commits:,} groups, every one acknowledged before anyone saw it"),
        ("commit p50 / p99", f"{_ms(status.commit_p50_s)} / {_ms(status.commit_p99_s)}"),
        ("replay", f"{status.replay_fill:.0%} full, {status.replay_items:,} items"),
        ("samples per insert", f"{status.samples_per_insert:.3f} (asked for {wanted_spi:g})"),
        ("learner step", f"{status.learner_step:,} ({status.steps_per_s:.1f}/s)"),
        ("loss", _number(status.loss)),
        ("changed-token F1", _score(status.metrics.get(F1))),
        ("weights", f"version {status.weights[1]}, epoch {status.weights[0]}, lag {status.policy_lag}"),
        ("restarts", f"{status.restarts}"),
        ("store away", f"{status.store_away_s:.1f} s"),
    ]


def _halves(rows: list[tuple[str, str]]) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    half = (len(rows) + 1) // 2
    return rows[:half], rows[half:] + [("", "")] * (2 * half - len(rows))


def _score(row: MetricRow | None) -> str:
    if row is None:
        return "not judged yet"
    beside = "" if row.copy_last is None else f"; copy-last {row.copy_last:.3f}"
    return f"{row.value:.3f} [{row.low:.3f}, {row.high:.3f}]{beside}"


def _beside(row: MetricRow) -> str:
    """Return the baselines; a dash where one is not defined."""
    rows = (
        ("copy-last", row.copy_last),
        ("no memory", row.no_memory),
        ("oracle memory", row.oracle),
        ("ceiling", row.ceiling),
    )
    return ", ".join(f"{name} {_number(value)}" for name, value in rows)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _ms(seconds: float) -> str:
    return f"{1000 * seconds:.1f} ms"


def _clock_text(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"
