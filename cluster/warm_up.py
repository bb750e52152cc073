"""Warm-up as a Ray task that tells how far it is."""

import queue
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import ray

from actors.clients import told
from actors.settings import from_text, to_text
from cluster.config import RunConfig
from world.tick import TickConfig
from world.warmup import HELD_OUT_FILE, TOKENIZER_FILE, WarmupConfig, prepare

_TELL_EVERY_S = 0.5


def warm_up(config: RunConfig, directory: Path, progress: Callable[[str, float], None]) -> None:
    """Make tokenizer and held-out worlds where they are not there yet. Raises what `prepare` raises."""
    if (directory / TOKENIZER_FILE).exists() and (directory / HELD_OUT_FILE).exists():
        return
    task = ray.remote(num_cpus=1, max_retries=0)(_prepared).options(num_returns="streaming")
    steps = task.remote(
        config.env,
        config.num_agents,
        to_text(config.warmup),
        to_text(config.tick),
        config.model.memory_size,
        str(directory),
    )
    for step in steps:  # type: ignore[attr-defined]  # Ray types a streaming task as if it gave one reference.
        progress(*told(step))


def _prepared(
    env: str, num_agents: int | None, settings: str, tick: str, memory_size: int, directory: str
) -> Iterator[tuple[str, float]]:
    """Prepare in a thread, and yield how far it is."""
    steps: queue.Queue[tuple[str, float] | None] = queue.Queue()
    failures: list[BaseException] = []

    def work() -> None:
        try:
            prepare(
                env,
                from_text(settings, WarmupConfig),
                Path(directory),
                num_agents=num_agents,
                memory_size=memory_size,
                tick=from_text(tick, TickConfig),
                progress=lambda what, done: steps.put((what, done)),
            )
        except BaseException as error:  # noqa: BLE001 - raised below, in the thread that Ray listens to.
            failures.append(error)
        steps.put(None)

    threading.Thread(target=work, daemon=True).start()
    told_at, told_what = 0.0, ""
    while (step := steps.get()) is not None:
        if step[0] != told_what or time.monotonic() - told_at >= _TELL_EVERY_S:
            told_at, told_what = time.monotonic(), step[0]
            yield step
    if failures:
        raise failures[0]
