"""A host of the chaos test: owns what worlds it can get, commits ticks with what was asked of them, and notes it all.

Run as a program, to be killed at any moment:
python -m tests.chaos.store_writer URL OWNER NOTES LEASE_S DURABILITY VARIANT WORLD...
"""

import contextlib
import os
import secrets
import sys
import time
from dataclasses import dataclass
from typing import cast

from actors.requests import WorldRequests
from tests.chaos.variants import Variant, broken_code, functions_are
from tests.store_cases import LivingField
from world.errors import LeaseHeld, StoreError, StoreFull, StoreUnavailable
from world.snapshot import WorldId
from world.store.records import Ack, Commit, Durability, FencingToken
from world.store.redis_store import RedisWorldStore

HOT_LOG_TICKS = 10**9
"""All of it: the judge reads every tick."""
KEYFRAME_TICKS = 40
FIRST_NUMBER = 1000
"""Requests ask for actions of their own, from here on, by which the judge knows them again."""
_NUM_ACTIONS = 2**31 - 1
_GROUP_EVERY_S = 0.015
_READ = 32


@dataclass
class _Owned:
    token: FencingToken
    life: LivingField
    salt: int
    requests: WorldRequests
    taken_at: float
    unanswered: Commit | None = None

    @property
    def holder(self) -> str:
        """World, epoch and nonce, as notes name them."""
        return f"{self.token.world} {self.token.epoch} {self.token.nonce.hex()}"

    def next_commit(self) -> tuple[Commit, bool]:
        """Return what waits for an answer, unchanged; else one to three new ticks, and that it is new."""
        if self.unanswered is not None:
            return self.unanswered, False
        effects = []
        for _ in range(1 + self.life.tick % 3):
            agents = len(self.life.snapshot.poses)
            asked = self.requests.asked(self.life.tick + 1, num_agents=agents, num_actions=_NUM_ACTIONS)
            effects.append(self.life.step(salt=self.salt, asked=asked.actions))
        due = effects[0].tick // KEYFRAME_TICKS != (effects[-1].tick + 1) // KEYFRAME_TICKS
        keyframe = self.life.snapshot if due else None
        self.unanswered = Commit(self.token, tuple(effects), keyframe, self.requests.progress())
        return self.unanswered, True


class Notes:
    """Lines in a file. One write call each: it is in the page cache when the process dies, or not at all.

    o world epoch nonce: taken; s … tick digest: about to be sent; a … tick digest: acknowledged; c: a commit was
    acknowledged; f world epoch nonce error: refused; u: the store did not answer.
    """

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def add(self, *lines: str) -> None:
        """Append lines."""
        os.write(self._file, "".join(f"{line}\n" for line in lines).encode())

    def ticks(self, kind: str, owned: _Owned, commit: Commit) -> list[str]:
        """Return a line for each tick of a commit."""
        return [f"{kind} {owned.holder} {tick.tick} {tick.state_digest.hex()}" for tick in commit.effects]


def write(url: str, owner: str, notes_path: str, lease_s: float, durability: Durability, worlds: list[WorldId]) -> None:
    """Own and advance worlds until killed. Every second world is at home here; others are given back after a while."""
    notes = Notes(notes_path)
    store = _connected(url, lease_s, durability)
    owned: dict[WorldId, _Owned] = {}
    home = worlds[int(owner[-1]) % 2 :: 2]
    looked_at = looked_abroad_at = time.monotonic()
    while True:
        began = time.monotonic()
        try:
            if began - looked_at > lease_s / 4:
                looked_at = began
                abroad = began - looked_abroad_at > lease_s
                looked_abroad_at = began if abroad else looked_abroad_at
                for world in worlds if abroad else home:
                    if world not in owned and (taken := _take(store, world, owner)) is not None:
                        owned[world] = taken
                        notes.add(f"o {taken.holder}")
            for world in [world for world in owned if world not in home]:
                if owned[world].unanswered is None and began - owned[world].taken_at > 3 * lease_s:
                    store.release(owned.pop(world).token)
            # Commits come first: a fault meets whichever call is next.
            _commit(store, owned, notes)
            _read_inboxes(store, owned)
        except (StoreUnavailable, StoreFull):
            # Full: it could not even take its functions, which somebody had flushed.
            notes.add("u")
        time.sleep(max(0.0, began + _GROUP_EVERY_S - time.monotonic()))


def _read_inboxes(store: RedisWorldStore, owned: dict[WorldId, _Owned]) -> None:
    hungry = {world: held.requests.read_up_to for world, held in owned.items() if not held.requests.num_waiting}
    for world, posted in store.inbox().read(hungry, _READ).items():
        owned[world].requests.take_in(posted)


def _commit(store: RedisWorldStore, owned: dict[WorldId, _Owned], notes: Notes) -> None:
    commits, announced = [], list[str]()
    for held in owned.values():
        commit, is_new = held.next_commit()
        commits.append(commit)
        announced += notes.ticks("s", held, commit) if is_new else []
    notes.add(*announced)
    for commit, answer in zip(commits, store.commit(commits), strict=True):
        held = owned[commit.token.world]
        if isinstance(answer, Ack):
            held.unanswered = None
            held.requests.acknowledged()
            notes.add("c", *notes.ticks("a", held, commit))
            continue
        notes.add(f"f {held.holder} {type(answer).__name__}")
        # A full server refuses for now; whatever else it says, the world is loaded anew.
        if not isinstance(answer, StoreFull):
            del owned[commit.token.world]


def _take(store: RedisWorldStore, world: WorldId, owner: str) -> _Owned | None:
    nonce = secrets.token_bytes(16)
    try:
        token = store.acquire(world, owner=owner, nonce=nonce)
        _, snapshot, effects = store.load(world)
        progress = store.inbox().progress(world)
    except LeaseHeld:
        return None
    # Each life of each owner differs, so that no two of them could be mistaken for each other.
    life = LivingField.resume(snapshot, effects)
    return _Owned(token, life, int.from_bytes(nonce[:4]), WorldRequests(progress), time.monotonic())


def _connected(url: str, lease_s: float, durability: Durability) -> RedisWorldStore:
    while True:
        try:
            return RedisWorldStore.connect(
                url, lease_s=lease_s, timeout_s=0.5, durability=durability, hot_log_ticks=HOT_LOG_TICKS
            )
        except (StoreUnavailable, StoreFull):
            time.sleep(0.02)


if __name__ == "__main__":
    _, url, owner, notes_path, lease_s, durability, variant, *names = sys.argv
    worlds = [WorldId(name) for name in names]
    mistaken = functions_are(broken_code(cast(Variant, variant))) if variant else contextlib.nullcontext()
    try:
        with mistaken:
            write(url, owner, notes_path, float(lease_s), cast(Durability, durability), worlds)
    except StoreError as error:
        sys.exit(f"{type(error).__name__}: {error}")
