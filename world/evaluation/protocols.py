"""Whole protocols: what is played, at which size, and how it is scored.

A protocol that is interrupted is scored as far as it was played.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from world.errors import ConfigError, EnvironmentUnusable, StoreError
from world.evaluation.agreement import screen_scores
from world.evaluation.by_age import chance_gaps, homestead_chances, nll_by_age
from world.evaluation.codes import CodeTable
from world.evaluation.consistency import Consistency, consistency_scores
from world.evaluation.counterfactual import Effects, counterfactual_scores, equivalence_scores
from world.evaluation.crafter_limits import CrafterTruth, limit_scores
from world.evaluation.cross_agent import cross_agent_scores
from world.evaluation.events import event_scores
from world.evaluation.frontier import Finds, frontier_scores
from world.evaluation.homestead_laws import broken_laws
from world.evaluation.homestead_limits import rule_scores
from world.evaluation.invariants import agreement_scores, invariant_scores, joined
from world.evaluation.metrics import Scores, merged
from world.evaluation.one_step import Answers, ask, edit_scores
from world.evaluation.permanence import permanence_scores
from world.evaluation.plays.consistency import play_consistency
from world.evaluation.plays.forks import ForkPlay, play_counterfactuals, play_equivalence
from world.evaluation.plays.frontiers import play_frontiers
from world.evaluation.plays.prompts import PromptPlay, play_prompts
from world.evaluation.plays.recording import Recording, record_ticks
from world.evaluation.plays.returns import ReturnPlay, play_returns
from world.evaluation.plays.rollouts import RolloutPlay, play_rollouts
from world.evaluation.plays.stage import Progress, Stage
from world.evaluation.plays.visits import Revives, VisitPlay, play_visits
from world.evaluation.prompted import Prompted, prompt_scores
from world.evaluation.questions import question_scores
from world.evaluation.revisit import NO_TRUTH, Returns, revisit_scores
from world.evaluation.rollout import Rollouts, rollout_scores, worst_episodes
from world.evaluation.screens import dreamt_views, true_views
from world.field import UNSEEN, Uint16Array
from world.model.world_model import WorldModel
from world.trajectory import STAY, Transitions

PROTOCOLS = (
    "one-step",
    "questions",
    "agreement",
    "rollout",
    "frontier",
    "revisit",
    "cross-agent",
    "permanence",
    "counterfactual",
    "events",
    "invariants",
)
_SETTLED = 64
"""Ticks after which most of the land of a young world has been found."""
_WORST = 3


@dataclass(frozen=True, kw_only=True, slots=True)
class EvaluationConfig:
    """How much is played."""

    seeds: tuple[int, ...] = tuple(range(8))
    """Held-out worlds; cross-agent visits take three times as many, from the last of these on."""
    ticks: tuple[int, ...] = (1, 8, 64, 256)
    """Horizons of rollouts, and delays of revisits and visits, where 1 is no delay."""
    visit_ticks: tuple[int, ...] = (8, 64)
    """Delays of cross-agent visits: each costs two dreams of every world, warm, killed and without memory."""
    history: int = 300
    """Ticks that worlds live in truth before they are judged, where they are not to be young."""
    recorded_ticks: int = 160
    """Ticks of which every eighth is judged one step ahead; the other questions are of a world's first, 64 at most."""
    law_ticks: int = 64
    """Ticks of dreams in which broken laws are looked for."""
    num_pairs: int = 8
    """Pairs of forks of each world."""

    def __post_init__(self) -> None:
        for name in ("seeds", "ticks", "visit_ticks"):
            if not getattr(self, name):
                raise ConfigError(f"evaluation.{name} must name one at least")
        if min(self.ticks) < 1 or min(self.visit_ticks) < 8:
            raise ConfigError("evaluation.ticks must be >= 1, and delays of visits >= 8: nobody comes and goes sooner")
        for name in ("recorded_ticks", "law_ticks", "num_pairs"):
            if getattr(self, name) < 2:
                raise ConfigError(f"evaluation.{name} must be >= 2, got {getattr(self, name)}")
        if self.history < 0 or min(self.seeds) < 0:
            raise ConfigError("evaluation.history and evaluation.seeds must be >= 0")

    @classmethod
    def quick(cls) -> "EvaluationConfig":
        """Return the smallest that still says something."""
        return cls(
            seeds=(0, 1, 2, 3),
            ticks=(1, 8, 32),
            visit_ticks=(8,),
            history=120,
            recorded_ticks=64,
            law_ticks=16,
            num_pairs=4,
        )


