"""Prompting a living world: an event is posted to its inbox, and what became of it is waited for."""

import secrets
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from world.envs.catalog import make_env
from world.envs.grounded import EVENT_REACH, gone
from world.errors import ConfigError, LivingWorldsError, NotRunning
from world.event import WorldEvent, event_text, parse_event
from world.field import MAP
from world.snapshot import WorldId
from world.store.inbox import Prompt, RequestResult
from world.store.records import WorldRecord
from world.store.redis_store import RedisWorldStore

_POLL_S = 0.05


def phrases_of(env_name: str) -> tuple[str, ...]:
    """Return the phrases of the events that can befall worlds of an environment. Raises `EnvironmentUnusable`."""
    return make_env(env_name).spec.events


def prompt_world(
    store: RedisWorldStore,
    world: WorldId,
    text: str,
    *,
    agent: int | None = None,
    within_s: float = 30.0,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Any]:
    """Let an event befall a world that somebody hosts, and return the tick that it befell and what changed there.

    "here" in the text is where `agent` was last. Raises `ConfigError` for a text that tells no event of this world,
    `UnknownWorld`, `NotRunning`, `InboxFull`, and `LivingWorldsError` where nobody hosts it, where it has no such event
    after all, or where no tick took it within `within_s`: then it still waits in the inbox.
    """
    record = store.record(world)
    if record.status != "running":
        raise NotRunning(f"world {world!r}: it is {record.status}; resume it before anything can befall it")
    phrases = phrases_of(record.env)
    event = parse_event(text, phrases, None if agent is None else _place_of(store, record, agent))
    if not record.owner:
        raise LivingWorldsError(f"world {world!r}: nobody hosts it now, so nothing can befall it; start its run first")
    request_id, inbox, began = f"prompt-{secrets.token_hex(8)}", store.inbox(), clock()
    inbox.post(world, [Prompt(request_id, event)])
    while (result := inbox.result(world, request_id)) is None:
        if clock() - began > within_s:
            raise LivingWorldsError(
                f"world {world!r}: no tick took the event within {within_s:g} s; it waits in the inbox as request"
                f" {request_id}, and befalls the world when it goes on"
            )
        sleep(_POLL_S)
    if not result.applied:
        raise LivingWorldsError(f"world {world!r}: its host refused {text!r}; it knows no such event")
    return {
        "id": world,
        "kind": record.kind,
        "event": event_text(event, phrases),
        "tick": result.tick,
        "changes": _changes(store, world, event, result),
        "request_id": request_id,
        "seconds": round(clock() - began, 3),
    }


def _place_of(store: RedisWorldStore, record: WorldRecord, agent: int) -> tuple[int, int]:
    if not 0 <= agent < record.agents:
        raise ConfigError(f"world {record.world!r}: it has agents 0 to {record.agents - 1}, got --agent {agent}")
    _, snapshot, effects = store.load(record.world)
    pose = (effects[-1] if effects else snapshot).poses[agent]
    if gone(pose):
        raise ConfigError(f"world {record.world!r}: agent {agent} has left, and is nowhere; name a place")
    y, x = pose.tolist()
    return y, x


def _changes(store: RedisWorldStore, world: WorldId, event: WorldEvent, result: RequestResult) -> list[dict[str, int]]:
    """Return the cells of the map within the event's reach that somebody saw changed at its tick."""
    (effects,) = store.effects(world, result.tick, result.tick)
    changes = effects.changes
    near = (np.abs(changes.y - event.y) <= EVENT_REACH) & (np.abs(changes.x - event.x) <= EVENT_REACH)
    columns = (changes.y, changes.x, changes.token)
    rows = np.stack([column[near & (changes.layer == MAP)].astype(np.int64) for column in columns], axis=1)
    return [{"y": y, "x": x, "token": token} for y, x, token in rows.tolist()]
