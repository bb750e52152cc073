"""The latent filter: exact readings stand; where looks are doubtful, memory decides."""

import numpy as np

from world.envs.grounded import Int32Array, Uint8Array, ViewLayout
from world.field import UNSEEN, Uint16Array
from world.model.filter import Filter
from world.model.tokenizer import PatchTokenizer, image_of, patches_of

LAYOUT = ViewLayout(rows=1, cols=4, map_rows=1, tile_px=2)
SHADES = np.array([0, 100, 110, 200], np.uint8)
"""Of tokens: unseen, two that look alike, and one that does not."""
ALIKE, ALIKE_TOO, OTHER = 1, 2, 3


class Blurred:
    """Reads the nearest of few shades, which noise moves."""

    layout, vocab_size, digest = LAYOUT, 4, "blurred"
    noise = 100.0

    def encode(self, views: Uint8Array | Int32Array) -> Uint16Array:
        """Nearest shade."""
        mean = patches_of(views.astype(np.uint8), LAYOUT).mean(axis=(3, 4, 5))
        return (np.abs(mean[..., None] - SHADES[1:]).argmin(-1) + 1).astype(np.uint16)

    def decode(self, tokens: Uint16Array) -> Uint8Array:
        """Even patches."""
        return image_of(np.broadcast_to(SHADES[tokens][..., None, None, None], (*tokens.shape, 2, 2, 3)))

    def arrays(self) -> dict[str, np.ndarray]:
        """Nothing."""
        return {}


def _views(*shades: int) -> Uint8Array:
    return np.repeat(np.repeat(np.array(shades, np.uint8), 2)[None, None, :, None], 2, axis=1).repeat(3, axis=3)


def test_a_reading_that_looks_like_what_is_remembered_is_what_is_remembered() -> None:
    remembered = np.array([[[ALIKE, ALIKE_TOO, OTHER, UNSEEN]]], np.uint16)
    views = _views(106, 104, 198, 106)
    assert Blurred().encode(views).tolist() == [[[ALIKE_TOO, ALIKE, OTHER, ALIKE_TOO]]]
    assert Filter(Blurred()).infer(views, remembered).tolist() == [[[ALIKE, ALIKE_TOO, OTHER, ALIKE_TOO]]]


def test_a_reading_that_looks_different_overrules_memory() -> None:
    remembered = np.array([[[ALIKE, ALIKE_TOO, OTHER, OTHER]]], np.uint16)
    views = _views(200, 195, 100, 112)
    assert Filter(Blurred()).infer(views, remembered).tolist() == [[[OTHER, OTHER, ALIKE, ALIKE_TOO]]]


def test_an_exact_reading_is_the_posterior_whatever_was_remembered() -> None:
    codebook = np.stack([np.full((2, 2, 3), shade, np.uint8) for shade in SHADES[1:]])
    remembered = np.array([[[ALIKE, ALIKE_TOO, OTHER, UNSEEN]]], np.uint16)
    exact = Filter(PatchTokenizer(LAYOUT, codebook, 8))
    assert exact.infer(_views(110, 100, 100, 200), remembered).tolist() == [[[ALIKE_TOO, ALIKE, ALIKE, OTHER]]]
