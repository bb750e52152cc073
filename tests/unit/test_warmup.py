"""What warm-up promises: made once, then found again; held-out worlds that no training world is."""

from pathlib import Path

import numpy as np
import pytest

from world.envs.catalog import make_env
from world.errors import CheckpointError, ConfigError
from world.field import UNSEEN
from world.model.fsq import FsqConfig, FsqTokenizer
from world.model.tokenizer import DiscreteTokenizer, PatchTokenizer
from world.model.tokenizer_files import load_tokenizer
from world.tick import TickConfig
from world.warmup import (
    HELD_OUT_FILE,
    TOKENIZER_FILE,
    WarmupConfig,
    load_held_out,
    make_tokenizer,
    prepare,
    record_held_out,
)

HOMESTEAD = "homestead:16x16x2"
SMALL = WarmupConfig(
    vocab_size=512,
    max_patches=400,
    explored_seeds=2,
    explored_ticks=20,
    surveyed_seeds=6,
    held_out_seeds=2,
    held_out_ticks=24,
    held_out_stride=4,
)


def _silent(what: str, done: float) -> None:
    assert what and 0 <= done <= 1


def test_what_is_there_is_not_made_again(tmp_path: Path) -> None:
    prepare(HOMESTEAD, SMALL, tmp_path, memory_size=4, tick=TickConfig(), progress=_silent)
    times = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert set(times) == {TOKENIZER_FILE, HELD_OUT_FILE}
    prepare(HOMESTEAD, SMALL, tmp_path, memory_size=4, tick=TickConfig(), progress=_silent)
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == times
    (tmp_path / HELD_OUT_FILE).write_bytes(b"")
    with pytest.raises(CheckpointError, match="recorded anew"):
        load_held_out(tmp_path / HELD_OUT_FILE)
    (tmp_path / HELD_OUT_FILE).unlink()
    prepare(HOMESTEAD, SMALL, tmp_path, memory_size=4, tick=TickConfig(), progress=_silent)
    held_out = load_held_out(tmp_path / HELD_OUT_FILE)
    # Of ticks 12 … 23 of two worlds, every fourth.
    assert len(held_out.ticks) == 2 * 3 and held_out.ticks.memory.shape == (6, 2, 4)
    assert isinstance(load_tokenizer(tmp_path / TOKENIZER_FILE), PatchTokenizer)


def test_equal_settings_give_equal_worlds_and_the_oracle_is_true_of_what_is_in_view() -> None:
    env = make_env(HOMESTEAD)
    tokenizer, again = (make_tokenizer(env, SMALL, _silent) for _ in range(2))
    assert tokenizer.digest == again.digest and isinstance(tokenizer, PatchTokenizer)
    mine, its = (
        record_held_out(
            HOMESTEAD, tokenizer, SMALL, num_agents=None, memory_size=4, tick=TickConfig(), progress=_silent
        )
        for _ in range(2)
    )
    for name, column in mine.ticks.columns().items():
        np.testing.assert_array_equal(column, its.ticks.columns()[name])
    assert mine.oracle is not None and mine.oracle.shape == mine.ticks.next_tokens.shape
    in_view = mine.ticks.ages[..., -1] == 1
    np.testing.assert_array_equal(mine.oracle[in_view], mine.ticks.tokens[..., 0][in_view])
    remembered = ~in_view & (mine.ticks.tokens[..., 0] != UNSEEN)
    assert remembered.any() and (mine.oracle > 0).all()


def test_many_patches_are_learned_and_values_need_no_learning() -> None:
    few = WarmupConfig(
        max_patches=3,
        explored_seeds=1,
        explored_ticks=8,
        surveyed_seeds=1,
        fsq=FsqConfig(width=8, max_steps=2, batch_images=2),
    )
    assert isinstance(make_tokenizer(make_env(HOMESTEAD), few, _silent), FsqTokenizer)
    assert isinstance(make_tokenizer(make_env("FrozenLake-v1"), few, _silent), DiscreteTokenizer)


def test_impossible_settings_are_refused() -> None:
    for bad in ({"held_out_ticks": 7}, {"vocab_size": 900}, {"explored_seeds": 0}, {"max_patches": 1}):
        with pytest.raises(ConfigError, match="warmup"):
            WarmupConfig(**bad)  # type: ignore[arg-type]
