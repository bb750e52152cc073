"""A model brought back to be judged or to dream: averaged weights, their tokenizer, and the world they are of.

Nothing here trains, and nothing in a folder that a run may be using is touched.
"""

from dataclasses import dataclass, field
from pathlib import Path

import msgspec
from torch import Tensor

from learner.checkpoint import Manifest, is_checkpoint, load_checkpoint, newest_checkpoint
from world.errors import CheckpointError
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import load_tokenizer
from world.model.world_model import WorldModelConfig
from world.tick import TickConfig
from world.warmup import TOKENIZER_FILE

RUN_FILE, CHECKPOINTS, WARMUP = "run.json", "checkpoints", "warmup"
"""In the folder of a run or a training."""


@dataclass(frozen=True, slots=True)
class _Hosted:
    """What is read of a run's configuration; the rest is passed over."""

    env: str | None = None
    num_agents: int | None = None
    tick: TickConfig = field(default_factory=TickConfig)


@dataclass(frozen=True, slots=True)
class _Run:
    config: _Hosted


@dataclass(frozen=True, kw_only=True, slots=True)
class Restored:
    """What a world needs of a checkpoint to be dreamed."""

    path: Path
    """Of the checkpoint's directory."""
    step: int
    """Gradient updates made."""
    version: int
    """Of the weights; at least 1, since 0 stands for none."""
    model_config: WorldModelConfig
    weights: dict[str, Tensor]
    """The averaged ones, by parameter."""
    tokenizer: Tokenizer
    env_name: str | None
    """What the run hosts, or beside no run what a training recorded, as given to `make_env`; None if nothing says."""
    num_agents: int | None
    tick: TickConfig
    """How the run advances its worlds; the defaults beside no run."""


def restore(path: Path, tokenizer: Path | None = None) -> Restored:
    """Return the newest checkpoint of a run folder, or the checkpoint of a directory, every byte verified.

    The tokenizer is looked for in the checkpoint's directory and in the run's `warmup`, if it is not named.
    Raises `CheckpointError` where something is missing, damaged, or made with another tokenizer.
    """
    directory = _checkpoint_in(path)
    checkpoint = load_checkpoint(directory)
    manifest, average = checkpoint.manifest, checkpoint.parts.get("average")
    if not isinstance(average, dict) or not all(isinstance(part, Tensor) for part in average.values()):
        raise CheckpointError(f"{directory}: holds no averaged weights; judge a checkpoint that a learner saved")
    try:
        config = msgspec.convert(manifest.model_config, WorldModelConfig)
    except (msgspec.ValidationError, ValueError) as error:
        raise CheckpointError(f"{directory}: its model is none that this program builds ({error})") from error
    run = directory.parent.parent if directory.parent.name == CHECKPOINTS else directory
    read = load_tokenizer(tokenizer or _tokenizer_near(directory, run))
    if manifest.tokenizer_digest != read.digest:
        raise CheckpointError(
            f"{directory}: was trained with tokenizer {manifest.tokenizer_digest}, got {read.digest};"
            f" {_put_right(directory)}"
        )
    hosted = _hosted_by(run, manifest)
    return Restored(
        path=directory,
        step=manifest.step,
        version=max(manifest.weights_version, 1),
        model_config=config,
        weights=average,
        tokenizer=read,
        env_name=hosted.env,
        num_agents=hosted.num_agents,
        tick=hosted.tick,
    )


def _checkpoint_in(path: Path) -> Path:
    if is_checkpoint(path):
        return path
    newest = newest_checkpoint(path / CHECKPOINTS if (path / CHECKPOINTS).is_dir() else path)
    if newest is None:
        raise CheckpointError(f"{path}: is neither a checkpoint nor a run folder that holds one; name one that does")
    return newest


def _tokenizer_near(directory: Path, run: Path) -> Path:
    places = [directory / TOKENIZER_FILE, run / WARMUP / TOKENIZER_FILE, run / TOKENIZER_FILE]
    for place in places:
        if place.exists():
            return place
    raise CheckpointError(f"{directory}: there is no {TOKENIZER_FILE} beside it; {_put_right(directory)}")


def _put_right(directory: Path) -> str:
    # Whoever trains or hosts has no option for it.
    return f"put the right one at {directory / TOKENIZER_FILE}, or name it to worlds eval with --tokenizer"


def _hosted_by(run: Path, manifest: Manifest) -> _Hosted:
    """Return what a run's configuration says, as far as it matters here; beside no run, of what worlds data were."""
    file = run / RUN_FILE
    try:
        return msgspec.json.decode(file.read_bytes(), type=_Run).config
    except FileNotFoundError:
        data = manifest.made.get("data")
        return _Hosted(data.get("env"), data.get("num_agents")) if isinstance(data, dict) else _Hosted()
    except (msgspec.DecodeError, ValueError) as error:
        raise CheckpointError(f"{file}: cannot be read ({error}); judge the checkpoint's own directory") from error
