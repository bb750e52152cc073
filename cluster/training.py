"""`worlds train`: makes a plan of a preset, trains in this process, and shows how far it is."""

import math
import shlex
import sys
import time
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from cluster.config import RunConfig
from cluster.interruption import Interruption
from cluster.output import print_json
from cluster.presets import of_env, preset
from cluster.run_folder import RunFolder, continued
from learner.checkpoint import has_checkpoint, newest_checkpoint
from learner.restored import CHECKPOINTS
from learner.start import NOTHING, fitting
from learner.train import START, TrainingPlan, train, within_budget
from learner.training import Budget, TrainingStatus
from world.errors import ConfigError
from world.evaluation.metrics import BASELINES
from world.warmup import spec_of

_DEFAULT_PRESET = "homestead-tiny"
_DEFAULT_MINUTES = 10.0
_LINE_EVERY_S = 10.0
_LEAST_WIDTH = 100


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingRequest:
    """What a person asked for; None: not said."""

    out: Path
    preset: str | None
    minutes: float | None
    steps: int | None
    data: Path | None
    env: str | None
    seed: int | None
    start_from: str | None
    device: str


def train_recorded(request: TrainingRequest, *, as_json: bool) -> bool:
    """Train, print what it came to, and return whether it was interrupted.

    Raises the `LivingWorldsError` that kept it from beginning or ended it.
    """
    budget = _budget(request)
    with Interruption() as interruption, closing(RunFolder.open(request.out)) as folder:
        stored = folder.stored()
        config = _continued(stored[1], request) if stored else _new(request)
        folder.check_space()
        if stored is None:
            if config.start_from != NOTHING:
                # Before the folder is told of it.
                fitting(config.start_from, config.model, spec_of(config.env, config.num_agents))
            folder.begin(config)
        with _Shown() as shown:

            def tell(status: TrainingStatus) -> None:
                # From now on a signal is noted, and the training ends in order.
                interruption.patient = True
                shown("training", status.done, one_line(status))

            status = train(
                plan_of(config, budget, request),
                command=shlex.join(["worlds", *sys.argv[1:]]),
                stop=lambda: interruption.requested,
                progress=shown,
                tell=tell,
            )
    _print(status, folder.path, as_json=as_json)
    if as_json:
        print_json(_as_json(status, folder.path))
    return status.done < 1.0


def plan_of(config: RunConfig, budget: Budget, request: TrainingRequest) -> TrainingPlan:
    """Return the plan of a run's configuration."""
    # Older folders name a start, and began with nothing.
    begins = (request.out / START).exists() or not has_checkpoint(request.out / CHECKPOINTS)
    start = config.start_from if begins else NOTHING
    return TrainingPlan(
        env=config.env,
        num_agents=config.num_agents,
        seed=config.seed,
        budget=budget,
        out=request.out,
        start=start,
        data=request.data,
        device=request.device,
        model=config.model,
        learner=within_budget(config.learner, again=start != NOTHING),
        tick=config.tick,
        warmup=config.warmup,
        recording=config.recording,
        training=config.training,
    )


class _Shown:
    """Shows on stderr what is being done and which share of it: a bar on a terminal, a line now and then elsewhere."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False)
        columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:.0f}%"))
        self._bar = Progress(*columns, TimeElapsedColumn(), console=self._console, transient=True)
        self._task = self._bar.add_task("", total=1.0)
        self._what, self._at = "", float("-inf")

    def __enter__(self) -> "_Shown":
        if self._console.is_terminal:
            self._bar.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._console.is_terminal:
            self._bar.stop()

    def __call__(self, what: str, done: float, how: str = "") -> None:
        if self._console.is_terminal:
            self._bar.update(self._task, description=how or what, completed=done)
        elif what != self._what or time.monotonic() - self._at >= _LINE_EVERY_S:
            self._what, self._at = what, time.monotonic()
            self._console.print(", ".join(filter(None, (f"{what}: {done:.0%}", how))), soft_wrap=True)


def one_line(status: TrainingStatus) -> str:
    """Return a training's moment as plain text."""
    scores = ""
    if status.evaluation is not None:
        metrics = status.evaluation.metrics
        scores = (
            f", held out: F1 {metrics['changed_f1_known'].value:.3f}, displacement"
            f" {metrics['displacement'].value:.3f}, {metrics['nll_bits'].value:.2f} bits"
        )
    left_out = f", {status.nonfinite} steps left out" if status.nonfinite else ""
    loss = "–" if math.isnan(status.loss) else f"{status.loss:.3f}"
    return f"step {status.step:,}, loss {loss}, {status.windows_per_s:,.0f} windows/s{left_out}{scores}"


def _budget(request: TrainingRequest) -> Budget:
    if request.minutes is not None and request.steps is not None:
        raise ConfigError("--minutes and --steps are two budgets; give one")
    if request.steps is not None:
        return Budget(steps=request.steps)
    minutes = _DEFAULT_MINUTES if request.minutes is None else request.minutes
    return Budget(seconds=60 * minutes)


def _new(request: TrainingRequest) -> RunConfig:
    config = preset(request.preset or _DEFAULT_PRESET)
    if request.env is not None:
        config = of_env(config, request.env)
    config = replace(config, start_from=request.start_from or NOTHING)
    return config if request.seed is None else replace(config, seed=request.seed)


def _continued(stored: RunConfig, request: TrainingRequest) -> RunConfig:
    given = {name: getattr(request, name) for name in ("preset", "env", "seed", "start_from")}
    return continued(stored, **given)


def _print(status: TrainingStatus, out: Path, *, as_json: bool) -> None:
    assert status.evaluation is not None
    screen = Console(stderr=as_json, highlight=False)
    # A table that is folded to fewer columns cannot be read by anybody.
    screen = Console(stderr=as_json, highlight=False, width=max(screen.width, _LEAST_WIDTH))
    minutes = f"{status.elapsed_s / 60:.1f} minutes"
    table = Table(title=f"held-out worlds after {status.step:,} steps, {minutes}, {status.done:.0%} of the budget")
    table.add_column("metric", no_wrap=True)
    for name in ("ours", "95% interval", *(name.replace("_", " ") for name in BASELINES)):
        table.add_column(name, justify="right", no_wrap=True)
    for name, row in status.evaluation.metrics.items():
        beside = (getattr(row, baseline) for baseline in BASELINES)
        shown = ("–" if value is None else f"{value:.3f}" for value in beside)
        table.add_row(name, f"{row.value:.3f}", f"{row.low:.3f} … {row.high:.3f}", *shown)
    screen.print(table)
    screen.print(f"checkpoint: {newest_checkpoint(out / CHECKPOINTS)}", soft_wrap=True)


def _as_json(status: TrainingStatus, out: Path) -> dict[str, Any]:
    assert status.evaluation is not None
    return {
        "command": "train",
        "run_dir": str(out),
        "step": status.step,
        "trained_s": round(status.elapsed_s, 1),
        "done": status.done,
        "nonfinite": status.nonfinite,
        "metrics": {name: asdict(row) for name, row in status.evaluation.metrics.items()},
        "checkpoint": str(newest_checkpoint(out / CHECKPOINTS)),
    }
