"""Recording: grounded worlds live under their data policies, and every tick goes into one replay shard on disk.

The shard is what a learner trains from without Ray or Redis. A recording that was interrupted goes on with the worlds
that are not finished.
"""

from collections.abc import Callable, Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from learner.recorders import Recorders
from learner.replay import ReplayConfig, ReplayShard
from world.durable import write_file
from world.envs.catalog import DEFAULT_POLICY
from world.errors import ConfigError, ReplayError
from world.live import begin
from world.model.tokenizer import Tokenizer
from world.model.world_model import WorldModelConfig
from world.snapshot import WorldId
from world.tick import TickConfig, Ticker
from world.trajectory import Chunk, ChunkBuilder

SEGMENTS = "segments"
_LEDGER_FILE = "recording.json"
_SEED_STRIDE = 1_000_003
_EPOCH = 1
_WHAT = "recording worlds"

Progress = Callable[[str, float], None]


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordingConfig:
    """How much is recorded."""

    num_worlds: int = 64
    """Worlds, each of a seed of its own."""
    world_ticks: int = 2_000
    """Ticks of each world that are recorded, resets included."""
    most_lived_ticks: int = 0
    """Ticks that the last world lives before it is recorded; the first none, those between by the cube of their number.
    So what was not seen for long is met again, without recording all that happened meanwhile; and most worlds are young
    still, with land in them that nobody has seen."""
    policies: tuple[str, ...] = (DEFAULT_POLICY,)
    """Data policies by which worlds are lived in, in turn: more that do what is seldom done, where much follows from
    it."""
    event_rate: float = 0.05
    """World events a tick, in environments that have any: more than befall a world that people live in, so that
    the rare ones are met."""
    chunk_ticks: int = 500
    """Ticks of a chunk: sequences, and what memory is run over before them, lie within one."""
    worlds_at_once: int = 8
    """Worlds that live at one time: what an interrupted recording repeats at most."""
    num_processes: int = 1
    """Processes in which they live; more than one for environments that are slow."""
    budget_bytes: int = 3 << 29
    """Memory of the ring that holds all of it while it is trained from."""

    def __post_init__(self) -> None:
        for name in ("num_worlds", "chunk_ticks", "worlds_at_once", "num_processes", "budget_bytes"):
            if getattr(self, name) < 1:
                raise ConfigError(f"recording.{name} must be >= 1, got {getattr(self, name)}")
        if not self.policies:
            raise ConfigError("recording.policies must name at least one")
        if self.most_lived_ticks < 0:
            raise ConfigError(f"recording.most_lived_ticks must be >= 0, got {self.most_lived_ticks}")
        if not 0.0 <= self.event_rate <= 1.0:
            raise ConfigError(f"recording.event_rate must lie in [0, 1], got {self.event_rate}")
        if self.world_ticks <= self.chunk_ticks:
            raise ConfigError(
                f"recording.world_ticks must be > chunk_ticks = {self.chunk_ticks}, got {self.world_ticks}"
            )

    def lived_ticks(self, index: int) -> int:
        """Return how many ticks world number `index` lives before it is recorded."""
        return self.most_lived_ticks * index**3 // max(self.num_worlds - 1, 1) ** 3

    def policy(self, index: int) -> str:
        """Return by which data policy agents of world number `index` live."""
        return self.policies[index % len(self.policies)]

    def replay(self) -> ReplayConfig:
        """Return the configuration of its shard: every row is as likely to be drawn as any other."""
        return ReplayConfig(budget_bytes=self.budget_bytes, chunk_ticks=self.chunk_ticks, recent=0.0)


@dataclass(frozen=True, kw_only=True, slots=True)
class RecordedWorlds:
    """Whose lives are recorded."""

    env: str
    """As given to `make_env`."""
    num_agents: int | None
    """None: as many as the environment has."""
    seed: int
    """From which the seeds of all worlds follow."""
    tokenizer: str
    """Digest of the tokenizer through which they were seen."""
    memory_size: int
    """Components of recurrent memory; they are zero, since nobody's weights were there."""
    tick: TickConfig
    """How they were advanced."""


@dataclass(frozen=True, slots=True)
class _Ledger:
    """What is known of a recording, kept beside its segments."""

    worlds: RecordedWorlds
    config: RecordingConfig
    num_finished: int = 0


_Task = tuple[int, RecordedWorlds, RecordingConfig, Tokenizer]
"""Which world is to live, and how."""


@contextmanager
def recorded(
    directory: Path,
    worlds: RecordedWorlds,
    config: RecordingConfig,
    *,
    tokenizer: Tokenizer,
    seed: int = 0,
    progress: Progress,
) -> Iterator[ReplayShard]:
    """Record in a directory whatever is not there yet, and hold the shard of all of it, whose draws are by `seed`.

    Raises `ConfigError` where something else was recorded in the directory, before anything of it is read, or the shard
    cannot hold all of it.
    """
    ledger = _ledger(directory, worlds, config)
    with closing(ReplayShard(config.replay(), directory / SEGMENTS, seed=seed)) as shard:
        _record_rest(directory, ledger, worlds, config, shard, tokenizer, progress)
        yield shard


