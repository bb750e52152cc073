"""How an observation or action of Gymnasium's spaces becomes an array of fixed shape.

Axes: H × W pixels, R × C cells, M components of a discrete observation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray
from PIL import Image

from world.envs.grounded import Int32Array, Uint8Array, ViewLayout
from world.errors import EnvironmentUnusable

SCREEN_PX, SCREEN_CELLS = 64, 8
"""Images that have no fitting grid of their own are averaged down to this side, of this many cells."""
_MAX_CELLS, _MIN_CELLS, _MAX_TILE_PX = 12, 5, 16
_MAX_TILES = 32
_MAX_VALUES, _MAX_COMPONENTS, _MAX_ACTIONS = 4096, 128, 1024
_IMAGE_KEYS = ("image", "rgb", "pixels", "screen", "observation")


@dataclass(frozen=True, slots=True)
class Sense:
    """How one agent's observation is read."""

    layout: ViewLayout
    read: Callable[[Any], NDArray[np.generic]]
    """Observation → (height, width, 3) uint8 or (M,) int32."""


def sense_of(
    space: gymnasium.Space[Any], name: str, layout: ViewLayout | None = None, tile_px: int | None = None
) -> Sense:
    """Return how to read observations of `space`.

    A `layout` that the environment declares is taken as it is; a `tile_px` where it divides the image.

    Raises `EnvironmentUnusable` for spaces that are neither images of bytes nor a few small whole numbers.
    """
    if isinstance(space, spaces.Dict):
        key = _image_key(space, name)
        inner = sense_of(space[key], name, layout, tile_px)
        return Sense(inner.layout, lambda observation: inner.read(observation[key]))
    if isinstance(space, spaces.Box) and space.dtype == np.uint8 and _is_image(space.shape):
        return _image_sense(space.shape, layout or _tiled(space.shape, tile_px))
    return _discrete_sense(space, name)


def joint_action_of(space: gymnasium.Space[Any], name: str) -> tuple[int, Callable[[int], Any]]:
    """Return the number of actions and how to make the environment's own from a number.

    Raises `EnvironmentUnusable` for actions that are not discrete, or too many.
    """
    if isinstance(space, spaces.Discrete):
        first = int(space.start)
        return _few_actions(int(space.n), name), lambda action: first + action
    if isinstance(space, spaces.MultiBinary):
        space = spaces.MultiDiscrete(np.full(space.shape, 2))
    if isinstance(space, spaces.MultiDiscrete):
        sizes = tuple(int(size) for size in space.nvec.ravel())
        shape, start, dtype = space.nvec.shape, space.start.ravel(), space.dtype
        return _few_actions(
            int(np.prod(sizes, dtype=np.float64)), name
        ), lambda action: (np.array(np.unravel_index(action, sizes)) + start).reshape(shape).astype(dtype)
    raise EnvironmentUnusable(
        f"{name}: actions must be discrete, got {space}; wrap it so that each choice has a number"
    )


def _few_actions(count: int, name: str) -> int:
    if count > _MAX_ACTIONS:
        raise EnvironmentUnusable(f"{name}: there are {count} actions, at most {_MAX_ACTIONS} can be told apart")
    return count


def _is_image(shape: tuple[int, ...]) -> bool:
    return (len(shape) == 2 and min(shape) > 1) or (len(shape) == 3 and shape[2] in (1, 3) and min(shape[:2]) > 1)


def _image_key(space: spaces.Dict, name: str) -> str:
    images = [
        key
        for key, part in space.spaces.items()
        if isinstance(part, spaces.Box) and part.dtype == np.uint8 and _is_image(part.shape)
    ]
    named = [key for key in _IMAGE_KEYS if key in images]
    if not named and len(images) != 1:
        raise EnvironmentUnusable(
            f"{name}: of the observations {list(space.spaces)} one must be an image of bytes, by the name of "
            f"{', '.join(_IMAGE_KEYS)} if there are several; wrap it with FlattenObservation or a wrapper of your own"
        )
    return str((named or images)[0])


def _image_sense(shape: tuple[int, ...], declared: ViewLayout | None) -> Sense:
    layout = declared or _grid_of(shape[0], shape[1])
    if layout is not None:
        return Sense(layout, _colour_image)
    side = SCREEN_PX // SCREEN_CELLS
    return Sense(ViewLayout(rows=SCREEN_CELLS, cols=SCREEN_CELLS, map_rows=0, tile_px=side), _small_image)


