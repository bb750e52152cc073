"""Everything that is exported to Prometheus, through Ray, under fixed names. Set in the driver, from reports.

Never tagged by world: there may be thousands. Ray puts `ray_` before every name and `_total` after a counter's.
"""

import math

from ray.util.metrics import Counter, Gauge, Histogram

from actors.ports import HostReport, LimiterReport, ShardReport, WeightsReport
from learner.loop import LearnerReport
from world.store.records import WorldRecord

_SECONDS = [0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0]


class PrometheusObserver:
    """An observer that exports what is reported."""

    def __init__(self) -> None:
        self._world_ticks = Counter("wm_world_ticks", "Agent-ticks acknowledged.", ("kind",))
        self._worlds_live = Gauge("wm_worlds_live", "Worlds hosted now.", ("host",))
        self._agents_live = Gauge("wm_agents_live", "Agents of the worlds hosted now.", ("host",))
        self._commit_bytes = Counter("wm_commit_bytes", "Effects of acknowledged ticks, before they are encoded.")
        self._tick_s = Histogram("wm_tick_seconds", "One batched tick of a host.", _SECONDS)
        self._commit_s = Histogram("wm_commit_seconds", "One group commit.", _SECONDS)
        self._lost = Counter("wm_lease_lost", "Worlds that a host let go of.", ("error",))
        self._fenced = Counter("wm_fenced_writes", "Commits refused because another owns the world.")
        self._redis_s = Counter("wm_redis_seconds", "Time in which the store did not answer.")
        self._starved_s = Counter("wm_starved_seconds", "Time in which grounded worlds waited for credit.")
        self._replay_bytes = Gauge("wm_replay_bytes", "Memory of chunks held.", ("shard",))
        self._replay = {
            name: Counter(f"wm_replay_{name}", f"Agent-ticks: {name}.", ("shard",))
            for name in ("inserts", "samples", "evictions", "duplicates", "dropped")
        }
        self._limiter_error = Gauge("wm_limiter_error", "Items still to be sampled for the ratio to be exact.")
        self._spi_actual = Gauge("wm_spi_actual", "Samples per insert granted so far.")
        self._sample_age_s = Gauge("wm_sample_age_seconds", "Age of the oldest chunk that may be sampled.", ("shard",))
        self._policy_lag = Gauge("wm_policy_lag_versions", "Versions by which a host's weights are behind.", ("host",))
        self._steps = Counter("wm_learner_steps", "Gradient updates.")
        self._step_s = Histogram("wm_learner_step_seconds", "One gradient update.", _SECONDS)
        self._data_wait_s = Counter("wm_learner_data_wait_seconds", "Time in which the learner waited for a batch.")
        self._loss = Gauge("wm_learner_loss", "Mean loss since the last report.")
        self._grad_norm = Gauge("wm_learner_grad_norm", "Gradient norm before clipping.")
        self._nonfinite = Counter("wm_learner_nonfinite", "Steps left out because a gradient was no number.")
        self._quality = Gauge("wm_quality", "A metric on held-out worlds.", ("metric", "row"))
        self._weight_version = Gauge("wm_weight_version", "Version of the weights published last.")
        self._restarts = Counter("wm_actor_restarts", "Processes that were restarted.", ("actor",))
        self._version = 0
        self._counted: dict[str, tuple[int, dict[str, int]]] = {}

    def host(self, report: HostReport) -> None:
        """A host reported."""
        host = {"host": report.host}
        _add(self._world_ticks, report.grounded_agent_ticks, {"kind": "grounded"})
        _add(self._world_ticks, report.dreamed_agent_ticks, {"kind": "dreamed"})
        self._worlds_live.set(len(report.ticks), host)
        self._agents_live.set(report.num_agents, host)
        _add(self._commit_bytes, report.commit_bytes)
        for seconds in report.tick_s:
            self._tick_s.observe(seconds)
        for seconds in report.commit_s:
            self._commit_s.observe(seconds)
        for lost in report.lost:
            self._lost.inc(1, {"error": lost.error})
            _add(self._fenced, int(lost.error == "Fenced"))
        _add(self._redis_s, report.store_away_s)
        _add(self._starved_s, report.starved_s)
        self._policy_lag.set(max(self._version - report.weights[1], 0), host)

    def learner(self, report: LearnerReport) -> None:
        """The learner reported."""
        _add(self._steps, report.steps)
        for seconds in report.step_s:
            self._step_s.observe(seconds)
        _add(self._data_wait_s, report.data_wait_s)
        _add(self._nonfinite, report.nonfinite)
        if not math.isnan(report.loss):
            self._loss.set(report.loss)
        if not math.isnan(report.grad_norm):
            self._grad_norm.set(report.grad_norm)
        if report.evaluation is not None:
            for name, row in report.evaluation.metrics.items():
                self._quality.set(row.value, {"metric": name, "row": "ours"})
                for baseline in ("copy_last", "no_memory", "oracle", "ceiling"):
                    if (value := getattr(row, baseline)) is not None:
                        self._quality.set(value, {"metric": name, "row": baseline})

    def shard(self, name: str, report: ShardReport) -> None:
        """A shard reported. Its counts begin anew with its process; ours go on."""
        tags, stats = {"shard": name}, report.stats
        self._replay_bytes.set(stats.num_bytes, tags)
        self._sample_age_s.set(stats.oldest_age_s, tags)
        now = {counted: int(getattr(stats, counted)) for counted in self._replay}
        pid, before = self._counted.get(name, (report.pid, {}))
        for counted, amount in now.items():
            _add(self._replay[counted], amount - (before.get(counted, 0) if pid == report.pid else 0), tags)
        self._counted[name] = (report.pid, now)

    def limiter(self, report: LimiterReport) -> None:
        """The limiter reported."""
        self._limiter_error.set(report.error)
        if report.inserts:
            self._spi_actual.set(report.samples / report.inserts)

    def weights(self, report: WeightsReport) -> None:
        """The weight store reported."""
        self._version = report.newest[1]
        self._weight_version.set(self._version)

    def restarted(self, name: str) -> None:
        """Another process answers under this name."""
        self._restarts.inc(1, {"actor": name})

    def welcomed(self, record: WorldRecord) -> None:
        """Its host will report it."""

    def event(self, text: str) -> None:
        """Events are for people."""


def _add(counter: Counter, amount: float, tags: dict[str, str] | None = None) -> None:
    # Ray refuses an increment of nothing.
    if amount > 0:
        counter.inc(amount, tags or {})
