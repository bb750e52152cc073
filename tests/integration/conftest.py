"""A real server of each module's own, and what tests do with it. Modules that need another one say so."""

import contextlib
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from redis import Redis

from tests.integration.store_suite import LEASE_S
from world.snapshot import WorldId
from world.store.records import Durability
from world.store.redis_store import RedisWorldStore
from world.store.server import EmbeddedServer


@pytest.fixture(scope="module")
def durability() -> Durability:
    """Level at which the server runs and stores connect."""
    return "disk"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory, durability: Durability) -> Iterator[EmbeddedServer]:
    """An embedded server."""
    with EmbeddedServer(tmp_path_factory.mktemp("store"), durability) as server:
        yield server


@pytest.fixture
def raw(server: EmbeddedServer) -> Iterator[Any]:
    """A client with all rights."""
    with Redis.from_url(server.url, protocol=2) as client:
        yield client


@pytest.fixture
def connect(server: EmbeddedServer, durability: Durability) -> Iterator[Callable[..., RedisWorldStore]]:
    """Connect stores, which are closed in the end."""
    with contextlib.ExitStack() as stores:

        def connect(**settings: Any) -> RedisWorldStore:
            given = {"durability": durability, "lease_s": LEASE_S} | settings
            store = RedisWorldStore.connect(server.url, **given)
            stores.callback(store.close)
            return store

        yield connect


@pytest.fixture
def store(connect: Callable[..., RedisWorldStore]) -> RedisWorldStore:
    """A store as it is by default."""
    return connect()


@pytest.fixture
def world() -> WorldId:
    """An id that no other test uses."""
    return WorldId(f"w-{uuid.uuid4().hex[:12]}")
