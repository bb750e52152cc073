"""Films of the past, drawn by the tokenizer that the tokens belong to.

Axes: A agents, R × C cells of a view, h × w pixels.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import imageio.v3 as iio
import numpy as np

from cluster.histories import Opened
from learner.restored import WARMUP
from world.durable import write_file
from world.errors import CheckpointError, ConfigError
from world.field import UNSEEN, Uint16Array
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import load_tokenizer
from world.snapshot import Snapshot, WorldId
from world.warmup import TOKENIZER_FILE

if TYPE_CHECKING:
    from world.envs.grounded import Uint8Array

MAX_FRAMES = 5000
_FRAMES_PER_S = 8
_LEAST_PX = 240
_GAP_PX = 4


def film(opened: Opened, world: WorldId, first: int, last: int, path: Path, *, view: str, every: int) -> int:
    """Write a GIF of ticks first … last and return how many pictures it has.

    Raises `ConfigError` for an impossible film or file, `DiskFull`, and `CheckpointError` without the tokenizer of this
    world's tokens.
    """
    if view not in ("agents", "map"):
        raise ConfigError(f"--view should be agents or map, got {view!r}")
    if every < 1:
        raise ConfigError(f"--every must be >= 1, got {every}")
    if (num := (last - first) // every + 1) > MAX_FRAMES:
        raise ConfigError(f"that makes {num} pictures, at most {MAX_FRAMES} are drawn; raise --every")
    if path.suffix.lower() != ".gif":
        raise ConfigError(f"--gif should name a .gif file, got {path}")
    tokenizer = _tokenizer(opened, world)
    states = _states(opened, world, first, last, every)
    pictures = _views(states, tokenizer) if view == "agents" else _maps(states, tokenizer)
    frames = np.stack(pictures)
    times = max(_LEAST_PX // max(frames.shape[1:3]), 1)
    frames = frames.repeat(times, axis=1).repeat(times, axis=2)
    try:
        write_file(path, iio.imwrite("<bytes>", frames, extension=".gif", duration=1000 / _FRAMES_PER_S, loop=0))
    except OSError as error:
        raise ConfigError(f"{path}: it cannot be written ({error.strerror})") from error
    return len(frames)


def _tokenizer(opened: Opened, world: WorldId) -> Tokenizer:
    wanted = opened.store.record(world).tokenizer
    file = opened.run_dir / WARMUP / TOKENIZER_FILE
    tokenizer = load_tokenizer(file)
    if tokenizer.digest != wanted:
        raise CheckpointError(
            f"world {world!r}: its tokens are of tokenizer {wanted}, {file} is {tokenizer.digest};"
            " name the run folder that it was made in with --run-dir"
        )
    return tokenizer


def _states(opened: Opened, world: WorldId, first: int, last: int, every: int) -> Iterator[Snapshot]:
    state = opened.history.state_at(world, first)
    yield state
    if last == first:
        return
    for effects in opened.history.effects(world, first + 1, last):
        state.apply(effects, verify=effects.tick == last)
        if (effects.tick - first) % every == 0:
            yield state


def _views(states: Iterator[Snapshot], tokenizer: Tokenizer) -> "list[Uint8Array]":
    """Return (h, w, 3) each: what all agents see, side by side."""
    pictures = []
    for state in states:
        images = tokenizer.decode(state.field.views(state.poses))
        gap = np.full((images.shape[1], _GAP_PX, 3), 255, np.uint8)
        parts = [part for image in images for part in (gap, image)]
        pictures.append(np.concatenate(parts[1:], axis=1))
    return pictures


def _maps(states: Iterator[Snapshot], tokenizer: Tokenizer) -> "list[Uint8Array]":
    """Return (h, w, 3) each: the same part of the map, which holds all that anybody has seen in the end."""
    found: list[tuple[int, int, Uint16Array]] = []
    for state in states:
        layer, y, x = state.field.extent()
        found.append((int(y[0, 0]), int(x[0, 0]), state.field.layers[layer].current(y, x)))
    seen = [np.add(np.argwhere(tokens), (top, left)) for top, left, tokens in found]
    corners = np.concatenate([places for places in seen if len(places)] or [np.zeros((1, 2), np.int64)])
    top, left = corners.min(axis=0).tolist()
    bottom, right = (corners.max(axis=0) + 1).tolist()
    pictures = []
    for at_y, at_x, tokens in found:
        canvas = np.full((bottom - top, right - left), UNSEEN, np.uint16)
        rows, cols = np.nonzero(tokens)
        canvas[rows + at_y - top, cols + at_x - left] = tokens[rows, cols]
        pictures.append(tokenizer.decode(canvas))
    return pictures
