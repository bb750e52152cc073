"""What a snapshot promises: effects repeat a tick exactly, or say that they do not."""

from dataclasses import replace

import numpy as np
import pytest

from tests.model_cases import CountingEnv, counting_ticker, counting_world
from world.errors import CorruptRecord
from world.live import fork_dream
from world.snapshot import Snapshot, TickEffects


def _lived(ticks: int = 6) -> tuple[Snapshot, list[TickEffects]]:
    env = CountingEnv()
    world = counting_world(env)
    ticker = counting_ticker(env)
    return world.snapshot, [ticker.tick([world])[0].effects for _ in range(ticks)]


def _empty(like: Snapshot) -> Snapshot:
    return Snapshot.empty("grounded", like.seed, like.field.layout, like.field.num_agents, like.memory.shape[1])


def test_effects_lead_to_the_digest_they_were_logged_with() -> None:
    lived, effects = _lived()
    again = _empty(lived)
    for tick in effects:
        again.apply(tick)
        assert again.digest() == tick.state_digest
    assert again.digest() == lived.digest()
    assert (again.tick, again.episode) == (6, 1)


def test_effects_of_another_tick_are_refused_and_change_nothing() -> None:
    lived, effects = _lived()
    again = _empty(lived)
    before = again.digest()
    with pytest.raises(CorruptRecord, match="tick 2 do not follow tick 0"):
        again.apply(effects[1])
    assert again.digest() == before
    again.apply(effects[0])
    with pytest.raises(CorruptRecord, match="do not follow"):
        again.apply(effects[0])


@pytest.mark.parametrize("changed", ["poses", "memory", "changes", "is_first"])
def test_effects_that_lead_elsewhere_are_refused(changed: str) -> None:
    lived, effects = _lived()
    again = _empty(lived)
    again.apply(effects[0])
    wrong = {
        "poses": effects[1].poses + 1,
        "memory": effects[1].memory + np.float16(1),
        "changes": replace(effects[1].changes, token=effects[1].changes.token + np.uint16(1)),
        "is_first": True,
    }
    with pytest.raises(CorruptRecord, match="another state"):
        again.apply(replace(effects[1], **{changed: wrong[changed]}))  # type: ignore[arg-type]


def test_the_digest_tells_seed_tick_episode_poses_memory_and_cells_apart() -> None:
    lived, _ = _lived()
    changed = [
        replace(lived, seed=lived.seed + 1),
        replace(lived, tick=lived.tick + 1),
        replace(lived, episode=lived.episode + 1),
        replace(lived, poses=lived.poses + 1),
        replace(lived, memory=lived.memory + np.float16(1)),
        replace(lived, field=_empty(lived).field),
    ]
    digests = {snapshot.digest() for snapshot in (lived, *changed)}
    assert len(digests) == len(changed) + 1
    assert replace(lived).digest() == lived.digest()


def test_a_fork_begins_as_its_origin_is_and_shares_nothing_with_it() -> None:
    lived, _ = _lived()
    before, fork = lived.digest(), fork_dream(lived, seed=lived.seed)
    assert fork.kind == "dreamed" and fork.env == b""
    assert fork.digest() == before
    fork.poses += 1
    fork.memory += np.float16(1)
    fork.field.observe(fork.poses, np.full((2, 4, 3), 9, np.uint16), fork.tick + 1)
    assert lived.digest() == before


def test_effects_without_verification_still_apply() -> None:
    lived, effects = _lived()
    again = _empty(lived)
    for tick in effects:
        again.apply(replace(tick, state_digest=bytes(16)), verify=False)
    assert again.digest() == lived.digest()
