"""Where a new run begins: with weights and a tokenizer that somebody trained before, or with nothing.

`learner/pretrained/` holds what is shipped: a checkpoint of averaged weights alone, with its tokenizer, for each name.

python -m learner.start RUN NAME     ships the newest checkpoint of a training under a name
"""

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import torch

from learner.checkpoint import load_checkpoint, save_checkpoint
from learner.learner import LearnerConfig
from learner.restored import Restored, restore
from learner.schedule import Endless
from world.envs.grounded import EnvSpec
from world.errors import CheckpointError, ConfigError
from world.model.tokenizer import Tokenizer
from world.model.tokenizer_files import save_tokenizer
from world.model.world_model import WorldModel, WorldModelConfig
from world.warmup import TOKENIZER_FILE

NOTHING = "nothing"
"""The start of whoever learns all by himself."""
_LONG_AVERAGING = 0.999
_SHIPPED = Path(__file__).parent / "pretrained"


def shipped() -> list[str]:
    """Return the names of shipped weights."""
    return sorted(path.name for path in _SHIPPED.glob("*") if path.is_dir())


def start_path(name: str) -> Path:
    """Return the checkpoint or run folder that a person names: shipped, or his own. Raises `CheckpointError`."""
    if name in shipped():
        return _SHIPPED / name
    path = Path(name)
    if not path.exists():
        known = ", ".join(shipped()) or "none"
        raise CheckpointError(f"{name}: there is no such checkpoint or run folder; shipped weights: {known}")
    return path


def fitting(name: str, model: WorldModelConfig, spec: EnvSpec) -> Restored:
    """Return the weights of a start, and their tokenizer.

    Raises `CheckpointError` where they are damaged or an older program's, and `ConfigError` where they are of a model
    of other sizes, or of worlds that are seen otherwise.
    """
    restored = restore(start_path(name))
    if restored.model_config != model:
        raise ConfigError(
            f"{restored.path}: is a model of other sizes than this run's; begin with other weights, or nothing"
        )
    tokenizer = restored.tokenizer
    if tokenizer.layout != spec.layout:
        raise ConfigError(
            f"{restored.path}: is of worlds seen as {tokenizer.layout}, this run's are seen as {spec.layout}; begin"
            " with other weights, or nothing"
        )
    with torch.device("meta"):
        built = WorldModel(model, spec, tokenizer.vocab_size, num_tokens=tokenizer.num_tokens)
    if misfit := built.misfit(restored.weights):
        raise CheckpointError(
            f"{restored.path}: is not of the model that this program builds ({misfit}); begin with other weights, or"
            " nothing"
        )
    return restored


def bring(name: str, start: Path, warmup: Path, model: WorldModelConfig, spec: EnvSpec) -> int:
    """Copy the averaged weights of a start to `start` and its tokenizer to `warmup`, where a new run looks for them.

    Returns the step of these weights. Raises as `fitting` does.
    """
    restored = fitting(name, model, spec)
    hand_over(restored.tokenizer, warmup)
    # Last, for where it is nothing more is brought.
    write(restored, start)
    return restored.step


def hand_over(tokenizer: Tokenizer, warmup: Path) -> None:
    """Save a tokenizer in a warm-up folder that has none."""
    warmup.mkdir(parents=True, exist_ok=True)
    if not (warmup / TOKENIZER_FILE).exists():
        save_tokenizer(tokenizer, warmup / TOKENIZER_FILE)


def gently(learner: LearnerConfig, step: int) -> LearnerConfig:
    """Return how to go on from the weights of a step: with a tenth of the peak rate, and less and less.

    Weights that were trained to the end of their schedule would be taken back at its height to where it was half done.
    What is published is averaged over a thousand steps, since it begins as the best that there is.
    """
    return replace(learner, schedule=Endless(hold_steps=max(step // 100, 1)), averaging=_LONG_AVERAGING)


def write(restored: Restored, directory: Path) -> None:
    """Write averaged weights and their tokenizer into a new directory, in place of what is there."""
    manifest = load_checkpoint(restored.path).manifest
    beside = directory.with_name(directory.name + ".new")
    shutil.rmtree(beside, ignore_errors=True)
    saved = save_checkpoint(beside, {"average": restored.weights}, manifest)
    save_tokenizer(restored.tokenizer, saved / TOKENIZER_FILE)
    shutil.rmtree(directory, ignore_errors=True)
    directory.parent.mkdir(parents=True, exist_ok=True)
    saved.rename(directory)
    beside.rmdir()


if __name__ == "__main__":
    write(restore(Path(sys.argv[1])), _SHIPPED / sys.argv[2])