@dataclass(frozen=True, slots=True)
class Film:
    """Views (A, R, C) of truth and of its dream at some ticks of one episode."""

    name: str
    ticks: list[int]
    truth: list[Uint16Array]
    dream: list[Uint16Array]


@dataclass(frozen=True, kw_only=True, slots=True)
class Report:
    """What a protocol found."""

    protocol: str
    scores: Scores
    seeds: tuple[int, ...]
    episodes: int
    """Worlds that were resampled for the intervals."""
    interrupted: bool
    films: list[Film] = field(default_factory=list)
    failure: StoreError | None = None
    """Why a part is missing that was to be played."""


class Evaluation:
    """Runs protocols on one stage; what two of them need is played once."""

    def __init__(
        self,
        stage: Stage,
        model: WorldModel,
        config: EvaluationConfig,
        *,
        reviver: Revives | None,
        progress: Progress,
    ) -> None:
        self._stage, self._model, self._config = stage, model, config
        self._reviver, self._progress = reviver, progress
        self._table = CodeTable.of(stage.tokenizer)
        self._is_map = bool(stage.tokenizer.layout.map_rows)
        self._recorded: Recording | None = None
        self._returns: ReturnPlay | None = None
        self._interrupted = False

    def run(self, protocol: str) -> Report:
        """Play and score one protocol. Raises `EnvironmentUnusable` where it is not defined for the environment."""
        runs: dict[str, Callable[[], Report]] = {
            "one-step": self._one_step,
            "questions": self._questions,
            "agreement": self._agreement,
            "rollout": self._rollout,
            "frontier": self._frontier,
            "revisit": self._revisit,
            "cross-agent": self._cross_agent,
            "permanence": self._permanence,
            "counterfactual": self._counterfactual,
            "events": self._events,
            "invariants": self._invariants,
        }
        if protocol not in runs:
            raise ConfigError(f"there is no protocol {protocol!r}; there are {', '.join(PROTOCOLS)} and all")
        self._interrupted = False
        return runs[protocol]()

    def _one_step(self) -> Report:
        record = self._recording()
        if not record.rows:
            return self._report("one-step", Scores({}, {}), 0)
        held_out, ages = record.held_out()
        # On a screen a cell is no place: what is seen there next is something else that came into view.
        told = self._table if self._is_map else None
        chances = homestead_chances(held_out.ticks, told, ages) if told else None
        answers = ask(self._model, held_out, asked=chances.asked if chances else None)
        tokenizer = self._stage.tokenizer
        parts = [
            Scores(edit_scores(answers, tokenizer), {"nll_bits*.ceiling": "the tokenizer alone gives no odds"}),
            event_scores(answers),
            nll_by_age(answers, ages, tokenizer.num_tokens),
            *([chance_gaps(answers, chances)] if chances else []),
            *([_against_rules(answers, record, told)] if told and record.rules_bits else []),
            *([limit_scores(answers, CrafterTruth.stack(record.crafted))] if record.crafted else []),
            Scores({}, {"*.oracle": NO_TRUTH}),
        ]
        return self._report("one-step", merged(parts), record.num_worlds)

    def _questions(self) -> Report:
        # Of worlds that have lived there is nothing left to see for the first time.
        record = self._record(history=0, ticks=min(self._config.recorded_ticks, _SETTLED), stride=4)
        if not record.rows:
            return self._report("questions", Scores({}, {}), 0)
        return self._report("questions", question_scores(self._model, record.held_out()[0]), record.num_worlds)

    def _agreement(self) -> Report:
        table = self._table
        if table is None:
            raise EnvironmentUnusable(f"{self._stage.env_name}: who looks where is known in homestead alone")
        record, margin = self._recording(), self._stage.margin
        if not record.rows:
            return self._report("agreement", Scores({}, {}), 0)
        held_out, _ = record.held_out()
        ticks = held_out.ticks
        if ticks.num_agents < 2:
            raise EnvironmentUnusable(f"{self._stage.env_name}: has one agent, and nobody it could agree with")
        truth, last = true_views(ticks, np.stack(record.stands), table, margin)
        known = self._stage.tokenizer.num_tokens
        # Only of homestead it is known who looks where, and its agents are solid.
        dreams = dreamt_views(
            self._model, ticks, truth, table, self._stage.dreaming, margin=margin, num_tokens=known, solid=True
        )
        scores = screen_scores(truth, last, dreams, worlds=held_out.worlds)
        return self._report("agreement", scores, record.num_worlds)

    def _recording(self) -> Recording:
        """Return ticks of held-out worlds; of fewer, if it is interrupted."""
        if self._recorded is not None:
            return self._recorded
        record = self._record(history=self._config.history, ticks=self._config.recorded_ticks, stride=8)
        if not self._interrupted:
            self._recorded = record
        return record

    def _record(self, *, history: int, ticks: int, stride: int) -> Recording:
        record = Recording()
        self._until_interrupted(
            lambda: record_ticks(
                self._stage,
                record,
                seeds=self._config.seeds,
                history=history,
                ticks=ticks,
                stride=stride,
                progress=self._progress,
            )
        )
        return record

    def _rollout(self) -> Report:
        config = self._config
        play = RolloutPlay(Rollouts(self._stage.tokenizer.layout.map_rows))
        self._until_interrupted(
            lambda: play_rollouts(
                self._stage,
                play,
                seeds=config.seeds,
                horizons=config.ticks,
                history=config.history,
                progress=self._progress,
            )
        )
        films = [_film(play, episode, config.seeds[episode]) for episode in worst_episodes(play.record, _WORST)]
        return self._report("rollout", rollout_scores(play.record), len(config.seeds), films)

    def _frontier(self) -> Report:
        config, finds = self._config, Finds()
        self._until_interrupted(
            lambda: play_frontiers(
                self._stage,
                finds,
                seeds=config.seeds,
                horizons=[k for k in config.ticks if 8 <= k <= _SETTLED] or [min(max(config.ticks), _SETTLED)],
                progress=self._progress,
            )
        )
        return self._report("frontier", frontier_scores(finds), len(config.seeds))

    def _revisit(self) -> Report:
        play = self._played_returns()
        return self._report("revisit", revisit_scores(play.returns, self._table), _worlds_of(play.returns.values()))

    def _permanence(self) -> Report:
        if self._table is None:
            raise EnvironmentUnusable(f"{self._stage.env_name}: what is a thing can be told in homestead alone")
        play = self._played_returns()
        return self._report(
            "permanence", permanence_scores(play.returns, self._table), _worlds_of(play.returns.values())
        )

    def _played_returns(self) -> ReturnPlay:
        if self._returns is None:
            play = ReturnPlay()
            absences = [k for k in self._config.ticks if k >= 2]
            self._until_interrupted(
                lambda: play_returns(
                    self._stage, play, seeds=self._config.seeds, absences=absences, progress=self._progress
                )
            )
            if self._interrupted:
                return play
            self._returns = play
        return self._returns

    def _cross_agent(self) -> Report:
        config, play = self._config, VisitPlay()
        # Kinds of visits take turns, and each is to be met more than once.
        seeds = [seed + round_ * (max(config.seeds) + 1) for round_ in range(3) for seed in config.seeds]
        self._until_interrupted(
            lambda: play_visits(
                self._stage,
                play,
                seeds=seeds,
                delays=config.visit_ticks,
                reviver=self._reviver,
                progress=self._progress,
            )
        )
        scores = cross_agent_scores(play.visits)
        if play.failed:
            scores.reasons["visits"] = (
                f"{play.failed} of {play.failed + play.num_visits} came to nothing in truth itself"
            )
        if play.failure is not None:
            scores.reasons["xr_restored"] = str(play.failure)
        return replace(self._report("cross-agent", scores, play.num_worlds, seeds=seeds), failure=play.failure)

    def _counterfactual(self) -> Report:
        config, play = self._config, ForkPlay()
        horizons = [k for k in config.ticks if k <= 8] or [min(config.ticks)]
        self._until_interrupted(
            lambda: play_counterfactuals(
                self._stage,
                play,
                seeds=config.seeds,
                num_pairs=config.num_pairs,
                horizons=horizons,
                history=config.history,
                progress=self._progress,
            )
        )
        if self._table is not None and not self._interrupted:
            self._until_interrupted(
                lambda: play_equivalence(
                    self._stage,
                    play,
                    seeds=config.seeds,
                    num_pairs=config.num_pairs,
                    history=config.history,
                    progress=self._progress,
                )
            )
        effects, equivalence = play.all_effects(), play.equivalence()
        parts = [counterfactual_scores(effects)]
        parts += [equivalence_scores(equivalence)] if equivalence else []
        return self._report("counterfactual", merged(parts), _worlds_of(effects.values()))

    def _events(self) -> Report:
        config, play = self._config, PromptPlay()
        self._until_interrupted(
            lambda: play_prompts(
                self._stage,
                play,
                seeds=config.seeds,
                num_pairs=config.num_pairs,
                horizons=[k for k in config.ticks if k <= 8] or [min(config.ticks)],
                history=config.history,
                progress=self._progress,
            )
        )
        prompted = play.all_prompted()
        return self._report("events", prompt_scores(prompted, play.phrases), _worlds_of(prompted.values()))

    def _invariants(self) -> Report:
        if self._table is None or not self._is_map:
            raise EnvironmentUnusable(f"{self._stage.env_name}: its laws are known of homestead's map alone")
        config, table, found = self._config, self._table, Consistency()
        play = RolloutPlay(Rollouts(self._stage.tokenizer.layout.map_rows))
        self._until_interrupted(
            lambda: play_rollouts(
                self._stage,
                play,
                seeds=config.seeds,
                horizons=[k for k in range(1, config.law_ticks + 1) if k % 8 == 0 or k == config.law_ticks],
                history=config.history,
                keep_rows=True,
                progress=self._progress,
            )
        )
        if not self._interrupted:
            self._until_interrupted(
                lambda: play_consistency(
                    self._stage,
                    found,
                    table,
                    seeds=config.seeds,
                    history=config.history,
                    ticks=config.law_ticks,
                    progress=self._progress,
                )
            )
        if "ours" not in play.rows:
            return self._report("invariants", Scores({}, {}), 0)
        rows = play.rows | {"copy_last": {tick: _frozen(row) for tick, row in play.rows["truth"].items()}}
        violations = joined(
            {who: [(broken_laws(row, table), tick) for tick, row in of_ticks.items()] for who, of_ticks in rows.items()}
        )
        scores = merged([invariant_scores(violations), agreement_scores(rows), consistency_scores(found)])
        return self._report("invariants", scores, len(config.seeds))

    def _until_interrupted(self, play: Callable[[], None]) -> None:
        try:
            play()
        except KeyboardInterrupt:
            self._interrupted = True

    def _report(
        self,
        protocol: str,
        scores: Scores,
        episodes: int,
        films: list[Film] | None = None,
        seeds: Sequence[int] | None = None,
    ) -> Report:
        alone = {"intervals": "of one world, which says nothing of others: name more"} if episodes == 1 else {}
        return Report(
            protocol=protocol,
            scores=Scores(scores.metrics, scores.reasons | alone),
            seeds=tuple(self._config.seeds if seeds is None else seeds),
            episodes=episodes,
            interrupted=self._interrupted,
            films=films or [],
        )


def _worlds_of(parts: Iterable[Effects | Prompted | Returns]) -> int:
    """Return how many worlds something was played in."""
    return len({world for part in parts for world in part.episode.tolist()})


def _against_rules(answers: Answers, record: Recording, table: CodeTable) -> Scores:
    return rule_scores(answers, np.stack(record.rules_bits), np.stack(record.lying), table)


def _film(play: RolloutPlay, episode: int, seed: int) -> Film:
    film = play.film
    views = ([of_tick[episode] for of_tick in column] for column in (film.truth, film.dream))
    return Film(f"rollout-seed-{seed}", film.ticks, *views)


def _frozen(row: Transitions) -> Transitions:
    """Return the transitions of a world that stands still under the same actions."""
    seen = row.next_tokens != UNSEEN
    return replace(
        row,
        next_tokens=np.where(seen, row.tokens[..., 0], np.uint16(UNSEEN)),
        next_status=row.status,
        displacement=np.full_like(row.displacement, STAY),
    )
