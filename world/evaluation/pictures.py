"""Pictures for people: the map as a world remembers it, and truth beside dream.

Axes: A agents, R × C cells of a view, h × w pixels.
"""

import numpy as np

from world.envs.grounded import Uint8Array
from world.field import Uint16Array
from world.live import LiveWorld, fork_dream
from world.model.tokenizer import Tokenizer
from world.snapshot import Snapshot
from world.tick import Ticker

_GAP_PX = 4
_PAPER = 255


def map_image(snapshot: Snapshot, tokenizer: Tokenizer) -> Uint8Array:
    """Return (h, w, 3): every cell as it was last seen, black where nobody has looked."""
    layer, y, x = snapshot.field.extent()
    tokens = snapshot.field.layers[layer].current(y, x)
    seen = np.argwhere(tokens)
    if not len(seen):
        return tokenizer.decode(tokens)
    (top, left), (bottom, right) = seen.min(axis=0), seen.max(axis=0) + 1
    return tokenizer.decode(tokens[top:bottom, left:right])


def dream_frames(world: LiveWorld, ticker: Ticker, tokenizer: Tokenizer, ticks: int) -> list[Uint8Array]:
    """Let a grounded world and its dream go on from the same tick under the same actions.

    Each frame (h, w, 3) shows the agents side by side: above in truth, below in the dream. The world is advanced.
    Stops early where the episode ends.
    """
    dream = LiveWorld(world.world, world.env_name, fork_dream(world.snapshot, seed=world.snapshot.seed), None, None)
    frames = [_beside(world, dream, tokenizer)]
    for _ in range(ticks):
        done = ticker.tick([world])[0]
        ticker.tick([dream], done.effects.actions[None])
        frames.append(_beside(world, dream, tokenizer))
        if world.ended:
            break
    return frames


def film_frame(truth: Uint16Array, dream: Uint16Array, tokenizer: Tokenizer) -> Uint8Array:
    """Return (h, w, 3) of views (A, R, C): agents side by side, above in truth, below in the dream."""
    rows = [_side_by_side(tokenizer.decode(views)) for views in (truth, dream)]
    gap = np.full((_GAP_PX, *rows[0].shape[1:]), _PAPER, np.uint8)
    return np.concatenate([rows[0], gap, rows[1]])


def _beside(truth: LiveWorld, dream: LiveWorld, tokenizer: Tokenizer) -> Uint8Array:
    above, below = (world.snapshot.field.views(world.snapshot.poses) for world in (truth, dream))
    return film_frame(above, below, tokenizer)


def _side_by_side(images: Uint8Array) -> Uint8Array:
    """Return (h, A·w + gaps, 3) of images (A, h, w, 3)."""
    gap = np.full((images.shape[1], _GAP_PX, 3), _PAPER, np.uint8)
    parts = [part for image in images for part in (gap, image)]
    return np.concatenate(parts[1:], axis=1)
