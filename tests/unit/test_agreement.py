"""What agreement of screens promises: views are turned back exactly, and shared places are compared, and no others."""

import numpy as np
import pytest
import torch

from tests.evaluation_cases import every_look
from tests.model_cases import stirred_model
from world.dream import DreamConfig
from world.envs.grounded import Int32Array
from world.envs.homestead.live_map import VIEW
from world.envs.homestead.tiles import AGENT_CODE, GROUND_CODE, THING_CODE
from world.evaluation.agreement import Views, disagreements, errors, north_up, screen_scores
from world.evaluation.codes import CodeTable
from world.evaluation.metrics import mean_of
from world.evaluation.plays.recording import Recording, record_ticks
from world.evaluation.plays.stage import Stage
from world.evaluation.screens import dreamt_views, silenced, true_views
from world.model.world_model import WorldModel
from world.tick import TickConfig, Ticker
from world.trajectory import Transitions
from world.warmup import spec_of

TURNED, MAPPED = "homestead-turned:16x16x3", "homestead:16x16x3"


def _views(*grids: list[list[int]], places: list[tuple[int, int]]) -> Views:
    """Views (1, A, V, V) of one tick, north up."""
    codes = np.array(grids, np.int32)[None]
    return Views(
        places=np.array(places, np.int32)[None],
        headings=np.zeros((1, len(grids)), np.int32),
        codes=codes,
    )


def test_only_places_that_both_see_are_compared() -> None:
    # The second stands one row below and one column right of the first: they share four places.
    one = [[1, 2, 3], [4, 5, 6], [7, 8, 9]]
    other = [[5, 6, 0], [8, 0, 0], [0, 0, 0]]
    apart = _views(one, other, places=[(4, 4), (5, 5)])
    assert disagreements(apart).tolist() == [[1, 4]]
    assert disagreements(_views(one, one, places=[(4, 4), (4, 4)])).tolist() == [[0, 9]]
    assert disagreements(_views(one, one, places=[(4, 4), (4, 7)])).tolist() == [[0, 0]], "side by side, nothing shared"


def test_every_pair_counts_and_only_chosen_cells_do() -> None:
    one, other = [[1, 1], [1, 1]], [[1, 1], [1, 2]]
    three = _views(one, other, other, places=[(0, 0), (0, 0), (0, 0)])
    assert disagreements(three).tolist() == [[2, 12]]
    among = np.zeros((1, 3, 2, 2), np.bool_)
    among[0, 0, 1, 1] = True
    assert disagreements(three, among).tolist() == [[2, 2]], "chosen in either view of a pair"


def test_errors_are_counted_where_somebody_else_sees_too() -> None:
    truth = _views([[1, 2], [3, 4]], [[2, 9], [4, 9]], places=[(0, 0), (0, 1)])
    dream = _views([[0, 0], [3, 4]], [[2, 0], [0, 0]], places=[(0, 0), (0, 1)])
    # Shared are the right column of the first, of which one is wrong, and the left of the second, likewise.
    assert errors(dream, truth).tolist() == [[2, 4]]
    assert errors(truth, truth).tolist() == [[0, 4]]


def test_a_turned_view_is_turned_back_with_the_agents_in_it() -> None:
    north = np.full((1, 1, 3, 3), GROUND_CODE, np.int32)
    north[0, 0, 0, 1] = THING_CODE + 1  # A stone to the north,
    north[0, 0, 1, 2] = AGENT_CODE + 4 * 2 + 3  # and to the east the third agent, which looks west.
    east = np.full((1, 1, 3, 3), GROUND_CODE, np.int32)
    east[0, 0, 1, 0] = THING_CODE + 1  # Who looks east has the stone on the left,
    east[0, 0, 0, 1] = AGENT_CODE + 4 * 2 + 2  # and the third ahead, coming towards them: its back is away.
    assert np.array_equal(north_up(east, np.array([[1]], np.int32)), north)
    assert np.array_equal(north_up(north, np.array([[0]], np.int32)), north)


def _recorded(env: str) -> tuple[WorldModel, CodeTable, Transitions, Int32Array, int]:
    spec = spec_of(env)
    tokenizer = every_look(spec.layout)
    model = stirred_model(spec, tokenizer.vocab_size)
    ticker = Ticker(spec, tokenizer, TickConfig(event_rate=0.0), model.config)
    ticker.load_weights(model.state_dict(), 1)
    margin = 1 if spec.layout.map_rows else 0
    stage = Stage(env_name=env, num_agents=None, tokenizer=tokenizer, ticker=ticker, margin=margin, memory_size=4)
    record = Recording()
    record_ticks(stage, record, seeds=(0, 1), history=20, ticks=12, stride=2, progress=lambda what, done: None)
    table = CodeTable.of(tokenizer)
    assert table is not None
    return model, table, record.held_out()[0].ticks, np.stack(record.stands), margin


@pytest.mark.parametrize("env", [TURNED, MAPPED])
def test_truth_agrees_with_itself_wherever_one_looks_from(env: str) -> None:
    _, table, ticks, stands, margin = _recorded(env)
    truth, last = true_views(ticks, stands, table, margin)
    assert truth.codes.shape == (12, 3, VIEW, VIEW)
    hits, cases = disagreements(truth.north_up()).sum(axis=0)
    assert hits == 0 < cases
    assert mean_of(disagreements(truth).astype(np.float64)) > 0.1 or env == MAPPED, "as they are drawn they differ"
    assert mean_of(errors(last.north_up(), truth.north_up()).astype(np.float64)) > 0.0, "something changed"


def test_a_map_makes_dreams_agree_and_screens_do_not() -> None:
    found = {}
    for env in (TURNED, MAPPED):
        model, table, ticks, stands, margin = _recorded(env)
        truth, last = true_views(ticks, stands, table, margin)
        num_tokens = int(table.token_of.max()) + 1
        dreams = dreamt_views(model, ticks, truth, table, DreamConfig(), margin=margin, num_tokens=num_tokens)
        found[env] = screen_scores(truth, last, dreams)
    turned, mapped = found[TURNED].metrics, found[MAPPED].metrics
    for how in ("likely", "sampled"):
        row = mapped[f"differ_{how}"]
        assert (row.value, row.high, row.copy_last, row.no_memory, row.ceiling) == (0.0, 0.0, 0.0, 0.0, 0.0)
        assert turned[f"differ_{how}"].value > 0.5, "nobody taught this network anything"
        assert turned[f"differ_{how}"].ceiling == 0.0
        without, with_hubs = turned[f"differ_{how}_no_hubs"], turned[f"differ_{how}"]
        assert turned[f"hubs_spare_{how}"].value == pytest.approx(without.value - with_hubs.value)
    assert "hubs" in found[MAPPED].notes() and not any("hubs" in name for name in mapped)
    assert not found[TURNED].unexplained() and not found[MAPPED].unexplained()


def test_silenced_hubs_say_nothing_and_the_model_itself_goes_on_speaking() -> None:
    spec = spec_of(TURNED)
    model = stirred_model(spec, 8)
    quiet = silenced(model)
    cells, grid = torch.randn(2, 6, 16), torch.cartesian_prod(torch.arange(2), torch.arange(3))
    said = []
    for hubs in (model.dynamics.hubs, quiet.dynamics.hubs):
        assert hubs is not None
        said.append(hubs(cells, cells[:, 0], grid, 2))
    assert said[0].any() and not said[1].any() and said[0].shape == said[1].shape == (1, 8, 16)
