"""What an evaluation leaves to look at: its metrics beside the baselines, and its worst episodes as films."""

from pathlib import Path

import imageio.v3 as iio
import matplotlib
import numpy as np

from world.evaluation.metrics import BASELINES, MetricRow
from world.evaluation.pictures import film_frame
from world.evaluation.protocols import Film, Report
from world.model.tokenizer import Tokenizer

_FRAMES_PER_S = 6
_LEAST_PX = 480
_COLUMNS = 3
_COLOURS = dict(zip(BASELINES, ("tab:red", "tab:orange", "tab:green", "tab:gray"), strict=True))


def save_curves(report: Report, picture: Path) -> None:
    """Draw a panel for each metric: over ticks or ages where it is measured at several, else as one point."""
    matplotlib.use("Agg")
    from matplotlib import pyplot

    families = _families(report.scores.metrics)
    if not families:
        return
    rows = -(-len(families) // _COLUMNS)
    figure, axes = pyplot.subplots(
        rows, _COLUMNS, figsize=(4 * _COLUMNS, 2.8 * rows), layout="constrained", squeeze=False
    )
    for axis in axes.flat[len(families) :]:
        axis.set_axis_off()
    for axis, (name, points) in zip(axes.flat, families.items(), strict=False):
        labels = list(points)
        at = np.arange(len(points))
        values = np.array([[row.value, row.low, row.high] for row in points.values()])
        spread = np.abs(values[:, 1:] - values[:, :1]).T
        axis.errorbar(at, values[:, 0], yerr=spread, marker="o", capsize=3, label="ours", color="tab:blue")
        for baseline in BASELINES:
            beside = [getattr(row, baseline) for row in points.values()]
            if any(value is not None for value in beside):
                known = [np.nan if value is None else value for value in beside]
                axis.plot(
                    at, known, marker="x", linestyle="--", label=baseline.replace("_", " "), color=_COLOURS[baseline]
                )
        axis.set_xticks(at, labels)
        axis.set_title(name)
        axis.grid(alpha=0.3)
    axes.flat[0].legend(fontsize="small")
    figure.suptitle(f"{report.protocol}, {report.episodes} episodes, 95% intervals")
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def save_film(film: Film, tokenizer: Tokenizer, picture: Path) -> None:
    """Write a film (GIF) of an episode: above in truth, below in the dream."""
    frames = [film_frame(truth, dream, tokenizer) for truth, dream in zip(film.truth, film.dream, strict=True)]
    times = max(_LEAST_PX // max(frames[0].shape[:2]), 1)
    frames = [frame.repeat(times, axis=0).repeat(times, axis=1) for frame in frames]
    iio.imwrite(picture, np.stack(frames), duration=1000 / _FRAMES_PER_S, loop=0)


def _families(metrics: dict[str, MetricRow]) -> dict[str, dict[str, MetricRow]]:
    """Return metrics by the name before `@`, each with its points by what follows it."""
    families: dict[str, dict[str, MetricRow]] = {}
    for name, row in metrics.items():
        family, _, at = name.partition("@")
        families.setdefault(family, {})[at] = row
    return families
