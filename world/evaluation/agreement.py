"""Agreement of screens: whether two dreamed views of one place show the same, where no map makes it so.

Truth alone knows where the screens are; a model is never told. On a shared map two who look at one place read one
truth by construction.

Axes: T ticks, A agents, V × V cells of a view, R × C cells of a token grid.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import combinations, permutations

import numpy as np

from world.envs.grounded import BoolArray, Int32Array
from world.envs.homestead.live_map import VIEW
from world.envs.homestead.tiles import AGENT_CODE
from world.evaluation.codes import CodeTable, is_agent, is_body
from world.evaluation.metrics import Counts, MetricRow, Scores, mean_of, row_of
from world.field import IntpArray, Uint16Array

_NOT_ASKED = "all of a screen is known as it truly is, to everybody"
_COMPARED = "two dreams are compared"
_NO_HUBS = "there are none: agents share a map, or the model was made without"


@dataclass(frozen=True, kw_only=True, slots=True)
class Views:
    """What agents see after a tick, in truth or in a dream, and where that is."""

    places: Int32Array
    """(T, A, 2) row and column in the centre of each view."""
    headings: Int32Array
    """(T, A) what is up in each view, as quarter turns from north to the east."""
    codes: Int32Array
    """(T, A, V, V) as each sees them."""

    def north_up(self) -> "Views":
        """Return the same views with north up."""
        return replace(self, codes=north_up(self.codes, self.headings), headings=np.zeros_like(self.headings))


def codes_seen(grids: Uint16Array, table: CodeTable) -> Int32Array:
    """Return codes (…, V, V) of token grids (…, R, C), of which the first V rows are what is seen."""
    return table.codes(grids[..., :VIEW, :])


def north_up(codes: Int32Array, headings: Int32Array) -> Int32Array:
    """Turn views (T, A, V, V) so that north is up, and the agents in them with them: the inverse of how they are drawn.

    An agent is drawn by its heading relative to the viewer's; turned back, it is told by its own.
    """
    back = np.empty_like(codes)
    for heading in range(4):
        chosen = headings == heading
        turned = np.rot90(codes[chosen], -heading, axes=(1, 2))
        relative = turned - AGENT_CODE
        back[chosen] = np.where(is_agent(turned), turned - relative % 4 + (relative + heading) % 4, turned)
    return back


def disagreements(views: Views, among: BoolArray | None = None) -> Counts:
    """Return (T, 2): on how many cells two agents read different things, of how many that both of them see.

    Views are north up. `among` (T, A, V, V): count only cells that are chosen in either view.
    """
    codes, places = views.codes, views.places
    side = codes.shape[-1]
    counts = np.zeros((len(codes), 2), np.int64)
    for one, other in combinations(range(codes.shape[1]), 2):
        apart = places[:, other] - places[:, one]
        for tick in np.flatnonzero((np.abs(apart) < side).all(axis=1)):
            mine, its = _shared(side, *apart[tick].tolist())
            counted = np.ones(codes[tick, one][mine].shape, np.bool_)
            if among is not None:
                counted = among[tick, one][mine] | among[tick, other][its]
            differs = codes[tick, one][mine] != codes[tick, other][its]
            counts[tick] += ((counted & differs).sum(), counted.sum())
    return counts


def errors(views: Views, truth: Views) -> Counts:
    """Return (T, 2): on how many cells views differ from truth, of how many that somebody else sees too.

    Both are north up.
    """
    shape = truth.codes.shape
    shared = np.zeros(shape, np.bool_)
    for one, other in permutations(range(shape[1]), 2):
        apart = truth.places[:, other] - truth.places[:, one]
        for tick in np.flatnonzero((np.abs(apart) < shape[-1]).all(axis=1)):
            shared[tick, one][_shared(shape[-1], *apart[tick].tolist())[0]] = True
    missed = shared & (views.codes != truth.codes)
    return np.stack([part.reshape(len(part), -1).sum(axis=1) for part in (missed, shared)], axis=1).astype(np.int64)


def screen_scores(
    truth: Views,
    last: Views,
    dreams: Mapping[str, Mapping[str, Views]],
    *,
    worlds: IntpArray | None = None,
    seed: int = 0,
) -> Scores:
    """Return on which share of the cells that two agents see after a tick their dreamed views differ.

    `last` is what each saw before the tick, taken for what it sees after it. `dreams` are told apart by how they are
    drawn ("likely", "sampled"), then by who dreams ("ours", "no_memory", "no_hubs"). `differ` is of all such cells,
    `differ_bodies` of those in which truth shows an agent or an animal; `wrong` is the share of them on which a view
    differs from truth. Rows `no_hubs` are of the same network whose hubs say nothing, and `hubs_spare` is by how much
    more it differs. `worlds` (T,) is as in `HeldOut`.
    """
    upright, metrics = truth.north_up(), dict[str, MetricRow]()
    bodies = is_body(upright.codes)
    for how, of in dreams.items():
        read = {who: views.north_up() for who, views in of.items()}
        read |= {"copy_last": last.north_up(), "ceiling": upright}
        everywhere = {who: disagreements(views) for who, views in read.items()}
        found = {
            "differ": everywhere,
            "differ_bodies": {who: disagreements(views, bodies) for who, views in read.items()},
            "wrong": {who: errors(views, upright) for who, views in read.items()},
        }
        for name, rows in found.items():
            metrics[f"{name}_{how}"] = row_of(rows, _share, seed=seed, ceiling=None, episodes=worlds)
            if "no_hubs" in rows:
                silent = rows | {"ours": rows["no_hubs"]}
                metrics[f"{name}_{how}_no_hubs"] = row_of(silent, _share, seed=seed, ceiling=None, episodes=worlds)
        if "no_hubs" in everywhere:
            both = {"ours": np.concatenate([everywhere["no_hubs"], everywhere["ours"]], axis=1)}
            metrics[f"hubs_spare_{how}"] = row_of(both, _spared, seed=seed, ceiling=None, episodes=worlds)
    reasons = {"*.oracle": _NOT_ASKED, "hubs_spare*": _COMPARED}
    if not any("no_hubs" in of for of in dreams.values()):
        reasons["hubs"] = _NO_HUBS
    return Scores(metrics, reasons)


def _shared(side: int, dy: int, dx: int) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the cells of one view, and of another that lies (dy, dx) from it, that are the same places."""
    mine = (slice(max(dy, 0), side + min(dy, 0)), slice(max(dx, 0), side + min(dx, 0)))
    its = (slice(max(-dy, 0), side + min(-dy, 0)), slice(max(-dx, 0), side + min(-dx, 0)))
    return mine, its


def _share(rows: Counts) -> float:
    return mean_of(rows.astype(np.float64))


def _spared(rows: Counts) -> float:
    """Return the share of rows (T, 4)'s first two columns less that of the last two."""
    return _share(rows[:, :2]) - _share(rows[:, 2:])
