"""The embedded server: one per directory, alive as long as it is wanted, whoever dies."""

import contextlib
import fcntl
import os
import signal
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import TimeoutError as RedisTimeoutError

from world.errors import ConfigError, StoreUnavailable, UnsafeServer
from world.store import server as server_module
from world.store.server import EmbeddedServer, find_server, shared_server

STARTER = """
import sys, time
from world.store.server import EmbeddedServer
server = EmbeddedServer(sys.argv[1])
started = server.start()
print(server.pid, started, flush=True)
time.sleep(float(sys.argv[2]))
"""


def starter(directory: Path, stays_s: float = 0.0) -> "subprocess.Popen[str]":
    """Start a process, in a group of its own, that starts the server of a directory and says which it is."""
    command = [sys.executable, "-c", STARTER, str(directory), str(stays_s)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)


def client_of(server: EmbeddedServer) -> Any:
    return Redis.from_url(server.url, protocol=2)


def is_running(server: EmbeddedServer) -> bool:
    """Whether the server of its directory has loaded its data and answers."""
    place = server._read_place()
    return place is not None and server_module._answering(place.socket, 5.0) is not None


def test_a_usable_server_is_found() -> None:
    path, version = find_server()
    assert os.access(path, os.X_OK)
    assert int(version.split(".")[0]) >= 7


def test_servers_on_path_come_first_and_old_ones_are_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, version in (("redis-server", "6.2.14"), ("valkey-server", "8.1.0")):
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\necho 'Server v={version} sha=00000000:0'\n")
        program.chmod(0o755)
    monkeypatch.setenv("PATH", os.pathsep.join((str(tmp_path), "/bin", "/usr/bin")))
    assert find_server() == (tmp_path / "valkey-server", "8.1.0")


def test_a_directory_keeps_to_the_program_that_wrote_it_whatever_is_installed_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Redis 7.0 does not read what Valkey 9 has written, and advises to mend it with a tool that would cut it.
    with EmbeddedServer(tmp_path / "store"):
        pass
    written = (tmp_path / "store" / "server.binary").read_text().strip()
    assert written == str(find_server()[0])
    other = tmp_path / "redis-server"
    other.write_text("#!/bin/sh\ncase $1 in --version) echo 'Redis server v=7.0.15';; *) exit 1;; esac\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert find_server()[0] == other
    with EmbeddedServer(tmp_path / "store") as server:
        assert is_running(server)
    # One that is gone is followed by one of its name.
    assert find_server(tmp_path / "gone" / "valkey-server")[0].name == "valkey-server"


def test_a_second_starter_attaches(tmp_path: Path) -> None:
    first, second = EmbeddedServer(tmp_path), EmbeddedServer(tmp_path)
    assert first.start()
    try:
        assert not second.start()
        assert (second.pid, second.url) == (first.pid, first.url)
        assert not second.ensure()
    finally:
        first.stop()
    assert not is_running(second)


def test_a_shared_server_is_stopped_by_whoever_leaves_it_last(tmp_path: Path) -> None:
    first, second = contextlib.ExitStack(), contextlib.ExitStack()
    server = first.enter_context(shared_server(tmp_path))
    assert second.enter_context(shared_server(tmp_path)).pid == server.pid
    first.close()
    assert is_running(server)
    with shared_server(tmp_path):
        pass
    assert is_running(server)
    second.close()
    assert not is_running(server)


def test_whoever_was_killed_shares_a_server_no_more(tmp_path: Path) -> None:
    script = (
        "import sys, time; from pathlib import Path; from world.store.server import shared_server\n"
        "with shared_server(Path(sys.argv[1])) as server: print(server.pid, flush=True), time.sleep(600)"
    )
    killed = subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert killed.stdout is not None
    pid = int(killed.stdout.readline())
    killed.kill()
    killed.communicate()
    with shared_server(tmp_path) as server:
        assert server.pid == pid
    assert not is_running(server)


def test_many_starters_at_once_make_one_server(tmp_path: Path) -> None:
    starters = [starter(tmp_path) for _ in range(4)]
    said = [process.communicate()[0].split() for process in starters]
    try:
        assert len({pid for pid, _ in said}) == 1
        assert [started for _, started in said].count("True") == 1
    finally:
        EmbeddedServer(tmp_path).stop()


def test_the_server_holds_the_lock_on_its_directory_for_as_long_as_it_lives(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path), (tmp_path / "server.lock").open() as lock, pytest.raises(BlockingIOError):
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    with (tmp_path / "server.lock").open() as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_the_server_survives_its_owners_process_group_and_is_adopted(tmp_path: Path) -> None:
    owner = starter(tmp_path, stays_s=600)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline().split()[0])
    os.killpg(owner.pid, signal.SIGKILL)
    owner.wait()
    owner.stdout.close()
    server = EmbeddedServer(tmp_path)
    try:
        assert not server.start()
        assert server.pid == pid
    finally:
        server.stop()


