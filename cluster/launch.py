"""Starts what a run stands on: a local Ray or an existing one. Environment variables are read and set here only.

Ray reads many of them when it is imported, so it is imported inside the functions, after they are set.
"""

import contextlib
import logging
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import msgspec

from world.durable import write_file
from world.errors import DiskFull, LivingWorldsError

_THREADS = {
    # Threads that spin while they wait for each other take the cores from the other processes of a run: a learner on
    # two threads of two shared cores made 0.3 steps a second, 4 with this.
    "OMP_WAIT_POLICY": "PASSIVE",
}
_ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    **_THREADS,
}
_AUTH_MODE, _AUTH_TOKEN = "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"
_OBJECT_STORE_BYTES = 512 << 20
_KILLED_WITHIN_S = 5.0
_ANSWERS_WITHIN_S = 20.0
_SHORT, _SCRATCH_PREFIX = "/tmp", "worlds-ray-"


def set_environment(address: str) -> None:
    """Set what Ray reads when it is imported; what a person has set already stays.

    The auth mode is always said: left open, Ray may choose a token of its own, and refuse later nodes that lack it. A
    local cluster listens on every interface, so it has a token that nobody else knows; an existing one is joined
    without, unless the environment says otherwise.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ.pop("RAY_ADDRESS", None)
    os.environ.setdefault(_AUTH_MODE, "disabled" if address else "token")
    if not address and os.environ[_AUTH_MODE] == "token":
        os.environ.setdefault(_AUTH_TOKEN, secrets.token_hex(32))


@dataclass(frozen=True, slots=True)
class RayCluster:
    """The cluster that was joined."""

    dashboard: str = ""
    """URL, where there is one of ours."""
    token: str = ""
    """What the dashboard asks for."""


@contextlib.contextmanager
def ray_cluster(
    *, address: str, namespace: str, num_cpus: float, dashboard: bool, leavings: Path
) -> Iterator[RayCluster]:
    """Join the cluster at `address`, or run a local one for as long as the block.

    `leavings` is where the local cluster's processes and scratch folder are written down, so that a later command can
    remove what a killed one left behind. `set_environment` comes before. Raises `LivingWorldsError` if the cluster
    cannot be joined.
    """
    remove_leavings(leavings)
    import ray

    # Ray prints its own account of every killed worker on the driver's stdout; ours is in the events.
    ray._private.worker._worker_logs_enabled = False
    if address:
        with _joined(address, namespace):
            yield RayCluster()
        return
    # Sockets lie in it, whose paths may have 107 bytes. Ray opens its own folder to everybody, so it is one within.
    scratch = tempfile.mkdtemp(prefix=_SCRATCH_PREFIX, dir=_SHORT if Path(_SHORT).is_dir() else None)
    note_leavings(leavings, scratch)
    try:
        context = ray.init(
            address="local",
            namespace=namespace,
            num_cpus=max(os.cpu_count() or 1, int(num_cpus)),
            include_dashboard=dashboard,
            dashboard_host="127.0.0.1",
            object_store_memory=_OBJECT_STORE_BYTES,
            log_to_driver=False,
            logging_level=logging.ERROR,
            _temp_dir=f"{scratch}/ray",
        )
        note_leavings(leavings, scratch)
    except RuntimeError as error:
        remove_leavings(leavings)
        raise LivingWorldsError(f"a local Ray cluster did not start: {error}") from error
    try:
        url = f"http://{context.dashboard_url}" if context.dashboard_url else ""
        yield RayCluster(url, os.environ.get(_AUTH_TOKEN, ""))
    finally:
        with contextlib.suppress(DiskFull):
            note_leavings(leavings, scratch)
        ray.shutdown()
        remove_leavings(leavings)


@contextlib.contextmanager
def _joined(address: str, namespace: str) -> Iterator[None]:
    import ray

    _check_cluster(address)
    try:
        ray.init(
            address=address,
            namespace=namespace,
            runtime_env={"env_vars": _THREADS},
            log_to_driver=False,
            logging_level=logging.ERROR,
        )
    except (ConnectionError, RuntimeError) as error:
        raise LivingWorldsError(f"the Ray cluster at {address!r} cannot be joined: {error}") from error
    try:
        yield
    finally:
        ray.shutdown()


def _check_cluster(address: str) -> None:
    """Raises `LivingWorldsError` if no cluster answers: joining one that is not there takes Ray many minutes."""
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answers = subprocess.run(command, capture_output=True, timeout=_ANSWERS_WITHIN_S, check=False).returncode == 0
    except subprocess.TimeoutExpired:
        answers = False
    if not answers:
        raise LivingWorldsError(
            f"no Ray cluster answers at {address!r}; start one with: ray start --head, or leave --address out for a"
            " local one"
        )


@dataclass(frozen=True, slots=True)
class _Leavings:
    """What a killed command would leave behind."""

    scratch: str
    processes: list[tuple[int, int]]
    """Id, and the moment it began in ticks of the kernel's clock: ids are given out anew."""


def note_leavings(path: Path, scratch: str | None = None) -> None:
    """Write down every process of our session that descends from this one, and the scratch folder if there is one."""
    if scratch is None:
        scratch = _read_leavings(path).scratch
    children: dict[int, list[int]] = {}
    for pid in _all_pids():
        if (fields := _stat(pid)) is not None:
            children.setdefault(int(fields[1]), []).append(pid)
    found, waiting = [], [os.getpid()]
    while waiting:
        for pid in children.get(waiting.pop(), []):
            waiting.append(pid)
            # The embedded server descends from us too; it has a session of its own, and must outlive us.
            if (began := _began(pid)) is not None and _session(pid) == os.getsid(0):
                found.append((pid, began))
    write_file(path, msgspec.json.encode(_Leavings(scratch, found)))


def remove_leavings(path: Path) -> None:
    """End the noted processes that are still there, wait until they are gone, and remove their scratch folder."""
    noted = _read_leavings(path)
    left = [(pid, began) for pid, began in noted.processes if _began(pid) == began]
    for pid, _ in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + _KILLED_WITHIN_S
    while time.monotonic() < deadline and any(_began(pid) == began for pid, began in left):
        time.sleep(0.02)
    if Path(noted.scratch).name.startswith(_SCRATCH_PREFIX):
        shutil.rmtree(noted.scratch, ignore_errors=True)
    path.unlink(missing_ok=True)


def _read_leavings(path: Path) -> _Leavings:
    try:
        return msgspec.json.decode(path.read_bytes(), type=_Leavings)
    except (FileNotFoundError, msgspec.DecodeError):
        return _Leavings("", [])


def _all_pids() -> list[int]:
    proc = Path("/proc")
    return [int(entry.name) for entry in proc.iterdir() if entry.name.isdigit()] if proc.is_dir() else []


def _stat(pid: int) -> list[str] | None:
    """Return the fields of a process after its name: state, parent, …; None if it is gone, or only a zombie."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (OSError, IndexError):
        return None
    return None if fields[0] in "ZX" else fields


def _began(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[19]) if fields else None


def _session(pid: int) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None
