"""Worlds that live on a host are prompted by command: an event meets one tick, is seen, and stays in their history."""

import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from actors.host_config import WorldHostConfig
from actors.world_host import WorldHost
from cluster import cli
from cluster.prompting import prompt_world
from learner.limiter import LimiterConfig
from learner.weights import flatten
from tests.history_cases import ENV, MEMORY_SIZE, SmallRun
from tests.host_cases import CheckingSink, Mailbox, SettlingLimiter
from tests.integration.store_suite import LEASE_S
from tests.model_cases import small_config, stirred_model
from world.envs.catalog import make_env
from world.envs.homestead.events import EVENTS
from world.errors import ConfigError, LivingWorldsError, NotRunning
from world.snapshot import WorldId
from world.store.redis_store import RedisWorldStore
from world.store.server import shared_server
from world.tick import TickConfig, Ticker

Worlds = Callable[..., tuple[int, Any]]
_PATIENTLY = ("--within", "600")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SmallRun]:
    """A run folder whose server stays up."""
    run = SmallRun(tmp_path_factory.mktemp("run"))
    with shared_server(run.directory / "redis"):
        run.live(40)
        yield run


@pytest.fixture
def worlds(run: SmallRun, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Worlds:
    """Run a command and return its exit code, and what it printed, as JSON where it is, or the error it told."""

    def worlds(*arguments: str) -> tuple[int, Any]:
        monkeypatch.setattr(sys, "argv", ["worlds", *arguments, "--run-dir", str(run.directory)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as left:
            cli.main()
        out, err = capsys.readouterr()
        code = int(left.value.code or 0)
        return code, err if code else json.loads(out) if "--json" in arguments else out

    return worlds


def long_leased(store: RedisWorldStore) -> RedisWorldStore:
    """Return the same store for a host whose leases do not end by themselves, however slow the machine is."""
    return RedisWorldStore(store._link, durability="disk", lease_s=LEASE_S, hot_log_ticks=4096)


@contextmanager
def hosted(run: SmallRun, *ids: str) -> Iterator[None]:
    """Let worlds live on a host in another thread, with a connection of its own, until the end."""
    spec = make_env(ENV).spec
    ticker = Ticker(spec, run.tokenizer, TickConfig(event_rate=0.0), small_config(memory_size=MEMORY_SIZE))
    mailbox, config = Mailbox(), WorldHostConfig(inbox_every_s=0.02, grounded_ticks_per_s=20.0, dream_ticks_per_s=20.0)
    mailbox.weights = flatten(stirred_model(spec, run.tokenizer.vocab_size).state_dict(), epoch=1, version=1)
    over = threading.Event()
    with run.opened() as opened, ThreadPoolExecutor(1) as threads:
        store = long_leased(opened.store)
        host = WorldHost(
            "host-7",
            config=config,
            store=store,
            sink=CheckingSink(store),  # type: ignore[arg-type]
            limiter=SettlingLimiter(LimiterConfig(samples_per_insert=1.0, min_items=10**6, max_ahead_items=10**6)),
            weights=mailbox,
            ticker=ticker,
            inbox=store.inbox(),
        )
        assert not host.adopt([WorldId(world) for world in ids]).lost

        def live() -> None:
            while not over.is_set():
                host.run_until(dict.fromkeys(map(WorldId, ids), 10**9), 0.1)
            host.stop()

        life = threads.submit(live)
        try:
            yield
        finally:
            over.set()
            life.result()


@pytest.mark.parametrize("kind", ["grounded", "dreamed"])
def test_a_prompted_event_meets_one_tick_and_is_named_by_history(run: SmallRun, worlds: Worlds, kind: str) -> None:
    world, far, begun = run.world, f"a clearing opens at (500, {len(kind)})", 0
    if kind == "dreamed":
        _, forked = worlds("fork", world, "--dream", "--json")
        world, begun = forked["worlds"][0]["id"], forked["worlds"][0]["tick"]
    with hosted(run, world):
        code, found = worlds("prompt", world, "A wall  rises here", "--agent", "1", *_PATIENTLY, "--json")
        assert code == 0, found
        (told,) = found["worlds"]
        assert found["command"] == "prompt" and told["kind"] == kind and told["id"] == world
        assert worlds("prompt", world, far, *_PATIENTLY)[0] == 0
    _, history = worlds("history", world, "--from", str(told["tick"]), "--to", str(told["tick"]), "--json")
    (tick,) = history["worlds"][0]["ticks"]
    (event,) = tick["events"]
    assert event["kind"] == 1 + EVENTS.index("a wall rises") and event["text"] == told["event"]
    changed = {(cell["y"], cell["x"]): cell["token"] for cell in told["changes"]}
    assert changed.items() <= {
        (c["y"], c["x"]): c["after"] for c in tick["changes"] if c["layer"] == "map"
    }.items()  # fmt: skip
    if kind == "grounded":
        blamed = [change for change in tick["changes"] if change["cause"] == "event"]
        assert all(change["events"] == [0] for change in blamed)
        assert any(change["y"] == event["y"] for change in blamed), "no stone of the wall"
    # What befell its parent may have been the same.
    _, lived = worlds("history", world, "--from", str(begun + 1), "--json")
    logged = [event["text"] for tick in lived["worlds"][0]["ticks"] for event in tick["events"]]
    assert [logged.count(text) for text in (told["event"], far)] == [1, 1]
    assert worlds("verify", world, "--json")[1]["worlds"][0]["verified"]
    code, table = worlds("history", world, "--from", str(told["tick"]))
    assert code == 0 and "rises" in table


def test_what_can_be_said_is_listed(run: SmallRun, worlds: Worlds) -> None:
    _, found = worlds("events", run.world, "--json")
    assert found["worlds"][0]["events"] == [f"{phrase} at (y, x)" for phrase in EVENTS]
    assert worlds("events", run.world)[1].splitlines() == found["worlds"][0]["events"]


def test_what_cannot_befall_is_told_in_a_sentence_and_posts_nothing(run: SmallRun, worlds: Worlds) -> None:
    sane = "a wall rises at (5, 5)"
    for arguments, said in (
        ((run.world, sane), "nobody hosts it"),
        ((run.world, "a wall falls at (5, 5)"), 'say "rain of saplings at (y, x)"'),
        ((run.world, "a wall rises here"), "somebody who stands"),
        ((run.world, "a wall rises here", "--agent", "2"), "agents 0 to 1"),
        (("nosuch", sane), "no world of this id"),
    ):
        code, told = worlds("prompt", *arguments)
        assert code == 2 and said in told and "Traceback" not in told, told
    with run.opened() as opened:
        opened.store.set_status(WorldId(run.world), "paused")
        with pytest.raises(NotRunning, match="resume it"):
            prompt_world(opened.store, WorldId(run.world), sane)
        opened.store.set_status(WorldId(run.world), "running")
        with pytest.raises(ConfigError):
            prompt_world(opened.store, WorldId(run.world), "")
        progress = opened.store.inbox().progress(WorldId(run.world))
        assert opened.store.inbox().read({WorldId(run.world): progress.cursor}, 10) == {}


def test_an_event_that_no_tick_takes_in_time_waits_for_the_next(run: SmallRun, worlds: Worlds) -> None:
    _, forked = worlds("fork", run.world, "--json")
    world = WorldId(forked["worlds"][0]["id"])
    with run.opened() as opened:
        # A host that has it and does not tick.
        token = long_leased(opened.store).acquire(world, owner="host-9", nonce=bytes(16))
        with pytest.raises(LivingWorldsError, match=r"waits in the inbox as request prompt-[0-9a-f]{16},") as told:
            prompt_world(opened.store, world, "everything ripens at (4, 4)", within_s=0.2)
        opened.store.release(token)
        request_id = str(told.value).split("as request ")[1].split(",")[0]
        with hosted(run, world):
            deadline = time.monotonic() + 600.0
            while (result := opened.store.inbox().result(world, request_id)) is None:
                assert time.monotonic() < deadline
                time.sleep(0.05)
        (effects,) = opened.store.effects(world, result.tick, result.tick)
        assert effects.events.tolist() == [[1 + EVENTS.index("everything ripens"), 4, 4]]
