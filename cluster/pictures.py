"""What a run leaves to look at: curves of its metrics, a dream beside the truth, and a world's map."""

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import matplotlib
import numpy as np
import torch
from PIL import Image

from cluster.config import RunConfig
from cluster.console import F1
from cluster.metrics_file import read_metrics
from learner.weights import WeightSet
from world.errors import CorruptRecord, UnknownWorld
from world.evaluation.pictures import dream_frames, map_image
from world.live import resume
from world.model.tokenizer import Tokenizer
from world.snapshot import WorldId
from world.store.records import WorldStore
from world.tick import Ticker
from world.warmup import spec_of

_DREAM_TICKS = 48
_FRAMES_PER_S = 6
_LEAST_PX = 800


def save_curves(metrics: Path, picture: Path) -> None:
    """Draw `metrics.jsonl` as curves over time."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    lines: list[Any] = read_metrics(metrics)
    time_s = [line["run_s"] for line in lines]
    panels = {
        "loss": [line["loss"] for line in lines],
        "changed-token F1, held-out": [line["metrics"].get(F1, {}).get("value") for line in lines],
        "agent-ticks/s": [line["agent_ticks_per_s"] for line in lines],
        "samples per insert": [line["samples_per_insert"] or None for line in lines],
        "commit p99, ms": [1000 * line["commit_p99_s"] for line in lines],
        "weights version": [line["weights"][1] for line in lines],
    }
    figure, axes = pyplot.subplots(2, 3, figsize=(12, 6), layout="constrained")
    for axis, (title, values) in zip(axes.flat, panels.items(), strict=True):
        axis.plot(time_s, [np.nan if value is None else value for value in values])
        axis.set_title(title)
        axis.set_xlabel("seconds")
        axis.grid(alpha=0.3)
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def save_map_and_dream(
    store: WorldStore,
    worlds: Iterable[WorldId],
    tokenizer: Tokenizer,
    weights: WeightSet | None,
    config: RunConfig,
    folder: Path,
) -> bool:
    """Draw the first of these worlds that loads, and its dream where there are weights; return whether one did."""
    for world in worlds:
        with suppress(CorruptRecord, UnknownWorld):
            save_map(store, world, tokenizer, folder / "map.png")
            if weights is not None:
                save_dream(store, world, tokenizer, weights, config, folder / "dream.gif")
            return True
    return False


def save_map(store: WorldStore, world: WorldId, tokenizer: Tokenizer, picture: Path) -> None:
    """Draw all that a world's field remembers."""
    _, snapshot, effects = store.load(world)
    for tick in effects:
        snapshot.apply(tick)
    Image.fromarray(_enlarged(map_image(snapshot, tokenizer))).save(picture)


def save_dream(
    store: WorldStore, world: WorldId, tokenizer: Tokenizer, weights: WeightSet, config: RunConfig, picture: Path
) -> None:
    """Let a grounded world and its dream go on from its last tick, in this process only, and film both."""
    # Threads that wait for each other take seconds where one alone takes one: other processes use the cores.
    torch.set_num_threads(1)
    record, snapshot, effects = store.load(world)
    live = resume(world, env_name=record.env, snapshot=snapshot, effects=effects)
    # The dream follows truth's actions; what would befall truth alone befalls neither.
    tick = replace(config.tick, event_rate=0.0)
    ticker = Ticker(spec_of(config.env, config.num_agents), tokenizer, tick, config.model)
    ticker.load_weights(weights.tensors(), weights.version)
    if live.ended:
        ticker.tick([live])
    frames = dream_frames(live, ticker, tokenizer, _DREAM_TICKS)
    iio.imwrite(picture, np.stack([_enlarged(frame) for frame in frames]), duration=1000 / _FRAMES_PER_S, loop=0)


def _enlarged(image: "np.typing.NDArray[np.uint8]") -> "np.typing.NDArray[np.uint8]":
    """Return an image repeated to be seen well."""
    times = max(_LEAST_PX // max(image.shape[:2]), 1)
    return image.repeat(times, axis=0).repeat(times, axis=1)
