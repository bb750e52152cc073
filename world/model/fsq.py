"""The `fsq` tokenizer: a small autoencoder whose code is a grid of finite scalars.

Axes: B images, R × C cells, p pixels on a side of a cell, E width, F scalars of a code.

Finite scalar quantization (Mentzer et al. 2023, arXiv 2309.15505): each scalar is bounded and rounded to a few
levels, so there is no codebook that could collapse. Where the environment draws tiles, a code sees its own cell
alone: a token is then a place, and the map can be shared. Elsewhere codes see their neighbours too.
"""

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from world.envs.grounded import Int32Array, Uint8Array, ViewLayout
from world.errors import ConfigError
from world.field import Uint16Array
from world.model.tokenizer import build_codebook, image_of, patches_of

_LEVELS = (8, 5, 5, 5)
_ENCODE_BATCH = 256
_CELLS_PER_IMAGE = 16
"""Single cells drawn in place of one image."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FsqConfig:
    """How the autoencoder is made and trained."""

    width: int = 192
    """E: width of its hidden layers."""
    max_steps: int = 4_000
    """Steps that it is trained for."""
    seconds: float = 150.0
    """Time after which training ends, if `max_steps` are not made."""
    batch_images: int = 32
    """Images in one step."""
    learning_rate: float = 2e-3
    """Peak of a warm-up and cosine schedule."""

    def __post_init__(self) -> None:
        counts = self.max_steps < 1 or self.batch_images < 1 or self.width < 8
        if counts or not self.seconds > 0 or not 0 < self.learning_rate < math.inf:
            raise ConfigError(
                f"fsq: seconds, max_steps, batch_images and learning_rate must be positive and width >= 8, got {self}"
            )


class FsqAutoencoder(nn.Module):
    """Cells to codes of F scalars and back."""

    levels: Tensor

    def __init__(self, patch_px: int, width: int, *, context: bool) -> None:
        super().__init__()
        pixels = 3 * patch_px**2
        kernel = 3 if context else 1
        self.patch_px, self.context = patch_px, context
        self.read = nn.Linear(pixels, width)
        self.hidden = nn.Parameter(torch.zeros(width))
        self.encoder = nn.ModuleList(nn.Conv2d(width, width, kernel, padding=kernel // 2) for _ in range(2))
        self.code = nn.Linear(width, len(_LEVELS))
        self.uncode = nn.Linear(len(_LEVELS), width)
        self.decoder = nn.ModuleList(nn.Conv2d(width, width, kernel, padding=kernel // 2) for _ in range(2))
        self.draw = nn.Linear(width, pixels)
        self.register_buffer("levels", torch.tensor(_LEVELS, dtype=torch.float32), persistent=False)

    def encode(self, patches: Tensor, keep: Tensor | None = None) -> Tensor:
        """Return bounded scalars (B, R, C, F), not yet rounded, of patches (B, R, C, 3·p²) in [0, 1].

        `keep` (B, R, C): cells whose content the encoder may see.
        """
        x = self.read(patches)
        if keep is not None:
            x = torch.where(keep[..., None], x, self.hidden)
        return self._bound(self.code(_residual(x, self.encoder)))

    def decode(self, scalars: Tensor) -> Tensor:
        """Return patches (B, R, C, 3·p²) of rounded scalars."""
        half = (self.levels - 1) / 2
        return torch.sigmoid(self.draw(_residual(self.uncode(scalars / half), self.decoder)))

    def _bound(self, x: Tensor) -> Tensor:
        """Squash into the range of the levels (arXiv 2309.15505, appendix A.1)."""
        half = (self.levels - 1) * (1 + 1e-3) / 2
        offset = torch.where(self.levels % 2 == 0, 0.5, 0.0)
        return torch.tanh(x + torch.atanh(offset / half)) * half - offset


class FsqTokenizer:
    """A frozen autoencoder as a tokenizer of 1,000 codes."""

    def __init__(self, layout: ViewLayout, autoencoder: FsqAutoencoder, noise: float) -> None:
        """Freeze an autoencoder that draws back what it reads with a mean squared error of `noise`, on 255."""
        self.layout, self.noise = layout, noise
        self.autoencoder = autoencoder.eval().requires_grad_(False)
        self.vocab_size = self.num_tokens = int(np.prod(_LEVELS)) + 1
        # What a code looks like is then the same wherever it stands, and drawn once.
        self._looks = None if autoencoder.context else self._drawn(torch.arange(self.vocab_size - 1)[None, None])[0, 0]

    @property
    def digest(self) -> str:
        """Of all weights."""
        hasher = hashlib.blake2b(digest_size=8)
        for name, array in sorted(self.arrays().items()):
            hasher.update(name.encode() + array.tobytes())
        return hasher.hexdigest()

    def encode(self, views: Uint8Array | Int32Array) -> Uint16Array:
        """Return tokens (A, R, C) of images (A, height, width, 3)."""
        return np.concatenate([self._encode(views[i : i + _ENCODE_BATCH]) for i in range(0, len(views), _ENCODE_BATCH)])

    def decode(self, tokens: Uint16Array) -> Uint8Array:
        """Return images (…, R·p, C·p, 3); UNSEEN is black."""
        grid = torch.from_numpy(tokens.reshape(-1, *tokens.shape[-2:]).astype(np.int64))
        p = self.layout.tile_px
        with torch.inference_mode():
            looks = self._looks[grid - 1] if self._looks is not None else self._drawn(grid - 1)
        patches = looks.reshape(*grid.shape, p, p, 3).numpy()
        patches = np.where((tokens == 0).reshape(*grid.shape, 1, 1, 1), np.uint8(0), patches)
        return image_of(patches.reshape(*tokens.shape, p, p, 3))

    def arrays(self) -> dict[str, NDArray[np.generic]]:
        """The weights, and whether codes see their neighbours."""
        weights = {name: tensor.numpy() for name, tensor in self.autoencoder.state_dict().items()}
        about = {
            "context": np.array([self.autoencoder.context], np.uint8),
            "noise": np.array([self.noise], np.float32),
        }
        return {**weights, **about}

    @classmethod
    def from_arrays(cls, layout: ViewLayout, arrays: dict[str, NDArray[np.generic]]) -> "FsqTokenizer":
        """Rebuild from `arrays()`."""
        about = {name: float(np.asarray(arrays[name], np.float32)[0]) for name in ("context", "noise")}
        weights = {name: torch.from_numpy(np.array(array)) for name, array in arrays.items() if name not in about}
        autoencoder = FsqAutoencoder(layout.tile_px, len(arrays["hidden"]), context=bool(about["context"]))
        autoencoder.load_state_dict(weights)
        return cls(layout, autoencoder, about["noise"])

    @torch.inference_mode()
    def _drawn(self, codes: Tensor) -> Tensor:
        """Return patches (B, R, C, 3·p²) uint8 of codes (B, R, C)."""
        return (self.autoencoder.decode(scalars_of(codes)) * 255).round().to(torch.uint8)

    def _encode(self, views: Uint8Array | Int32Array) -> Uint16Array:
        with torch.inference_mode():
            scalars = self.autoencoder.encode(_flat_patches(views, self.layout)).round()
        return (indices_of(scalars) + 1).numpy().astype(np.uint16)


def train_fsq(
    images: Uint8Array,
    layout: ViewLayout,
    config: FsqConfig,
    *,
    seed: int,
    clock: Callable[[], float],
    progress: Callable[[float], None],
) -> FsqTokenizer:
    """Fit an autoencoder to images (n, height, width, 3) and freeze it.

    Encoders with context learn with a random share of cells hidden, up to 90%; all decoders learn with codes that
    are off by one now and then, so that a world model's small mistakes stay small in the picture.
    """
    generator = torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    model = FsqAutoencoder(layout.tile_px, config.width, context=not layout.map_rows)
    optimizer = torch.optim.AdamW(model.parameters(), lr=config.learning_rate, weight_decay=1e-4)
    draw = (
        _image_batches(images, layout, config, generator)
        if model.context
        else _cell_batches(images, layout, config, generator)
    )
    began = clock()
    for step in range(config.max_steps):
        done = max((clock() - began) / config.seconds, step / config.max_steps)
        if done >= 1.0:
            break
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * min(1.0, (step + 1) / 50) * (0.5 + 0.5 * np.cos(np.pi * done))
        loss = _reconstruction_loss(model, draw(), generator)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        progress(done)
    return FsqTokenizer(layout, model, _noise(model, images, layout))


def _noise(model: FsqAutoencoder, images: Uint8Array, layout: ViewLayout) -> float:
    """Return the mean squared error of images drawn back, on a scale of 255; never quite 0."""
    sample = _flat_patches(images[:: max(len(images) // _ENCODE_BATCH, 1)], layout)
    with torch.inference_mode():
        drawn = model.decode(model.encode(sample).round())
        return max(float(F.mse_loss(drawn, sample)) * 255**2, 1.0)


def scalars_of(indices: Tensor) -> Tensor:
    """Return rounded scalars (…, F) of codes 0 … 999 (…)."""
    scalars = []
    for level in _LEVELS:
        scalars.append(indices.remainder(level) - level // 2)
        indices = indices.div(level, rounding_mode="floor")
    return torch.stack(scalars, dim=-1).float()


def indices_of(scalars: Tensor) -> Tensor:
    """Return codes 0 … 999 (…) of rounded scalars (…, F)."""
    index = torch.zeros(scalars.shape[:-1], dtype=torch.int64)
    for place in reversed(range(len(_LEVELS))):
        index = index * _LEVELS[place] + scalars[..., place].long() + _LEVELS[place] // 2
    return index


def _image_batches(
    images: Uint8Array, layout: ViewLayout, config: FsqConfig, generator: torch.Generator
) -> Callable[[], Tensor]:
    """Return a source of whole images (B, R, C, 3·p²)."""

    def draw() -> Tensor:
        chosen = torch.randint(len(images), (config.batch_images,), generator=generator).numpy()
        return _flat_patches(images[chosen], layout)

    return draw


def _cell_batches(
    images: Uint8Array, layout: ViewLayout, config: FsqConfig, generator: torch.Generator
) -> Callable[[], Tensor]:
    """Return a source of single cells (B, 1, 1, 3·p²): half as often as they are met, half each kind once.

    Most of a view is ground; who walks on it, and what they carry, is one cell each.
    """
    met = patches_of(images, layout).reshape(-1, layout.tile_px, layout.tile_px, 3)
    kinds = build_codebook(met, len(met))
    half = config.batch_images * _CELLS_PER_IMAGE // 2

    def draw() -> Tensor:
        drawn = [source[torch.randint(len(source), (half,), generator=generator).numpy()] for source in (met, kinds)]
        return torch.from_numpy(np.concatenate(drawn).reshape(2 * half, 1, 1, -1)).float() / 255

    return draw


def _reconstruction_loss(model: FsqAutoencoder, patches: Tensor, generator: torch.Generator) -> Tensor:
    keep = None
    if model.context:
        hidden = torch.rand(len(patches), 1, 1, generator=generator) * 0.9
        keep = torch.rand(patches.shape[:3], generator=generator) >= hidden
    bounded = model.encode(patches, keep)
    rounded = bounded + (bounded.round() - bounded).detach()
    slip = torch.randint(-1, 2, rounded.shape, generator=generator)
    slipped = torch.rand(rounded.shape[:3], generator=generator)[..., None] < 0.05
    half = model.levels // 2
    noisy = torch.clamp(rounded + slip * slipped, -half, model.levels - 1 - half)
    return 0.2 * _badness(model.decode(noisy), patches) + _badness(model.decode(rounded), patches)


def _badness(drawn: Tensor, patches: Tensor) -> Tensor:
    """Return the mean error, each cell weighted by its own error: a player is one cell of eighty, grass is most."""
    errors = ((drawn - patches).abs() + 4 * (drawn - patches) ** 2).mean(-1)
    return (errors * errors.detach()).sum() / errors.detach().sum().clamp(min=1e-6)


def _residual(x: Tensor, layers: nn.ModuleList) -> Tensor:
    x = x.permute(0, 3, 1, 2)
    for layer in layers:
        x = x + layer(F.silu(x))
    return F.silu(x).permute(0, 2, 3, 1)


def _flat_patches(views: Uint8Array | Int32Array, layout: ViewLayout) -> Tensor:
    patches = patches_of(views.astype(np.uint8, copy=False), layout)
    return torch.from_numpy(patches.reshape(*patches.shape[:3], -1)).float() / 255