def _record_rest(
    directory: Path,
    ledger: _Ledger,
    worlds: RecordedWorlds,
    config: RecordingConfig,
    shard: ReplayShard,
    tokenizer: Tokenizer,
    progress: Progress,
) -> None:
    left = range(ledger.num_finished, config.num_worlds)
    source = _apart if config.num_processes > 1 else _together
    with closing(source(left, worlds, config, tokenizer, progress)) as groups:
        for chunks in groups if left else ():
            for chunk in chunks:
                shard.insert(chunk)
            _check_room(shard, config)
            shard.state()  # Durable, before the ledger says so.
            finished = min(ledger.num_finished + config.worlds_at_once, config.num_worlds)
            ledger = replace(ledger, num_finished=finished)
            write_file(directory / _LEDGER_FILE, msgspec.json.encode(ledger))
    _check_held(shard, config)


def _groups(left: range, config: RecordingConfig) -> list[range]:
    """Return the worlds that are left in groups that live at one time."""
    return [left[first : first + config.worlds_at_once] for first in range(0, len(left), config.worlds_at_once)]


def _together(
    left: range, of: RecordedWorlds, config: RecordingConfig, tokenizer: Tokenizer, progress: Progress
) -> Generator[Iterator[Chunk], None, None]:
    """Yield the lives of each group of worlds, which are lived as they are read."""
    for indices in _groups(left, config):

        def tell(done: float, indices: range = indices) -> None:
            progress(_WHAT, (indices.start + len(indices) * done) / config.num_worlds)

        yield _lives(indices, of, config, tokenizer, tell)


def _apart(
    left: range, of: RecordedWorlds, config: RecordingConfig, tokenizer: Tokenizer, progress: Progress
) -> Generator[Iterator[Chunk], None, None]:
    """Yield the same, each world lived in one of several processes."""
    with closing(Recorders(_life, config.num_processes)) as recorders:
        for indices in _groups(left, config):
            yield _told(indices, recorders, [(index, of, config, tokenizer) for index in indices], progress)


def _told(indices: range, recorders: Recorders[_Task], tasks: list[_Task], progress: Progress) -> Iterator[Chunk]:
    num_worlds = tasks[0][2].num_worlds
    progress(_WHAT, indices.start / num_worlds)
    for number, chunks in enumerate(recorders.lived(tasks), start=indices.start + 1):
        yield from chunks
        progress(_WHAT, number / num_worlds)


def _life(task: _Task) -> list[Chunk]:
    """Return the life of one world."""
    index, of, config, tokenizer = task
    return list(_lives(range(index, index + 1), of, config, tokenizer, lambda done: None))


def _lives(
    indices: range, of: RecordedWorlds, config: RecordingConfig, tokenizer: Tokenizer, tell: Callable[[float], None]
) -> Iterator[Chunk]:
    """Yield the chunks of worlds as they live beside each other; `tell` is told which share of their ticks is over."""
    begins = [config.lived_ticks(index) for index in indices]
    last = max(begins) + config.world_ticks
    worlds = [
        begin(
            WorldId(f"recorded-{of.seed}-{index}"),
            env_name=of.env,
            seed=of.seed * _SEED_STRIDE + index,
            memory_size=of.memory_size,
            num_agents=of.num_agents,
            policy=config.policy(index),
        )
        for index in indices
    ]
    assert worlds[0].env is not None
    ticker = Ticker(worlds[0].env.spec, tokenizer, of.tick, WorldModelConfig(memory_size=of.memory_size))
    builders = [ChunkBuilder(world.world, _EPOCH, config.chunk_ticks) for world in worlds]
    for number in range(last):
        tell(number / last)
        living = [i for i, begin_at in enumerate(begins) if number < begin_at + config.world_ticks]
        for i, ticked in zip(living, ticker.tick([worlds[i] for i in living]), strict=True):
            if number < begins[i] or ticked.row is None:
                continue
            chunk = builders[i].add(ticked.effects.tick - 1, ticked.row)
            if chunk is not None:
                yield chunk
    for builder in builders:
        if (rest := builder.flush()) is not None:
            yield rest


def _ledger(directory: Path, worlds: RecordedWorlds, config: RecordingConfig) -> _Ledger:
    path = directory / _LEDGER_FILE
    try:
        ledger = msgspec.json.decode(path.read_bytes(), type=_Ledger)
    except FileNotFoundError:
        return _Ledger(worlds, config)
    except (msgspec.DecodeError, ValueError) as error:
        raise ReplayError(f"{path}: cannot be read ({error}); delete the directory, and record anew") from error
    free = {name: getattr(config, name) for name in ("worlds_at_once", "num_processes", "budget_bytes")}
    # How worlds would be dreamed made no difference to them.
    held = replace(ledger.worlds, tick=replace(ledger.worlds.tick, dream=worlds.tick.dream))
    if held != worlds or replace(ledger.config, **free) != config:
        raise ConfigError(
            f"{directory}: holds {ledger.worlds} {ledger.config}, asked for {worlds} {config}; choose another --data"
        )
    return ledger


def _check_room(shard: ReplayShard, config: RecordingConfig) -> None:
    """Raises `ConfigError` early where memory will not hold all that is to be recorded."""
    stats = shard.stats()
    needed = stats.num_bytes // stats.worlds * config.num_worlds
    if needed > stats.budget_bytes:
        raise ConfigError(
            f"recording.budget_bytes must be >= {needed:,} for {config.num_worlds} worlds of {config.world_ticks}"
            f" ticks, got {stats.budget_bytes:,}"
        )


def _check_held(shard: ReplayShard, config: RecordingConfig) -> None:
    stats = shard.stats()
    if stats.worlds < config.num_worlds or stats.scanned.damaged_segments:
        raise ReplayError(
            f"{stats.worlds} of {config.num_worlds} recorded worlds could be read, {stats.scanned.lost_bytes:,} bytes"
            " were lost; delete the directory, and record anew"
        )
