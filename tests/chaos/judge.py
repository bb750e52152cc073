"""What the store kept, held against what was promised: the one place where chaos decides right and wrong."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from tests.chaos.store_writer import FIRST_NUMBER, HOT_LOG_TICKS
from tests.store_cases import LivingField
from world.errors import CorruptRecord
from world.snapshot import TickEffects, WorldId
from world.store import keys
from world.store.codec import effects_of, unseal_effects
from world.store.redis_store import RedisWorldStore


@dataclass(kw_only=True)
class Verdict:
    """Counts; the last six must all be zero."""

    acks: int = 0
    """Commits acknowledged."""
    acked_ticks: int = 0
    ticks_kept: int = 0
    refused: dict[str, int]
    unavailable: int = 0
    owners_of_a_world_at_most: int = 0
    requests_posted: int = 0
    acked_ticks_lost: int = 0
    ticks_applied_twice: int = 0
    chains_broken: int = 0
    commits_by_a_displaced_owner: int = 0
    requests_lost: int = 0
    requests_applied_twice: int = 0

    @property
    def violations(self) -> int:
        """Promises broken."""
        return (
            self.acked_ticks_lost
            + self.ticks_applied_twice
            + self.chains_broken
            + self.commits_by_a_displaced_owner
            + self.requests_lost
            + self.requests_applied_twice
        )

    def as_json(self) -> dict[str, Any]:
        """Return plain values."""
        return {**asdict(self), "violations": self.violations}


def judge(
    store: RedisWorldStore, raw: Any, notes: Path, worlds: Sequence[WorldId], posted: Mapping[WorldId, Sequence[int]]
) -> Verdict:
    """Return the verdict over worlds that began as `LivingField` of their index, given the numbers posted to each."""
    lines = [line.split() for line in notes.read_text().splitlines()] if notes.exists() else []
    acks = [line[1:] for line in lines if line[0] == "a"]
    # An epoch that was given out again, after its first holder's acquisition was lost, is its last holder's.
    holders = {(world, int(epoch)): nonce for _, world, epoch, nonce in _of("o", lines)}
    verdict = Verdict(
        acks=len(_of("c", lines)),
        acked_ticks=len(acks),
        refused=dict(sorted(Counter(line[4] for line in _of("f", lines)).items())),
        unavailable=len(_of("u", lines)),
        owners_of_a_world_at_most=max((epoch for _, epoch in holders), default=0),
        requests_posted=sum(map(len, posted.values())),
    )
    senders = {(line[1], line[5]): (int(line[2]), line[3]) for line in _of("s", lines)}
    for index, world in enumerate(worlds):
        acked = {(int(tick), digest) for of, _, _, tick, digest in acks if of == world}
        _judge_log(verdict, raw, world, senders, holders)
        try:
            kept = list(store.effects(world, 1, HOT_LOG_TICKS))
            _judge_state(store, world, index, kept)
        except CorruptRecord:
            verdict.chains_broken += 1
            continue
        verdict.ticks_kept += len(kept)
        verdict.acked_ticks_lost += len(acked - {(tick.tick, tick.state_digest.hex()) for tick in kept})
        _judge_requests(verdict, kept, posted.get(world, ()))
    return verdict


def _judge_state(store: RedisWorldStore, world: WorldId, index: int, kept: Sequence[TickEffects]) -> None:
    """Raise `CorruptRecord` unless the ticks lead from the beginning, each verified, to what `load` gives."""
    life = LivingField.resume(LivingField(index).snapshot, tuple(kept))
    record, snapshot, after = store.load(world)
    loaded = LivingField.resume(snapshot, after).snapshot
    if (loaded.digest(), record.tick) != (life.snapshot.digest(), life.tick):
        raise CorruptRecord(f"world {world!r}: its keyframe and its log tell two stories")


def _judge_log(
    verdict: Verdict,
    raw: Any,
    world: WorldId,
    senders: Mapping[tuple[str, str], tuple[int, str]],
    holders: Mapping[tuple[str, int], str],
) -> None:
    """Count payloads that are there twice, and entries by others than the holder of the newest epoch so far."""
    last = raw.hget(keys.meta(world), "tk")
    entries = raw.xrange(keys.log(world), "-", f"{int(last)}-{2**63}")
    verdict.ticks_applied_twice += len(entries) - len({fields[b"e"] for _, fields in entries})
    newest = 0
    for name, fields in entries:
        epoch = int(name.split(b"-")[1])
        sender = senders.get((world, _state_digest(fields)))
        displaced = epoch < newest or (sender is not None and sender != (epoch, holders.get((world, epoch))))
        verdict.commits_by_a_displaced_owner += displaced
        newest = max(newest, epoch)


def _state_digest(fields: Mapping[bytes, bytes]) -> str:
    try:
        return effects_of(unseal_effects(fields[b"e"])).state_digest.hex()
    except CorruptRecord:
        return ""


def _judge_requests(verdict: Verdict, kept: Sequence[TickEffects], posted: Sequence[int]) -> None:
    seen = Counter(int(action) for tick in kept for action in tick.actions if action >= FIRST_NUMBER)
    verdict.requests_lost += sum(seen[number] == 0 for number in posted)
    verdict.requests_applied_twice += sum(count - 1 for count in seen.values() if count > 1)


def _of(kind: str, lines: Sequence[list[str]]) -> list[list[str]]:
    return [line for line in lines if line[0] == kind]