def _tiled(shape: tuple[int, ...], tile_px: int | None) -> ViewLayout | None:
    """Return the grid of tiles of a known size; None if they do not fill the image, or are too many."""
    if not tile_px or shape[0] % tile_px or shape[1] % tile_px:
        return None
    rows, cols = shape[0] // tile_px, shape[1] // tile_px
    if not 1 < max(rows, cols) <= _MAX_TILES:
        return None
    return ViewLayout(rows=rows, cols=cols, map_rows=0, tile_px=tile_px)


def _grid_of(height: int, width: int) -> ViewLayout | None:
    """Return the grid whose cells divide the image, with sides nearest to 8 cells; None if there is none."""
    if max(height, width) <= _MAX_CELLS:
        return ViewLayout(rows=height, cols=width, map_rows=0, tile_px=1)
    fitting = [
        tile
        for tile in range(2, _MAX_TILE_PX + 1)
        if not (height % tile or width % tile)
        and all(_MIN_CELLS <= side // tile <= _MAX_CELLS for side in (height, width))
    ]
    if not fitting:
        return None
    tile = min(fitting, key=lambda tile: abs(height // tile - SCREEN_CELLS) + abs(width // tile - SCREEN_CELLS))
    return ViewLayout(rows=height // tile, cols=width // tile, map_rows=0, tile_px=tile)


def _colour_image(observation: Any) -> Uint8Array:
    """Return an image in three channels."""
    image: Uint8Array = np.asarray(observation, np.uint8)
    if image.ndim == 2:
        image = image[..., None]
    return np.array(np.broadcast_to(image, (*image.shape[:2], 3)))


def _small_image(observation: Any) -> Uint8Array:
    """Return an image averaged down to the standard screen."""
    picture = Image.fromarray(_colour_image(observation))
    return np.asarray(picture.resize((SCREEN_PX, SCREEN_PX), Image.Resampling.BOX), np.uint8)


def _discrete_sense(space: gymnasium.Space[Any], name: str) -> Sense:
    """Return a row of whole numbers from 0: the components of the observation."""
    parts = tuple(space.spaces) if isinstance(space, spaces.Tuple) else (space,)
    sizes, lows = [], []
    for part in parts:
        low, size = _range_of(part, name)
        lows.append(low)
        sizes.append(size)
    start, count = np.concatenate(lows), np.concatenate(sizes)
    if count.max() > _MAX_VALUES or len(count) > _MAX_COMPONENTS:
        raise EnvironmentUnusable(
            f"{name}: an observation of {len(count)} numbers with up to {count.max()} values each is too large; "
            f"at most {_MAX_COMPONENTS} numbers of {_MAX_VALUES} values are supported"
        )
    layout = ViewLayout(rows=1, cols=len(count), map_rows=0, tile_px=0, num_values=int(count.max()))
    several = isinstance(space, spaces.Tuple)

    def read(observation: Any) -> Int32Array:
        given = observation if several else (observation,)
        flat = np.concatenate([np.asarray(part, np.int64).ravel() for part in given])
        return (flat - start).astype(np.int32)

    return Sense(layout, read)


def _range_of(space: gymnasium.Space[Any], name: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the lowest value and the number of values of each component."""
    if isinstance(space, spaces.Discrete):
        return np.array([space.start], np.int64), np.array([space.n], np.int64)
    if isinstance(space, spaces.MultiDiscrete):
        return space.start.ravel().astype(np.int64), space.nvec.ravel().astype(np.int64)
    if isinstance(space, spaces.MultiBinary):
        size = int(np.prod(space.shape))
        return np.zeros(size, np.int64), np.full(size, 2, np.int64)
    if isinstance(space, spaces.Box) and np.issubdtype(space.dtype, np.integer) and space.shape:
        # Python's whole numbers: the range of a wide type does not fit into the type.
        lows = [int(low) for low in space.low.ravel().tolist()]
        sizes = [int(high) - low + 1 for low, high in zip(lows, space.high.ravel().tolist(), strict=True)]
        if max(sizes) <= _MAX_VALUES:
            return np.array(lows, np.int64), np.array(sizes, np.int64)
    raise EnvironmentUnusable(
        f"{name}: observations must be an image of bytes (H, W), (H, W, 1) or (H, W, 3), or a few small whole numbers, "
        f"got {space}; wrap it, with rendered pixels for instance"
    )
