"""One run, from an empty folder or from where it was left, to its summary: the composition of everything."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TextIO

from rich.console import Console

from cluster.archiving import archiving
from cluster.config import RunConfig
from cluster.console import RunConsole, summary_table
from cluster.fleet import RayFleet
from cluster.guests import Guests
from cluster.interruption import Interruption
from cluster.launch import note_leavings, ray_cluster
from cluster.metrics import PrometheusObserver
from cluster.metrics_file import MetricsFile
from cluster.pictures import save_curves, save_map_and_dream
from cluster.presets import of_env, preset
from cluster.resume import newest_manifest, rewind_replay
from cluster.run_folder import RunFolder, continued
from cluster.status import RunStatus, StatusBoard
from cluster.store_watch import InBackground
from cluster.supervisor import Supervisor
from cluster.warm_up import warm_up
from cluster.worlds import fork_world, is_there, plan_worlds, settle_worlds
from learner.checkpoint import Manifest
from learner.limiter import LimiterState
from learner.start import NOTHING, bring, gently
from learner.weights import WeightStore
from world.envs.catalog import make_env
from world.envs.grounded import EnvSpec
from world.errors import LivingWorldsError
from world.model.tokenizer_files import load_tokenizer
from world.snapshot import WorldId
from world.store.link import PATIENCE_S, PROMPTLY_S
from world.store.redis_store import RedisWorldStore
from world.store.server import shared_server
from world.warmup import TOKENIZER_FILE

_DEFAULT_PRESET = "homestead-tiny"
_SHOW_EVERY_S = 0.5
_WRITE_EVERY_S = 1.0


@dataclass(frozen=True, kw_only=True, slots=True)
class RunRequest:
    """What a person asked for; None: not said."""

    run_dir: Path
    minutes: float
    preset: str | None = None
    env: str | None = None
    seed: int | None = None
    redis_url: str | None = None
    address: str | None = None
    start_from: str | None = None


@dataclass(frozen=True, kw_only=True, slots=True)
class RunSummary:
    """What a run came to."""

    run_dir: str
    status: RunStatus
    checkpoint: str | None
    go_on: str
    """The command that continues it."""
    samples_per_insert: float
    """What was asked for."""

    def as_json(self) -> dict[str, object]:
        """Return plain values; what is not a number is null."""
        return {**asdict(self), "status": self.status.as_json()}


def run(request: RunRequest, out: TextIO) -> RunSummary:
    """Run for the asked time, or until interrupted, and leave everything so that it can go on.

    Raises the `LivingWorldsError` that kept it from beginning or ended it; it has then stopped in order all the same.
    """
    if not request.minutes > 0:
        raise LivingWorldsError(f"--minutes must be > 0, got {request.minutes:g}")
    with ExitStack() as stack:
        interruption = stack.enter_context(Interruption())
        folder = stack.enter_context(closing(RunFolder.open(request.run_dir)))
        stored = folder.stored()
        config = _continued(stored[1], request) if stored else _new(request)
        folder.check_space()
        spec = make_env(config.env, num_agents=config.num_agents).spec
        if not stored and config.start_from != NOTHING:
            step = bring(config.start_from, folder.start, folder.warmup, config.model, spec)
            config = replace(config, learner=gently(config.learner, step))
        manifest = newest_manifest(folder.checkpoints)
        server = stack.enter_context(_store_server(config, folder))
        store = stack.enter_context(closing(_connected(server, config, PATIENCE_S)))
        asked = stack.enter_context(closing(_connected(server, config, PROMPTLY_S)))
        run_id = stored[0] if stored else folder.begin(config)
        console = stack.enter_context(
            RunConsole(out, minutes=request.minutes, samples_per_insert=config.limiter.samples_per_insert)
        )
        namespace = f"worlds-{run_id[:12]}"
        console.say(f"{'going on with' if stored else 'beginning'} {folder.path}: {config.preset}, {config.env}")
        cluster = stack.enter_context(
            ray_cluster(
                address=config.address,
                namespace=namespace,
                num_cpus=RayFleet.num_cpus(config),
                dashboard=config.dashboard,
                leavings=folder.leavings,
            )
        )
        # Ray catches SIGTERM for itself when it is joined.
        interruption.install()
        if cluster.dashboard:
            console.say(f"Ray's dashboard: {cluster.dashboard} (token {cluster.token or 'not needed'})")
        warm_up(config, folder.warmup, console.progress)
        course = _Course(config, folder, run_id, spec, store, asked, server, console, namespace)
        stack.callback(course.fleet.remove_all)
        course.begin(manifest)
        stack.enter_context(archiving(server.url, folder.archive, course.archived_worlds, course.note))
        interruption.patient = True
        try:
            course.go_on(60 * request.minutes, interruption)
        except BaseException:
            # What ended the run is told, not what it kept from stopping well.
            with suppress(LivingWorldsError):
                course.end()
            raise
        course.end()
        return course.summary()


@dataclass(slots=True)
class _Server:
    """The store's server: its URL, and how to bring it back if it is ours."""

    url: str
    ensure: Callable[[], bool | None]