def test_a_killed_server_is_restarted_with_all_it_acknowledged(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        with client_of(server) as client:
            for number in range(20):
                client.set(f"key-{number}", number)
        former = server.pid
        os.kill(former, signal.SIGKILL)
        assert server.ensure()
        assert server.pid != former
        with client_of(server) as client:
            assert client.dbsize() == 20


@pytest.mark.parametrize(
    "tail", [bytes(1), bytes(100_000), b"*3\r\n$3\r\nSET\r\n$5\r\nlo", b"*3\r\n$3\r\nSET\r\n$5\r\nlo" + bytes(5000)]
)
def test_what_a_power_cut_leaves_at_the_end_of_the_log_keeps_no_server_from_starting(
    tmp_path: Path, tail: bytes
) -> None:
    with EmbeddedServer(tmp_path) as server:
        with client_of(server) as client:
            client.set("key", b"value" + bytes(10))
        os.kill(server.pid, signal.SIGKILL)
        (log,) = (tmp_path / "appendonlydir").glob("*.incr.aof")
        with log.open("ab") as file:
            file.write(tail)
        assert server.ensure()
        with client_of(server) as client:
            assert client.get("key") == b"value" + bytes(10)
            assert client.dbsize() == 1


def test_a_killed_server_is_restarted_by_one_of_several_who_notice(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        os.kill(server.pid, signal.SIGKILL)
        said = [process.communicate()[0].split() for process in [starter(tmp_path) for _ in range(3)]]
        assert len({pid for pid, _ in said}) == 1
        assert not server.ensure()
        assert server.pid == int(said[0][0])


def test_a_stopped_server_starts_again_with_its_data(tmp_path: Path) -> None:
    server = EmbeddedServer(tmp_path)
    server.start()
    with client_of(server) as client:
        client.set("key", "value")
    server.stop()
    server.stop()
    assert not is_running(server)
    assert server.start()
    with client_of(server) as client:
        assert client.get("key") == b"value"
    server.stop()


def test_a_server_that_is_too_busy_to_be_told_to_stop_is_told_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    embedded = EmbeddedServer(tmp_path)
    embedded.start()
    client, asked = server_module._client, []

    def busy_at_first(socket: Path, timeout_s: float) -> Any:
        asked.append(socket)
        if len(asked) < 3:
            raise RedisTimeoutError("Timeout reading from socket")
        return client(socket, timeout_s)

    with monkeypatch.context() as patched:
        patched.setattr(server_module, "_client", busy_at_first)
        embedded.stop()
    assert len(asked) >= 3
    assert not is_running(embedded)


def test_a_path_too_long_for_a_socket_gets_a_short_one_that_others_find(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 60) / ("e" * 60)
    server = EmbeddedServer(deep)
    assert server.start()
    socket = Path(server.url.removeprefix("unix://"))
    try:
        assert len(os.fsencode(socket)) < 100
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        assert not EmbeddedServer(deep).start()
        os.kill(server.pid, signal.SIGKILL)
        assert server.ensure()
        assert Path(server.url.removeprefix("unix://")) == socket
    finally:
        server.stop()
    assert not socket.parent.exists()


def test_nobody_else_can_reach_the_socket(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path / "with space") as server, client_of(server) as client:
        assert client.ping()
        assert stat.S_IMODE((tmp_path / "with space" / "socket").stat().st_mode) == 0o700
        assert client.config_get("port") == {"port": "0"}


def test_the_server_runs_with_the_settings_of_its_durability(tmp_path: Path) -> None:
    for durability, fsync in (("process", "everysec"), ("disk", "always")):
        with EmbeddedServer(tmp_path / durability, durability) as server, client_of(server) as client:  # type: ignore[arg-type]
            found = client.config_get("appendonly", "appendfsync", "maxmemory-policy", "save")
            assert found == {"appendonly": "yes", "appendfsync": fsync, "maxmemory-policy": "noeviction", "save": ""}


def test_a_weaker_server_that_runs_already_is_refused(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path, "process"), pytest.raises(UnsafeServer, match="process"):
        EmbeddedServer(tmp_path, "disk").start()


def test_impossible_settings_are_refused(tmp_path: Path) -> None:
    for durability, settings in (("replica", {}), ("disk", {"maxmemory_bytes": -1}), ("disk", {"start_timeout_s": 0})):
        with pytest.raises(ConfigError):
            EmbeddedServer(tmp_path, durability, **settings)  # type: ignore[arg-type]
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="cannot be used"):
        EmbeddedServer(tmp_path / "file" / "below").start()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server, client_of(server) as client:
        client.set("key", "value")
    for manifest in (tmp_path / "appendonlydir").glob("*.manifest"):
        manifest.write_text("nonsense\n")
    with pytest.raises(StoreUnavailable, match="manifest"):
        EmbeddedServer(tmp_path).start()


def test_a_server_that_hangs_is_waited_for_no_longer_than_told(tmp_path: Path) -> None:
    with EmbeddedServer(tmp_path) as server:
        os.kill(server.pid, signal.SIGSTOP)
        try:
            with pytest.raises(StoreUnavailable, match="did not answer"):
                EmbeddedServer(tmp_path, start_timeout_s=0.3).start()
        finally:
            os.kill(server.pid, signal.SIGCONT)


def test_reading_the_data_directory_of_a_dead_starter_needs_nothing_but_the_directory(tmp_path: Path) -> None:
    process = starter(tmp_path)
    pid = int(process.communicate()[0].split()[0])
    with contextlib.closing(client_of(_attached(tmp_path))) as client:
        assert client.info("server")["process_id"] == pid
    EmbeddedServer(tmp_path).stop()


def _attached(directory: Path) -> EmbeddedServer:
    server = EmbeddedServer(directory)
    assert not server.start()
    return server
