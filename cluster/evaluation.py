"""`worlds eval`: brings a model back, runs protocols on held-out worlds, prints and writes what they found."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.evaluation_pictures import save_curves, save_film
from cluster.output import print_json
from learner.restored import Restored, restore
from world.errors import ConfigError, EnvironmentUnusable, StoreError
from world.evaluation.metrics import BASELINES, MetricRow
from world.evaluation.plays.revival import Reviver
from world.evaluation.plays.stage import Batched, Stage
from world.evaluation.protocols import PROTOCOLS, Evaluation, EvaluationConfig, Report
from world.model.precision import check_device
from world.tick import Ticker
from world.warmup import spec_of

_LINE_EVERY_S = 10.0
_LEAST_WIDTH = 112


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationRequest:
    """What was asked for on the command line."""

    source: Path
    protocol: str
    world: str | None
    seeds: str | None
    ticks: str | None
    tokenizer: Path | None
    quick: bool
    out: Path | None


def judge(request: EvaluationRequest, *, as_json: bool) -> bool:
    """Run what is asked for, and print and write each report as soon as there is one; return whether interrupted.

    Raises `ConfigError`, `CheckpointError` and `EnvironmentUnusable`. Of all protocols, those that are not defined
    for the environment are passed over, which is said. Raises the first `StoreError` of a protocol after all that was
    found, of the others too, is printed and written.
    """
    config = config_of(request)
    if request.out is not None:
        _make_folder(request.out)
    restored = restore(request.source, request.tokenizer)
    screen, judged = _screen(as_json), _Judged()
    with _progress() as told:
        evaluation = _prepared(request, restored, config, told)
        for name in PROTOCOLS if request.protocol == "all" else (request.protocol,):
            _judge_by(name, evaluation, request, restored, screen, judged)
            if judged.interrupted:
                screen.print("interrupted: this is how far it came")
                break
    if as_json:
        print_json(judged.results if request.protocol == "all" or not judged.results else judged.results[0])
    for name, error in judged.failures.items():
        screen.print(f"{name}: failed, for {error}", soft_wrap=True)
    if judged.failures:
        raise next(iter(judged.failures.values()))
    return judged.interrupted


@dataclass(slots=True)
class _Judged:
    """What came of the protocols so far."""

    results: list[dict[str, Any]] = field(default_factory=list)
    failures: dict[str, StoreError] = field(default_factory=dict)
    """By protocol."""
    interrupted: bool = False


def _judge_by(
    name: str, evaluation: Evaluation, request: EvaluationRequest, restored: Restored, screen: Console, judged: _Judged
) -> None:
    """Run one protocol, print and write its report, and note what came of it."""
    began = time.monotonic()
    try:
        report = evaluation.run(name)
    except EnvironmentUnusable as error:
        if request.protocol != "all":
            raise
        screen.print(f"{name}: left out, for {error}", soft_wrap=True)
        return
    except StoreError as error:
        judged.failures[name] = error
        return
    except KeyboardInterrupt:
        # While it was scored: nothing is known of this one.
        judged.interrupted = True
        return
    found = {**as_result(report, restored), "elapsed_s": round(time.monotonic() - began, 1)}
    judged.results.append(found)
    print_report(report, screen)
    if request.out is not None:
        _write(request.out, report, found, restored)
    if report.failure is not None:
        judged.failures[name] = report.failure
    judged.interrupted = report.interrupted


def config_of(request: EvaluationRequest) -> EvaluationConfig:
    """Return how much is to be played. Raises `ConfigError` for numbers that cannot be read, and unknown protocols."""
    if request.protocol not in (*PROTOCOLS, "all"):
        raise ConfigError(f"there is no protocol {request.protocol!r}; there are {', '.join(PROTOCOLS)} and all")
    config = EvaluationConfig.quick() if request.quick else EvaluationConfig()
    if request.seeds is not None:
        several = "," in request.seeds or "-" in request.seeds
        named = numbers(request.seeds if several else f"0-{_count(request.seeds) - 1}")
        config = replace(config, seeds=tuple(dict.fromkeys(named)))
    if request.ticks is not None:
        ticks = tuple(sorted(set(numbers(request.ticks))))
        config = replace(config, ticks=ticks, visit_ticks=tuple(t for t in ticks if t >= 8) or config.visit_ticks)
    return config


def numbers(text: str) -> list[int]:
    """Return the whole numbers of a list such as `0,3,5-9`. Raises `ConfigError`."""
    found: list[int] = []
    try:
        for part in text.split(","):
            first, dash, last = part.partition("-")
            found += range(int(first), int(last if dash else first) + 1)
    except ValueError:
        found = []
    if not found:
        raise ConfigError(f"expected whole numbers as 0,3,5-9, got {text!r}")
    return found


def as_result(report: Report, restored: Restored) -> dict[str, Any]:
    """Return a report as plain values: what `--json` prints."""
    return {
        "protocol": report.protocol,
        "metrics": {name: _numbers_of(row) for name, row in report.scores.metrics.items()},
        "seeds": list(report.seeds),
        "checkpoint": {
            "path": str(restored.path),
            "step": restored.step,
            "weights_version": restored.version,
            "tokenizer": restored.tokenizer.digest,
        },
        "episodes": report.episodes,
        "interrupted": report.interrupted,
        "notes": report.scores.notes(),
    }


def print_report(report: Report, screen: Console) -> None:
    """Print a table of all metrics with intervals and the four baselines, and why some are not there."""
    table = Table(title=f"{report.protocol}: {report.episodes} episodes of {len(report.seeds)} held-out worlds")
    table.add_column("metric", no_wrap=True)
    for name in ("ours", "95% interval", *(name.replace("_", " ") for name in BASELINES)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in report.scores.metrics.items():
        interval = f"{_shown(row.low)} … {_shown(row.high)}"
        table.add_row(name, _shown(row.value), interval, *(_shown(getattr(row, baseline)) for baseline in BASELINES))
    screen.print(table)
    for name, reason in report.scores.notes().items():
        screen.print(f"  {name}: {reason}", soft_wrap=True)
    for name in report.scores.unexplained():
        screen.print(f"  {name}: not measured", soft_wrap=True)


def _prepared(request: EvaluationRequest, restored: Restored, config: EvaluationConfig, told: "Told") -> Evaluation:
    env_name = request.world or restored.env_name
    if env_name is None:
        raise ConfigError(f"{request.source}: no run says which world this model is of; name it with --world")
    spec = spec_of(env_name, None if request.world else restored.num_agents)
    layout = restored.tokenizer.layout
    if spec.layout != layout:
        raise ConfigError(f"{env_name}: is seen as {spec.layout}, the checkpoint's tokenizer reads {layout}")
    check_device(restored.tick.dream.device)
    # Truth and dreams are told the same events, or none.
    tick = replace(restored.tick, event_rate=0.0)
    ticker = Ticker(spec, restored.tokenizer, tick, restored.model_config)
    ticker.load_weights(restored.weights, restored.version)
    stage = Stage(
        env_name=env_name,
        num_agents=len(spec.agents),
        tokenizer=restored.tokenizer,
        ticker=Batched(ticker),
        margin=restored.tick.margin if spec.layout.map_rows else 0,
        memory_size=restored.model_config.memory_size,
        dreaming=tick.dream,
    )
    reviver = Reviver(
        env_name=env_name,
        num_agents=len(spec.agents),
        model_config=restored.model_config,
        weights=restored.weights,
        weights_version=restored.version,
        tokenizer=restored.tokenizer,
        tick=tick,
    )
    return Evaluation(stage, ticker.model, config, reviver=reviver, progress=told)


def _screen(as_json: bool) -> Console:
    screen = Console(stderr=as_json, highlight=False)
    # A table that is folded to fewer columns cannot be read by anybody.
    return Console(stderr=as_json, highlight=False, width=max(screen.width, _LEAST_WIDTH))


class Told:
    """Shows on stderr what is being played, and which share of it is done."""

    def __init__(self, console: Console, bar: Progress | None) -> None:
        self._console, self._bar = console, bar
        self._task = bar.add_task("", total=1.0) if bar else None
        self._what, self._at = "", float("-inf")

    def __call__(self, what: str, done: float) -> None:
        """Show it, not too often where there is no terminal."""
        if self._bar is not None and self._task is not None:
            self._bar.update(self._task, description=what, completed=done)
        elif what != self._what or time.monotonic() - self._at >= _LINE_EVERY_S:
            self._what, self._at = what, time.monotonic()
            self._console.print(f"{what}: {done:.0%}")


@contextmanager
def _progress() -> Iterator[Told]:
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Told(console, None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as bar:
        yield Told(console, bar)


def _make_folder(out: Path) -> None:
    """Make the folder before anything is played for it."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"--out {out}: cannot be made ({error.strerror}); name a folder") from error


def _write(out: Path, report: Report, found: dict[str, Any], restored: Restored) -> None:
    (out / f"{report.protocol}.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", "utf-8")
    save_curves(report, out / f"{report.protocol}.png")
    for film in report.films:
        save_film(film, restored.tokenizer, out / f"{film.name}.gif")
    print(f"written to {out}", file=sys.stderr)


def _numbers_of(row: MetricRow) -> dict[str, float | None]:
    beside = {name: getattr(row, name) for name in BASELINES}
    return {
        name: None if value is None else float(value)
        for name, value in {"value": row.value, "low": row.low, "high": row.high, **beside}.items()
    }


def _count(text: str) -> int:
    (count,) = numbers(text)
    if count < 1:
        raise ConfigError(f"expected one held-out world at least, got {text!r}")
    return count


def _shown(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}" if abs(value) < 100 else f"{value:.1f}"
