"""Recorded transitions as frames: what each agent saw, and what it saw next, with no field between.

Axes: B sequences, L ticks, A agents, N = B·A sequences of one agent's frames, H × W cells of a window, R × C cells of
a view, S status cells, E event slots.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from world.envs.grounded import BoolArray, Int32Array
from world.field import NEVER, UNSEEN
from world.trajectory import ELSEWHERE, Transitions, displacement_of
from world.window import views_after

Columns = Mapping[str, NDArray[np.generic]]


@dataclass(frozen=True, slots=True)
class Frames:
    """What a model of frames is told; integer tensors are int64."""

    cells: Tensor
    """(N, L, R, C) the view's cells before each tick."""
    status: Tensor
    """(N, L, S)"""
    actions: Tensor
    """(N, L, A) joint actions that follow."""
    turns: Tensor
    """(N, L, A) float32, each agent's place in the order of acting, as a share."""
    events: Tensor
    """(N, L, R, C) kinds of world events that befall the tick, at the cells of the view; 0: none."""
    own: Tensor
    """(N,) whose view it is."""
    episode: Tensor
    """(N, L) equal for frames of one episode."""


@dataclass(frozen=True, slots=True)
class Following:
    """What followed each frame."""

    cells: Tensor
    """(N, L, R, C) the next view; UNSEEN where it is not known."""
    status: Tensor
    """(N, L, S)"""
    known: Tensor
    """(N, L, R, C) cells of the next view that somebody had seen before."""


def frames_of(columns: Columns, view: tuple[int, int]) -> Frames:
    """Return the frames of columns (B, L, A, …) of `Transitions`, with views of R × C cells."""
    tokens, poses, events = (np.asarray(columns[name]) for name in ("tokens", "poses", "events"))
    agents = tokens.shape[2]
    episode = np.cumsum(np.asarray(columns["is_first"]), axis=1)
    turns = np.asarray(columns["turns"], np.float32) / agents
    return Frames(
        cells=_by_agent(in_view(tokens[..., 0], view)),
        status=_by_agent(np.asarray(columns["status"])),
        actions=_for_all(np.asarray(columns["actions"]), agents),
        turns=_for_all(turns, agents).float(),
        events=_by_agent(_events_in_views(events, poses, view)),
        own=torch.arange(agents).repeat(len(tokens)),
        episode=_for_all(episode, agents),
    )


def following(columns: Columns, view: tuple[int, int]) -> Following:
    """Return what followed the frames of columns (B, L, A, …)."""
    moved = np.asarray(columns["displacement"])
    near = (moved != ELSEWHERE)[..., None, None]
    after = shifted(np.asarray(columns["next_tokens"]), moved, view)
    before = shifted(np.asarray(columns["tokens"])[..., 0], moved, view)
    return Following(
        cells=_by_agent(np.where(near, after, UNSEEN)),
        status=_by_agent(np.asarray(columns["next_status"])),
        known=_by_agent(near & (before != UNSEEN)).bool(),
    )


def in_view(windows: NDArray[Any], view: tuple[int, int]) -> NDArray[Any]:
    """Return the cells (…, R, C) in view at the present place, of windows (…, H, W)."""
    margin = _margin(windows, view)
    return windows[..., margin : margin + view[0], margin : margin + view[1]]


def shifted(windows: NDArray[Any], displacement: NDArray[np.generic], view: tuple[int, int]) -> NDArray[Any]:
    """Return the cells (…, R, C) in view after displacements (…) by class, of windows (…, H, W)."""
    flat = windows.reshape(-1, *windows.shape[-2:])
    moved = displacement_of(displacement.astype(np.uint8)).reshape(-1, 2)
    return views_after(flat, moved, _margin(windows, view)).reshape(*windows.shape[:-2], *view)


def absences(ticks: Transitions, view: tuple[int, int]) -> Int32Array:
    """Return for the next views of one world's consecutive ticks (T, A, R, C) how long each agent had not seen a cell.

    0: it has it in view; 1: it had it in view a frame before; `NEVER`: it itself never had in this episode. Agents must
    not leave: the map that is laid out for it would reach to where they are then.
    """
    offsets = np.indices(view).astype(np.int32) - np.array(view, np.int32)[:, None, None] // 2
    poses, moved = ticks.poses, displacement_of(ticks.displacement)
    corner = poses.reshape(-1, 2).min(axis=0) - view - 1
    side = poses.reshape(-1, 2).max(axis=0) - corner + view + 1
    agents = np.arange(ticks.num_agents)[:, None, None]
    seen_at = np.full((ticks.num_agents, *side), NEVER, np.int32)
    absent = np.empty((*moved.shape[:2], *view), np.int32)
    for tick in range(len(ticks)):
        if ticks.is_first[tick]:
            seen_at[:] = NEVER
        here = poses[tick] - corner
        y, x = (here[:, axis, None, None] + offsets[axis] for axis in (0, 1))
        seen_at[agents, y, x] = tick
        there = here + moved[tick]
        y, x = (there[:, axis, None, None] + offsets[axis] for axis in (0, 1))
        last = seen_at[agents, y, x]
        absent[tick] = np.where(last == NEVER, NEVER, tick - last)
    return absent


def full_contexts(is_first: BoolArray, num_frames: int) -> NDArray[np.intp]:
    """Return the rows of consecutive ticks (T,) that end `num_frames` frames of one episode."""
    rows = np.arange(len(is_first))
    began = np.maximum.accumulate(np.where(is_first, rows, 0))
    return np.flatnonzero(rows - began >= num_frames - 1)


def _margin(windows: NDArray[Any], view: tuple[int, int]) -> int:
    return int(windows.shape[-2] - view[0]) // 2


def _events_in_views(events: NDArray[Any], poses: NDArray[Any], view: tuple[int, int]) -> NDArray[Any]:
    """Return kinds (B, L, A, R, C) at the cells of views around poses (B, L, A, 2), of events (B, L, E, 3)."""
    found = np.zeros((*poses.shape[:3], *view), np.int64)
    for b, t, e in zip(*np.nonzero(events[..., 0]), strict=True):
        kind, *at = events[b, t, e].tolist()
        place = np.array(at) - poses[b, t] + np.array(view) // 2
        agents = np.flatnonzero(((place >= 0) & (place < view)).all(axis=-1))
        found[b, t, agents, place[agents, 0], place[agents, 1]] = kind
    return found


def _by_agent(column: NDArray[Any]) -> Tensor:
    """Return (N, L, …) from (B, L, A, …)."""
    moved = np.ascontiguousarray(np.moveaxis(column, 2, 1), np.int64)
    return torch.from_numpy(moved).flatten(0, 1)


def _for_all(column: NDArray[Any], agents: int) -> Tensor:
    """Return (N, L, …) from (B, L, …), the same for each agent."""
    return torch.from_numpy(np.ascontiguousarray(column)).repeat_interleave(agents, dim=0)
