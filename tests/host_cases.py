"""A world host in one process: a clock that only sleeping moves, a store that can fall silent, a replay that checks."""

from collections.abc import Sequence

from actors.host_config import WorldHostConfig
from actors.ports import Inserted, PeerLost
from actors.world_host import WorldHost
from learner.limiter import LimiterConfig, RateLimiter
from learner.weights import WeightSet, flatten
from tests.model_cases import homestead_rows, small_config, stirred_model
from world.errors import LivingWorldsError, StoreUnavailable
from world.live import fork_dream
from world.snapshot import Snapshot, WorldId
from world.store.in_process import InProcessWorldStore
from world.store.records import Ack, Commit, FencingToken, WorldRecord
from world.tick import TickConfig, Ticker
from world.trajectory import Chunk

ENV = "homestead:16x16x2"
NUM_AGENTS = 2
MEMORY_SIZE = 4


class Clock:
    """Time that passes when somebody sleeps, and a little whenever somebody looks."""

    def __init__(self, look_s: float = 0.0005) -> None:
        self.now, self._look_s = 100.0, look_s

    def __call__(self) -> float:
        """Return the time."""
        self.now += self._look_s
        return self.now

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.now += seconds


class ShakyStore(InProcessWorldStore):
    """A store whose next calls can be made to fail, before or after they took effect."""

    def __init__(self, clock: Clock, *, capacity_bytes: int | None = None) -> None:
        super().__init__(lease_s=10.0, clock=clock, capacity_bytes=capacity_bytes)
        self.silent_before = 0
        """So many commits never reach the server."""
        self.silent_after = 0
        """So many commits take effect, but their answer is lost."""
        self.unreleased = 0
        """So many times a lease was to be ended, and the server did not answer."""
        self.releases_answered = True
        self.sent: list[list[Commit]] = []
        self.acks: list[Ack] = []

    def commit(self, commits: Sequence[Commit]) -> list[Ack | Exception]:
        """As the store, or not."""
        self.sent.append(list(commits))
        if self.silent_before:
            self.silent_before -= 1
            raise StoreUnavailable("no answer")
        answers = super().commit(commits)
        if self.silent_after:
            self.silent_after -= 1
            raise StoreUnavailable("the answer was lost")
        self.acks += [answer for answer in answers if isinstance(answer, Ack)]
        return answers

    def release(self, token: FencingToken) -> None:
        """As the store, or not."""
        if not self.releases_answered:
            self.unreleased += 1
            raise StoreUnavailable("no answer")
        super().release(token)


class Done:
    """An answer that is there at once."""

    def __init__(self, answer: object) -> None:
        self._answer = answer

    def done(self) -> bool:
        """It is."""
        return True

    def result(self) -> object:
        """Return or raise it."""
        if isinstance(self._answer, BaseException):
            raise self._answer
        return self._answer


class Pending(Done):
    """An answer that comes when it is let."""

    def __init__(self, answer: object) -> None:
        super().__init__(answer)
        self.arrived = False

    def done(self) -> bool:
        """Whether it was let."""
        return self.arrived


class CheckingSink:
    """Replay that refuses to be told of a tick before the store has it."""

    def __init__(self, store: InProcessWorldStore) -> None:
        self._store = store
        self.chunks: list[Chunk] = []
        self.refusals: list[LivingWorldsError] = []
        """What the next chunks are answered with."""
        self.slow = False
        """Answers do not come by themselves."""
        self.under_way: list[Pending] = []

    def insert(self, chunk: Chunk) -> Done:
        """Take a chunk."""
        end = chunk.first_tick + len(chunk.transitions)
        assert self._store.record(chunk.world).tick >= end, "a tick was published before it was committed"
        if self.refusals:
            return Done(self.refusals.pop(0))
        self.chunks.append(chunk)
        answer = Pending(Inserted(chunk.num_items, 0))
        answer.arrived = not self.slow
        self.under_way.append(answer)
        return answer

    def rows_of(self, world: WorldId) -> list[int]:
        """Return the ticks that rows of a world lead from, in order of arrival."""
        return [
            chunk.first_tick + row
            for chunk in self.chunks
            if chunk.world == world
            for row in range(len(chunk.transitions))
        ]

    @property
    def items(self) -> int:
        """Agent-ticks taken."""
        return sum(chunk.num_items for chunk in self.chunks)


