"""What tokenizers promise: exact where they can be, counted where they cannot, frozen on disk."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from tests.model_cases import homestead_rows
from world.envs.catalog import make_env
from world.envs.grounded import ViewLayout
from world.errors import CheckpointError, ConfigError
from world.model.fsq import FsqConfig, FsqTokenizer, indices_of, scalars_of, train_fsq
from world.model.tokenizer import (
    DiscreteTokenizer,
    PatchTokenizer,
    Tokenizer,
    build_codebook,
    image_of,
    patches_of,
)
from world.model.tokenizer_files import load_tokenizer, save_tokenizer

TILES = ViewLayout(rows=2, cols=3, map_rows=2, tile_px=4)
SCREEN = ViewLayout(rows=2, cols=2, map_rows=0, tile_px=4)


def _images(num: int, layout: ViewLayout, *, seed: int = 0, kinds: int = 6) -> NDArray[np.uint8]:
    """Images of a few kinds of smooth tiles."""
    rng = np.random.default_rng(seed)
    p = layout.tile_px
    ramp = np.linspace(0, 1, p)[:, None, None] * np.ones((p, p, 1))
    tiles = (np.random.default_rng(1).random((kinds, 1, 1, 3)) * 120 + ramp * 100).astype(np.uint8)
    return image_of(tiles[rng.integers(kinds, size=(num, layout.rows, layout.cols))])


def _patch_tokenizer() -> PatchTokenizer:
    patches = patches_of(_images(20, TILES), TILES)
    return PatchTokenizer(TILES, build_codebook(patches.reshape(-1, 4, 4, 3), 50), 32)


def _fsq(layout: ViewLayout = TILES, *, max_steps: int = 60, seed: int = 0) -> FsqTokenizer:
    config = FsqConfig(width=24, max_steps=max_steps, seconds=1e9, batch_images=8, learning_rate=5e-3)
    return train_fsq(_images(32, layout), layout, config, seed=seed, clock=lambda: 0.0, progress=lambda _: None)


def test_patches_and_images_invert_each_other_and_rests_fall_away() -> None:
    image = np.random.default_rng(0).integers(0, 256, (3, 8, 12, 3), np.uint8)
    patches = patches_of(image, TILES)
    assert patches.shape == (3, 2, 3, 4, 4, 3)
    np.testing.assert_array_equal(image_of(patches), image)
    np.testing.assert_array_equal(patches[1, 1, 2], image[1, 4:8, 8:12])
    framed = np.pad(image, ((0, 0), (0, 3), (0, 2), (0, 0)))
    np.testing.assert_array_equal(patches_of(framed, TILES), patches)


def test_patches_of_the_codebook_are_exact() -> None:
    tokenizer, images = _patch_tokenizer(), _images(9, TILES, seed=5)
    tokens = tokenizer.encode(images)
    assert tokens.shape == (9, 2, 3) and tokens.dtype == np.uint16 and tokens.min() >= 1
    np.testing.assert_array_equal(tokenizer.decode(tokens), images)
    np.testing.assert_array_equal(tokenizer.decode(tokens.reshape(3, 3, 2, 3)), images.reshape(3, 3, *images.shape[1:]))
    assert tokenizer.unknown_patches == 0


def test_unknown_patches_go_to_the_nearest_and_are_counted() -> None:
    tokenizer, images = _patch_tokenizer(), _images(2, TILES)
    near = images.copy()
    near[0, :4, :4] += 1
    near[1, 4:, 8:, 0] ^= 1
    np.testing.assert_array_equal(tokenizer.encode(near), tokenizer.encode(images))
    assert tokenizer.unknown_patches == 2


def test_unseen_and_unused_tokens_are_drawn_black() -> None:
    tokenizer = _patch_tokenizer()
    assert not tokenizer.decode(np.array([[0, 31, 9], [0, 0, 0]], np.uint16)).any()


def test_a_codebook_holds_the_most_frequent_patches_first_and_no_more_than_asked_for() -> None:
    tiles = np.arange(4, dtype=np.uint8)[:, None, None, None] * np.ones((2, 2, 3), np.uint8)
    patches = tiles[[3, 1, 1, 2, 2, 2, 0, 3, 2]]
    assert build_codebook(patches, 9)[:, 0, 0, 0].tolist() == [2, 3, 1, 0]
    assert build_codebook(patches, 2)[:, 0, 0, 0].tolist() == [2, 3]


def test_homestead_is_read_exactly_by_its_survey() -> None:
    _, tokenizer, rows = homestead_rows()
    env = make_env("homestead:16x16x2")
    assert tokenizer.noise == 0.0 and rows.tokens.max() < tokenizer.vocab_size
    images = tokenizer.decode(tokenizer.encode(env.reset(1).views))
    assert images.shape == (2, 70, 63, 3)


def test_discrete_values_are_tokens_already() -> None:
    layout = ViewLayout(rows=2, cols=3, map_rows=0, tile_px=0, num_values=9)
    tokenizer = DiscreteTokenizer(layout)
    values = np.arange(12, dtype=np.int32).reshape(2, 6) % 9
    tokens = tokenizer.encode(values)
    assert tokens.shape == (2, 2, 3) and tokenizer.vocab_size == 10
    np.testing.assert_array_equal(tokens.reshape(2, 6), values + 1)
    drawn = tokenizer.decode(tokens)
    assert drawn.shape == (2, 14, 21, 3)
    assert (
        len({tuple(pixel) for pixel in tokenizer.decode(np.arange(10, dtype=np.uint16)[None, None])[0, 0, ::7]}) == 10
    )


def test_a_single_discrete_value_is_a_view_of_one_cell() -> None:
    tokenizer = DiscreteTokenizer(ViewLayout(rows=1, cols=1, map_rows=0, tile_px=0, num_values=500))
    assert tokenizer.encode(np.array([[499]], np.int32)).tolist() == [[[500]]]


def test_all_thousand_codes_have_scalars_of_their_own() -> None:
    indices = torch.arange(1000)
    scalars = scalars_of(indices)
    assert scalars.shape == (1000, 4)
    assert len({tuple(row) for row in scalars.tolist()}) == 1000
    assert torch.equal(indices_of(scalars), indices)
    assert [len(set(column)) for column in scalars.T.tolist()] == [8, 5, 5, 5]


def test_the_bound_reaches_every_level_and_none_beyond() -> None:
    model = _fsq(max_steps=1).autoencoder
    extremes = model._bound(torch.linspace(-50, 50, 4001)[:, None].expand(-1, 4)).round()
    assert set(indices_of(extremes[:, :]).tolist()) <= set(range(1000))
    assert [sorted(set(column)) for column in extremes.T.int().tolist()] == [
        list(range(-4, 4)),
        *[list(range(-2, 3))] * 3,
    ]


@pytest.mark.parametrize("layout", [TILES, SCREEN])
def test_training_lowers_the_error_of_reconstruction(layout: ViewLayout) -> None:
    images = _images(16, layout, seed=9).astype(np.float32)
    errors = []
    for max_steps in (1, 200):
        tokenizer = _fsq(layout, max_steps=max_steps)
        tokens = tokenizer.encode(images)
        assert tokens.shape == (16, layout.rows, layout.cols) and 1 <= tokens.min() <= tokens.max() <= 1000
        errors.append(np.abs(tokenizer.decode(tokens).astype(np.float32) - images).mean())
    assert errors[1] < 0.5 * errors[0]


def test_training_by_steps_is_determined_by_the_seed() -> None:
    digests = [_fsq(max_steps=4, seed=seed).digest for seed in (0, 0, 1)]
    assert digests[0] == digests[1] != digests[2]


def test_training_ends_when_its_time_has_passed() -> None:
    told, times = list[float](), iter(range(1000))
    config = FsqConfig(width=8, max_steps=500, seconds=5.0, batch_images=2)
    train_fsq(_images(4, TILES), TILES, config, seed=0, clock=lambda: float(next(times)), progress=told.append)
    assert told == pytest.approx([0.2, 0.4, 0.6, 0.8])


def test_a_code_of_a_tile_depends_on_that_tile_alone() -> None:
    tokenizer, images = _fsq(max_steps=3), np.random.default_rng(3).integers(0, 256, (1, 8, 12, 3), np.uint8)
    tokens = tokenizer.encode(images)
    images[0, :4, :4] = 255 - images[0, :4, :4]
    changed = tokenizer.encode(images) != tokens
    assert not changed.reshape(-1)[1:].any()


@pytest.mark.parametrize("layout", [TILES, SCREEN])
def test_codes_are_drawn_as_the_autoencoder_decodes_them_wherever_they_stand(layout: ViewLayout) -> None:
    tokenizer = _fsq(layout, max_steps=3)
    tokens = np.random.default_rng(2).integers(1, 1001, (2, layout.rows, layout.cols)).astype(np.uint16)
    with torch.no_grad():
        decoded = tokenizer.autoencoder.decode(scalars_of(torch.from_numpy(tokens.astype(np.int64)) - 1)) * 255
    patches = patches_of(tokenizer.decode(tokens), layout).astype(np.float32)
    assert np.abs(patches.reshape(decoded.shape) - decoded.numpy()).max() <= 0.5 + 1e-3


def test_unseen_is_drawn_black_by_the_autoencoder() -> None:
    drawn = _fsq(max_steps=2).decode(np.array([[0, 1, 1000], [5, 0, 7]], np.uint16))
    assert drawn.shape == (8, 12, 3) and not drawn[:4, :4].any() and drawn[:4, 4:8].any()


def _tokenizers() -> list[Tokenizer]:
    discrete = DiscreteTokenizer(ViewLayout(rows=1, cols=1, map_rows=0, tile_px=0, num_values=9))
    return [_patch_tokenizer(), discrete, _fsq(max_steps=2), _fsq(SCREEN, max_steps=2)]


@pytest.mark.parametrize("number", range(4))
def test_a_saved_tokenizer_is_the_same_tokenizer(number: int, tmp_path: Path) -> None:
    tokenizer = _tokenizers()[number]
    save_tokenizer(tokenizer, tmp_path / "t.safetensors")
    again = load_tokenizer(tmp_path / "t.safetensors")
    assert (again.digest, again.layout, again.vocab_size) == (tokenizer.digest, tokenizer.layout, tokenizer.vocab_size)
    assert [path.name for path in tmp_path.iterdir()] == ["t.safetensors"]
    if tokenizer.layout.tile_px:
        images = _images(3, tokenizer.layout, seed=2)
        np.testing.assert_array_equal(again.encode(images), tokenizer.encode(images))
        np.testing.assert_array_equal(again.decode(again.encode(images)), tokenizer.decode(tokenizer.encode(images)))


@pytest.mark.parametrize("number", range(3))
def test_a_damaged_file_is_refused_or_harmless(number: int, tmp_path: Path) -> None:
    tokenizer, path = _tokenizers()[number], tmp_path / "t.safetensors"
    save_tokenizer(tokenizer, path)
    sound = path.read_bytes()
    rng = np.random.default_rng(number)
    header = 8 + int.from_bytes(sound[:8], "little")
    places = [*range(0, min(header, 400), 3), *rng.integers(0, len(sound), 20).tolist()]
    refused = 0
    for at in places:
        damaged = bytearray(sound)
        damaged[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        try:
            again = load_tokenizer(path)
        except CheckpointError:
            refused += 1
        else:
            assert (again.digest, again.layout, again.vocab_size) == (
                tokenizer.digest,
                tokenizer.layout,
                tokenizer.vocab_size,
            )
    assert refused > 0.6 * len(places)
    for size in (0, 7, header - 1, header, len(sound) - 1):
        path.write_bytes(sound[:size])
        with pytest.raises(CheckpointError):
            load_tokenizer(path)


def test_a_missing_tokenizer_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"absent\.safetensors"):
        load_tokenizer(tmp_path / "absent.safetensors")


def test_impossible_training_is_refused() -> None:
    for bad in ({"seconds": 0.0}, {"seconds": math.nan}, {"learning_rate": -1.0}, {"learning_rate": math.nan}):
        with pytest.raises(ConfigError, match="fsq"):
            FsqConfig(**bad)  # type: ignore[arg-type]