class _Course:
    """A run while it goes on."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        run_id: str,
        spec: EnvSpec,
        store: RedisWorldStore,
        asked: RedisWorldStore,
        server: _Server,
        console: RunConsole,
        namespace: str,
    ) -> None:
        """Take two connections to the store: a patient one, and one for while the run goes on."""
        self._config, self._folder, self._spec = config, folder, spec
        self._store, self._asked, self._server, self._console = store, asked, server, console
        self._grounded, self._dreamed = plan_worlds(config, run_id)
        self._tokenizer = load_tokenizer(folder.warmup / TOKENIZER_FILE)
        self._metrics = MetricsFile(folder.metrics)
        self.fleet = RayFleet(config, folder, num_agents=len(spec.agents), namespace=namespace, redis_url=server.url)

    def begin(self, manifest: Manifest | None) -> None:
        """Place every process, bring replay to the checkpoint's moment, and make the worlds that are not there."""
        config, folder = self._config, self._folder
        self.fleet.remove_all()
        rewind_replay(manifest, config.replay, folder.replay, config.shards)
        self._console.say("placing processes")
        self.fleet.place(config.supervisor.placement_within_s)
        note_leavings(folder.leavings)
        counted = manifest.limiter if manifest is not None else self._held()
        self.fleet.load_limiter(counted)
        settle_worlds(
            self._store,
            self._grounded,
            ledger=folder.worlds,
            env=config.env,
            spec=self._spec,
            memory_size=config.model.memory_size,
            tokenizer=self._tokenizer.digest,
        )
        forked = [dream for dream in self._dreamed if is_there(self._store, dream)]
        self._board = StatusBoard(
            grounded=[planned.world for planned in self._grounded],
            dreamed=[planned.world for planned in self._dreamed],
            counted_before=counted,
        )
        self._supervisor = Supervisor(
            config.supervisor,
            fleet=self.fleet,
            hosts=config.hosts,
            shards=config.shards,
            worlds=[planned.world for planned in (*self._grounded, *forked)],
            dreams=[dream for dream in self._dreamed if dream not in forked],
            fork=lambda dream: fork_world(self._asked, dream),
            ensure_store=self._server.ensure,
            observers=(self._board, PrometheusObserver()),
            wished_places=self._asked.places().wished,
            newcomers=Guests(
                lambda: self._asked.records(damaged=[]),
                env=config.env,
                tokenizer=self._tokenizer.digest,
                descendants_only=bool(config.redis_url),
            ).newcomers,
        )

    def go_on(self, seconds: float, interruption: Interruption) -> None:
        """Take turns until the time is over or somebody asks to stop."""
        ends_at = time.monotonic() + seconds
        show_at = write_at = 0.0
        restarts = 0
        while not interruption.requested and (now := time.monotonic()) < ends_at:
            self._supervisor.step()
            if now < min(show_at, write_at):
                continue
            status = self._board.status()
            if now >= show_at:
                self._console.show(status, self._board.events)
                show_at = now + _SHOW_EVERY_S
            if now >= write_at:
                self._metrics.append(status)
                write_at = now + _WRITE_EVERY_S
            if status.restarts != restarts:
                restarts = status.restarts
                note_leavings(self._folder.leavings)

    def archived_worlds(self, store: RedisWorldStore) -> list[WorldId]:
        """Return the worlds whose history is ours to archive: on our own server all, on another those we host."""
        if self._config.redis_url:
            return self._supervisor.worlds
        return [record.world for record in store.records(damaged=[])]

    def note(self, text: str) -> None:
        """Let a person know; from any thread."""
        self._board.event(text)

    def end(self) -> None:
        """Stop every process in order, and draw the pictures."""
        self._console.say("stopping: worlds are committed, weights are saved")
        living = self._board.status()
        try:
            self._supervisor.stop()
        finally:
            # Worlds and rates are those of the last moment before: a stopped run has none.
            stopped = self._board.status()
            self._final = replace(
                stopped,
                grounded_worlds=living.grounded_worlds,
                dreamed_worlds=living.dreamed_worlds,
                agents=living.agents,
                agent_ticks_per_s=living.agent_ticks_per_s,
                steps_per_s=living.steps_per_s,
                policy_lag=living.policy_lag,
            )
            self._console.show(self._final, self._board.events)
        self._metrics.append(self._final)
        self._draw()

    def summary(self) -> RunSummary:
        """Return what it came to."""
        saved = sorted(path for path in self._folder.checkpoints.glob("step-*") if path.is_dir() and not path.suffix)
        return RunSummary(
            run_dir=str(self._folder.path),
            status=self._final,
            checkpoint=str(saved[-1]) if saved else None,
            go_on=f"worlds run --run-dir {self._folder.path}",
            samples_per_insert=self._config.limiter.samples_per_insert,
        )

    def _held(self) -> LimiterState:
        """Return the counts of a run without a checkpoint: what replay holds was inserted, and nothing was learned."""
        reports = [self.fleet.shard_report(shard) for shard in self._config.shards]
        return LimiterState(inserts=sum(report.result().stats.items for report in reports), samples=0)

    def _draw(self) -> None:
        path, worlds = self._folder.path, [planned.world for planned in self._grounded]
        save_curves(self._folder.metrics, path / "curves.png")
        weights = WeightStore(self._folder.weights).newest()
        if not save_map_and_dream(self._store, worlds, self._tokenizer, weights, self._config, path):
            self._console.say("no map and no dream are drawn: every grounded world was deleted, or is damaged")