class SettlingLimiter(RateLimiter):
    """A limiter that notes what is settled."""

    settled = 0

    def settle_inserts(self, num_items: int) -> None:
        """Note it."""
        self.settled += num_items


class Mailbox:
    """A weight store that has what was put in it."""

    def __init__(self) -> None:
        self.weights: WeightSet | None = None

    def put(self, version: int, *, epoch: int = 1) -> None:
        """Publish weights of this version."""
        spec, tokenizer, _ = homestead_rows()
        model = stirred_model(spec, tokenizer.vocab_size, seed=version)
        self.weights = flatten(model.state_dict(), epoch=epoch, version=version)

    def poll(self, newer_than: tuple[int, int]) -> WeightSet | None:
        """Return them if they are newer."""
        return self.weights if self.weights is not None and self.weights.order > newer_than else None


class Neighbourhood:
    """A store with worlds, and hosts that may be made, forgotten (killed) and made again."""

    def __init__(
        self, *, num_worlds: int = 2, limiter: LimiterConfig | None = None, capacity_bytes: int | None = None
    ) -> None:
        self.clock = Clock()
        self.store = ShakyStore(self.clock, capacity_bytes=capacity_bytes)
        self.sink = CheckingSink(self.store)
        self.limiter = SettlingLimiter(
            limiter or LimiterConfig(samples_per_insert=1.0, min_items=10**6, max_ahead_items=10**6)
        )
        self.mailbox = Mailbox()
        self.worlds = [WorldId(f"w{index}") for index in range(num_worlds)]
        spec, self.tokenizer, _ = homestead_rows()
        self.spec = spec
        for index, world in enumerate(self.worlds):
            empty = Snapshot.empty("grounded", index, spec.layout, NUM_AGENTS, MEMORY_SIZE)
            self.store.create(self._record(world, empty), empty)

    def host(self, name: str = "host-0", **changes: object) -> WorldHost:
        """Return a new host process, with nothing in memory."""
        settings: dict[str, object] = {"chunk_ticks": 8, "credit_items": 8, "dream_ticks_per_s": 20.0}
        return WorldHost(
            name,
            config=WorldHostConfig(**(settings | changes)),  # type: ignore[arg-type]
            store=self.store,
            sink=self.sink,  # type: ignore[arg-type]
            limiter=self.limiter,
            weights=self.mailbox,
            ticker=Ticker(self.spec, self.tokenizer, TickConfig(), small_config(memory_size=MEMORY_SIZE)),
            inbox=self.store.inbox(),
            memory_shape=(NUM_AGENTS, MEMORY_SIZE),
            clock=self.clock,
            sleep=self.clock.sleep,
        )

    def fork(self, parent: WorldId, child: str) -> WorldId:
        """Make a dreamed world."""
        _, snapshot, effects = self.store.load(parent)
        for tick in effects:
            snapshot.apply(tick)
        dream = fork_dream(snapshot, 77)
        self.store.create(self._record(WorldId(child), dream), dream)
        return WorldId(child)

    def stranger(self, world: str, *, num_agents: int = NUM_AGENTS, memory_size: int = MEMORY_SIZE) -> WorldId:
        """Make a grounded world as a run with other agents, or another model, would."""
        empty = Snapshot.empty("grounded", 0, self.spec.layout, num_agents, memory_size)
        self.store.create(self._record(WorldId(world), empty), empty)
        return WorldId(world)

    def tick_of(self, world: WorldId) -> int:
        """Return the committed tick."""
        return self.store.record(world).tick

    def _record(self, world: WorldId, snapshot: Snapshot) -> WorldRecord:
        return WorldRecord(
            world=world,
            name=world,
            kind=snapshot.kind,
            env=ENV,
            agents=len(snapshot.poses),
            tick=snapshot.tick,
            status="running",
            owner="",
            epoch=0,
            weights_version=0,
            tokenizer=self.tokenizer.digest,
        )


LOST = PeerLost("the shard died")