def print_summary(summary: RunSummary, out: TextIO) -> None:
    """Print what a run came to, what it left, and how to go on."""
    console, run_dir = Console(file=out, highlight=False, soft_wrap=True), Path(summary.run_dir)
    console.print(summary_table(summary.status, summary.samples_per_insert))
    left = [name for name in ("metrics.jsonl", "curves.png", "dream.gif", "map.png") if (run_dir / name).exists()]
    console.print(f"left in {run_dir}: {', '.join(left)}")
    console.print(f"checkpoint: {summary.checkpoint or 'none yet'}")
    console.print(f"to go on: {summary.go_on}")


def _new(request: RunRequest) -> RunConfig:
    config = preset(request.preset or _DEFAULT_PRESET)
    if request.env is not None:
        config = of_env(config, request.env)
    names = ("seed", "redis_url", "address", "start_from")
    return replace(config, **{name: value for name in names if (value := getattr(request, name)) is not None})


def _continued(stored: RunConfig, request: RunRequest) -> RunConfig:
    return continued(
        stored,
        preset=request.preset,
        env=request.env,
        seed=request.seed,
        redis_url=request.redis_url,
        address=request.address,
        start_from=request.start_from,
    )


def _connected(server: _Server, config: RunConfig, timeout_s: float) -> RedisWorldStore:
    return RedisWorldStore.connect(
        server.url, durability=config.durability, lease_s=config.host.lease_s, timeout_s=timeout_s
    )


@contextmanager
def _store_server(config: RunConfig, folder: RunFolder) -> Iterator[_Server]:
    """Yield the server that was asked for, or the embedded one, which whoever uses it last stops."""
    if config.redis_url:
        yield _Server(config.redis_url, lambda: False)
        return
    with shared_server(folder.redis, config.durability) as embedded:
        yield _Server(embedded.url, InBackground(embedded.ensure))
