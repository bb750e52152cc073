"""What the dynamics promise: who is told what, who can know what, and in which order answers come."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from tests.model_cases import CountingEnv, homestead_rows, random_slots, small_config, stirred_model
from world.envs.grounded import EnvSpec, ViewLayout
from world.model.dynamics import DynamicsConfig, Encoded, Outcome, _touched
from world.model.relations import about, places_about
from world.model.slots import UNKNOWN_DISPLACEMENT, Slots, places_in_windows
from world.model.world_model import WorldModel, WorldModelConfig, base, small, tiny
from world.trajectory import NUM_DISPLACEMENTS, STAY

VOCAB = 20
NORTH = 1


def _masked(model: WorldModel, slots: Slots) -> Tensor:
    return torch.full(slots.tokens.shape[:-1], model.mask)


def _acted(model: WorldModel, slots: Slots, actions: Tensor | None = None, given: Tensor | None = None) -> Encoded:
    encoded = model.dynamics.encode(slots, _masked(model, slots) if given is None else given)
    return model.dynamics.act(encoded, torch.zeros_like(slots.turns) if actions is None else actions)


@torch.no_grad()
def _outcome(
    model: WorldModel,
    slots: Slots,
    *,
    actions: Tensor | None = None,
    displacement: Tensor | None = None,
    status: Tensor | None = None,
    given: Tensor | None = None,
) -> tuple[Outcome, Tensor]:
    """Return the outcome and the logits of displacements."""
    acted = _acted(model, slots, actions, given)
    moved = torch.full_like(slots.turns, STAY) if displacement is None else displacement
    status = torch.full_like(slots.status, model.mask) if status is None else status
    return model.dynamics.outcome(acted, moved, status), model.dynamics.displacement_logits(acted)


@torch.no_grad()
def _status(model: WorldModel, slots: Slots, *, actions: Tensor | None = None, moved: int = STAY) -> Tensor:
    return model.dynamics.status_logits(_acted(model, slots, actions), torch.full_like(slots.turns, moved))


@pytest.mark.parametrize(("map_rows", "agents"), [(0, 1), (0, 2), (3, 1), (4, 3)])
def test_shapes_are_those_of_the_axis_legend(map_rows: int, agents: int) -> None:
    spec = CountingEnv(num_agents=agents, map_rows=map_rows).spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    batch, num, height, width, _ = slots.tokens.shape
    n, p, s = batch * num, height * width, slots.status.shape[2]
    outcome, moves = _outcome(model, slots)
    assert moves.shape == (batch, num, NUM_DISPLACEMENTS)
    assert outcome.cells.shape == (n, p, 16) and outcome.agents.shape == (n, 16)
    assert model.dynamics.token_logits(outcome).shape == (n, p, VOCAB)
    assert _status(model, slots).shape == (n, s, VOCAB)
    assert model.reward(outcome.agents).shape == (n, 15) and model.continuation(outcome.agents).shape == (n,)
    assert model.dynamics.action_logits(outcome).shape == (n, 5)
    encoded = model.dynamics.encode(slots, _masked(model, slots))
    read = model.read(encoded)
    assert read.shape == (n, 16)
    assert model.policy(read).shape == (n, 5) and model.value(read).shape == (n, 15)
    torch.testing.assert_close(model.policy(read).exp().sum(-1), torch.ones(n))
    assert model.policy(read).exp().min() >= 0.01 / 5 - 1e-6


def test_a_discrete_view_of_one_cell_works() -> None:
    spec = EnvSpec(
        name="taxi",
        agents=("agent_0",),
        num_actions=6,
        layout=ViewLayout(rows=1, cols=1, map_rows=0, tile_px=0, num_values=500),
    )
    model, slots = stirred_model(spec, 501), random_slots(spec, 501)
    assert slots.tokens.shape == (2, 1, 1, 1, 4)
    outcome, _ = _outcome(model, slots)
    assert model.dynamics.token_logits(outcome).shape == (2, 1, 501)
    other, _ = _outcome(model, slots, actions=torch.ones(2, 1, dtype=torch.int64))
    assert (model.dynamics.token_logits(other) != model.dynamics.token_logits(outcome)).any()


@pytest.mark.parametrize("map_rows", [0, 4])
def test_unseen_is_never_an_answer(map_rows: int) -> None:
    spec = CountingEnv(map_rows=map_rows).spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    slots = replace(slots, tokens=torch.zeros_like(slots.tokens), status=torch.zeros_like(slots.status))
    outcome, _ = _outcome(model, slots)
    for logits in (model.dynamics.token_logits(outcome), _status(model, slots)):
        assert logits.shape[-1] == VOCAB, "nor is MASK"
        assert (logits[..., 0] == float("-inf")).all() and logits[..., 1:].isfinite().all()


def test_cells_asked_for_one_by_one_get_the_same_answers() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    outcome, _ = _outcome(model, slots)
    everywhere = model.dynamics.token_logits(outcome).flatten(0, 1)
    asked = torch.tensor([0, 7, 31, 99])
    torch.testing.assert_close(model.dynamics.token_logits(outcome, asked), everywhere[asked])


def test_the_pointer_can_name_a_token_that_was_never_learned() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    outcome, _ = _outcome(model, slots)
    before = model.dynamics.token_logits(outcome)
    with torch.no_grad():
        model.dynamics.cell_head.point.bias[0] += 50
    newest = slots.tokens[..., 0].flatten(0, 1).flatten(1)
    answers = model.dynamics.token_logits(outcome).argmax(-1)
    assert (answers[newest > 0] == newest[newest > 0]).all()
    assert (before.argmax(-1) != newest).any()


def test_an_action_reaches_the_cells_around_its_agent_and_those_of_who_stands_there() -> None:
    spec = CountingEnv(map_rows=3).spec
    model = stirred_model(spec, VOCAB, small_config(outcome_blocks=("local",)))
    slots = random_slots(spec, VOCAB, batch=1)
    slots = replace(slots, poses=torch.tensor([[[0, 0], [0, 1]]]))
    idle, moves = _outcome(model, slots)
    acted, other_moves = _outcome(model, slots, actions=torch.tensor([[NORTH, 0]]))
    changed = (acted.cells != idle.cells).any(-1).view(2, 5, 5)
    assert changed[0, 2, 2] and changed[1, 2, 1], "one cell, seen in both windows"
    assert (moves[0, 0] != other_moves[0, 0]).any()
    assert (moves[0, 1] != other_moves[0, 1]).any(), "who stands beside may be in the way"
    assert (model.reward(acted.agents)[0] != model.reward(idle.agents)[0]).any()


def test_an_agent_finds_what_lies_where_it_reaches_and_nothing_of_what_lies_elsewhere() -> None:
    spec = CountingEnv(num_agents=1, map_rows=5, cols=5).spec
    model = stirred_model(spec, VOCAB)
    reach, generator = model.dynamics.reach, torch.Generator().manual_seed(0)
    assert reach is not None
    width = reach.read.out_features
    agents, before, after = (torch.randn(shape, generator=generator) for shape in ((1, width), *[(1, 7, 7, width)] * 2))
    tokens = torch.randn((1, 9, model.dynamics.table.weight.shape[1]), generator=generator)
    shares = reach.where(agents)
    torch.testing.assert_close(shares.sum(-1), torch.ones(1))
    north = torch.zeros(1, 9)
    north[0, 1] = 1.0
    found = reach.found(north, agents, tokens, before, after)
    for place in range(9):
        y, x = 2 + place // 3, 2 + place % 3
        for part in range(3):
            changed = [tokens.clone(), before.clone(), after.clone()]
            index = (0, place) if part == 0 else (0, y, x)
            changed[part][index] += 1.0
            same = torch.equal(reach.found(north, agents, *changed), found)
            assert same is (place != 1), (place, part)


@pytest.mark.parametrize(("height", "width"), [(3, 3), (4, 4), (5, 6), (6, 5), (11, 11)])
def test_an_agent_reads_the_cells_that_it_writes_to(height: int, width: int) -> None:
    pose = torch.tensor([[[40, 70]]])
    grid = torch.cartesian_prod(torch.arange(height) - height // 2, torch.arange(width) - width // 2)
    windows = (pose + grid).view(1, height, width, 2)
    assert torch.equal(about(windows), places_about(pose)[0])


def test_what_an_agent_does_to_where_it_reaches_is_seen_in_all_windows_that_hold_it() -> None:
    spec = CountingEnv(map_rows=3).spec
    model = stirred_model(spec, VOCAB)
    slots = replace(random_slots(spec, VOCAB, batch=1), poses=torch.tensor([[[0, 0], [2, 1]]]))
    east = torch.zeros(2, 9)
    east[0, 5] = 1.0
    nothing = torch.zeros(2, 5, 5, 8)
    told = model.dynamics._tell(nothing, slots, _touched(slots, east[..., None] * torch.ones(2, 1, 8)))
    expected = torch.zeros(2, 5, 5, 8)
    expected[0, 2, 3] = expected[1, 0, 2] = 1.0
    assert torch.equal(told, expected)


def test_every_cell_in_reach_of_an_event_is_told_where_about_it_it_is() -> None:
    spec = replace(CountingEnv(num_agents=1, map_rows=5, cols=5).spec, events=("rain",))
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=1)
    empty = torch.zeros_like(slots.events)
    event = empty.clone()
    event[0, 1] = torch.tensor([1, *(slots.poses[0, 0] + torch.tensor([-1, 1])).tolist()])
    nothing = torch.zeros(1, 7, 7, model.dynamics.table.weight.shape[1])
    assert model.dynamics.about_event is not None
    about = model.dynamics.about_event.weight
    told = model.dynamics._tell(nothing, slots, model.dynamics._befall(replace(slots, events=event), about))[0]
    # Two cells around (2, 4) of the window, each told something of its own.
    assert torch.equal(told.any(-1), torch.tensor([[y <= 4 and x >= 2 for x in range(7)] for y in range(7)]))
    assert len(told[:5, 2:].flatten(0, 1).unique(dim=0)) == 25
    assert not model.dynamics._befall(replace(slots, events=empty), about)[0].any()


def test_on_a_screen_an_action_reaches_all_cells_of_its_agent_and_none_of_others() -> None:
    spec = CountingEnv(map_rows=0).spec
    model = stirred_model(spec, VOCAB, small_config(outcome_blocks=("local",)))
    slots = random_slots(spec, VOCAB, batch=1)
    idle, _ = _outcome(model, slots)
    acted, _ = _outcome(model, slots, actions=torch.tensor([[NORTH, 0]]))
    changed = (acted.cells != idle.cells).any(-1)
    assert changed[0].all() and not changed[1].any()


def test_a_window_does_not_depend_on_agents_out_of_it_but_by_attention() -> None:
    spec = CountingEnv(map_rows=3).spec
    far = torch.tensor([[[0, 0], [0, 9]]])
    for blocks, depends in ((("local",), False), (("local", "global"), True), (("agents",), True)):
        model = stirred_model(spec, VOCAB, small_config(outcome_blocks=blocks))
        slots = replace(random_slots(spec, VOCAB, batch=1), poses=far)
        tokens, status, memory = slots.tokens.clone(), slots.status.clone(), slots.memory.clone()
        tokens[:, 1], status[:, 1], memory[:, 1] = 3, 5, 0.7
        other = replace(slots, tokens=tokens, status=status, memory=memory, identity=torch.tensor([[0, 40]]))
        mine, moves = _outcome(model, slots)
        its, other_moves = _outcome(model, other, actions=torch.tensor([[0, 3]]), displacement=torch.tensor([[4, 1]]))
        answers = [model.dynamics.token_logits(outcome)[0] for outcome in (mine, its)]
        assert ((answers[0] != answers[1]) & answers[0].isfinite()).any().item() is depends
        torch.testing.assert_close(moves[0, 0], other_moves[0, 0], rtol=0, atol=0)


def test_worlds_of_one_batch_do_not_know_of_each_other() -> None:
    spec = CountingEnv(num_agents=3).spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=2)
    tokens = slots.tokens.clone()
    tokens[1] = (tokens[1] + 1) % VOCAB
    mine, _ = _outcome(model, slots)
    its, _ = _outcome(model, replace(slots, tokens=tokens, poses=slots.poses + torch.tensor([[[0, 0]], [[1, 2]]])))
    torch.testing.assert_close(mine.cells[:3], its.cells[:3], rtol=0, atol=0)
    torch.testing.assert_close(mine.agents[:3], its.agents[:3], rtol=0, atol=0)


@pytest.mark.parametrize("map_rows", [0, 3])
def test_agents_in_another_order_are_given_the_same_answers_in_that_order(map_rows: int) -> None:
    spec = CountingEnv(num_agents=3, map_rows=map_rows).spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=2)
    order = torch.tensor([2, 0, 1])
    actions, displacement = (
        torch.tensor([[1, 2, 3], [4, 0, 1]]),
        torch.tensor([[4, 1, 7], [UNKNOWN_DISPLACEMENT, 3, 5]]),
    )
    of_worlds = {"events", "dreamed"}
    of_agents = {name: getattr(slots, name)[:, order] for name in Slots.__dataclass_fields__ if name not in of_worlds}
    shuffled = replace(slots, **of_agents)
    mine, moves = _outcome(model, slots, actions=actions, displacement=displacement)
    its, other_moves = _outcome(model, shuffled, actions=actions[:, order], displacement=displacement[:, order])
    torch.testing.assert_close(moves[:, order], other_moves, rtol=1e-4, atol=1e-4)
    for name in ("cells", "agents"):
        left, right = (getattr(outcome, name).unflatten(0, (2, 3)) for outcome in (mine, its))
        torch.testing.assert_close(left[:, order], right, rtol=1e-4, atol=1e-4)


def test_what_was_dreamed_may_be_doubted_and_what_was_seen_is_answered_as_before() -> None:
    spec = CountingEnv(num_agents=3).spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=2)
    seen, half = (_outcome(model, replace(slots, dreamed=torch.tensor([0, of])))[0] for of in (0, 1))
    torch.testing.assert_close(seen.agents[:3], half.agents[:3], rtol=0, atol=0)
    assert not torch.allclose(seen.agents[3:], half.agents[3:])


def test_only_relative_places_count() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    moved = replace(slots, poses=slots.poses + torch.tensor([-1000, 77]))
    torch.testing.assert_close(_outcome(model, slots)[0].cells, _outcome(model, moved)[0].cells, rtol=0, atol=0)


def test_given_tokens_and_status_are_used() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    given, status = _masked(model, slots), slots.status.clone()
    given[:, :, 2, 2], status[:, :, 0] = 5, 7
    blind, _ = _outcome(model, slots)
    told, _ = _outcome(model, slots, given=given)
    around = (model.dynamics.token_logits(told) != model.dynamics.token_logits(blind)).any(-1).view(4, 5, 5)
    assert around[:, 1:4, 1:4].all()
    told_status, _ = _outcome(model, slots, status=status)
    assert (told_status.cells != blind.cells).any(-1).view(4, 5, 5)[:, 1:4, 1:4].all()


def test_status_is_answered_after_displacements_and_before_cells() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    assert (_status(model, slots) != _status(model, slots, moved=0)).any()
    changed = slots.status.roll(1, dims=-1)
    same, _ = _outcome(model, slots, status=slots.status)
    other, _ = _outcome(model, slots, status=changed)
    assert (model.dynamics.token_logits(same) != model.dynamics.token_logits(other)).any()


def test_what_a_token_becomes_bends_no_other() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    before = model.dynamics.token_logits(_outcome(model, slots)[0])
    with torch.no_grad():
        model.dynamics.table.becoming[5] += 1.0
    after = model.dynamics.token_logits(_outcome(model, slots)[0])
    changed, five = (after != before).any(-1), slots.tokens[..., 0].flatten(0, 1).flatten(1) == 5
    assert five.any() and torch.equal(changed, five)


def test_who_meets_whom_hears_who_the_other_is_what_it_does_where_it_stands_what_it_has_and_who_is_first() -> None:
    model, slots = stirred_model(CountingEnv().spec, VOCAB), random_slots(CountingEnv().spec, VOCAB)
    encounters, width = model.dynamics.encounters, model.config.dynamics.width
    assert encounters is not None
    slots = replace(slots, poses=torch.tensor([[[5, 5], [5, 7]], [[5, 5], [5, 8]]]), turns=torch.tensor([[0, 1]] * 2))
    agents, actions, status = torch.randn(2, 2, width), torch.tensor([[1, 2]] * 2), torch.randn(2, 2, 3, width)
    own, other = torch.tensor([1.0, 0.0])[:, None], torch.tensor([0.0, 1.0])[:, None]
    with torch.no_grad():
        before = encounters(slots, agents, actions, status)
        assert all(part[0].any(-1).all() and not part[1].any() for part in before), "three cells away is not near"
        for after in (
            encounters(slots, agents, torch.tensor([[1, 3], [1, 2]]), status),
            encounters(slots, agents, torch.tensor([[3, 2], [1, 2]]), status),
            encounters(slots, agents + other, actions, status),
            encounters(slots, agents + own, actions, status),
            encounters(replace(slots, turns=torch.tensor([[1, 0]] * 2)), agents, actions, status),
            encounters(replace(slots, poses=slots.poses + torch.tensor([[[1, 0], [0, 0]]])), agents, actions, status),
        ):
            assert all((now[0, 0] != then[0, 0]).any() for now, then in zip(after, before, strict=True))
        for owner in (own, other):
            _, passed = encounters(slots, agents, actions, status + owner[..., None] * torch.eye(3)[1][:, None])
            changed = (passed != before[1]).any(-1)[0]
            assert changed[:, 1].all() and not changed[:, [0, 2]].any(), "each slot hears of its like alone"


def test_what_becomes_of_a_slot_depends_on_what_is_in_it() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    acted = _acted(model, slots)
    with torch.no_grad():
        before, still = model.dynamics.status_logits(acted, torch.full_like(slots.turns, STAY)), acted.status.clone()
        acted.status = still + torch.eye(3)[1][:, None]
        after = model.dynamics.status_logits(acted, torch.full_like(slots.turns, STAY))
    changed = (after != before).any(-1)
    assert changed[:, 1].all() and not changed[:, [0, 2]].any()


def test_displacements_are_answered_before_cells_and_steer_them() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    stay, moves = _outcome(model, slots)
    north, again = _outcome(model, slots, displacement=torch.ones(2, 2, dtype=torch.int64))
    torch.testing.assert_close(moves, again, rtol=0, atol=0)
    assert (north.cells != stay.cells).any(-1).view(4, 5, 5)[:, 1, 2].all()
    unknown, _ = _outcome(model, slots, displacement=torch.full((2, 2), UNKNOWN_DISPLACEMENT))
    assert unknown.cells.isfinite().all() and (unknown.cells != stay.cells).any()


@pytest.mark.parametrize("map_rows", [3, 4])
def test_an_agent_reads_the_cells_around_the_centre_of_its_window(map_rows: int) -> None:
    spec = CountingEnv(num_agents=1, map_rows=map_rows, cols=map_rows).spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB, batch=1)
    side, centre = map_rows + 2, (map_rows + 2) // 2
    before = model.dynamics.encode(slots, _masked(model, slots)).agents
    for y, x in np.ndindex(side, side):
        tokens = slots.tokens.clone()
        tokens[0, 0, y, x, 0] = (tokens[0, 0, y, x, 0] + 1) % VOCAB
        other = replace(slots, tokens=tokens)
        agents = model.dynamics.encode(other, _masked(model, other)).agents
        near = max(abs(y - centre), abs(x - centre)) <= 1
        assert (agents != before).any().item() is near, (y, x)


@pytest.mark.parametrize(("displacement", "dy", "dx"), [(1, -1, 0), (5, 0, 1), (6, 1, -1)])
def test_an_agent_arrives_where_its_displacement_leads(displacement: int, dy: int, dx: int) -> None:
    spec = CountingEnv(num_agents=1, map_rows=5, cols=5).spec
    model = stirred_model(spec, VOCAB, small_config(outcome_blocks=("local",)))
    slots = random_slots(spec, VOCAB, batch=1)
    stay, _ = _outcome(model, slots)
    moved, _ = _outcome(model, slots, displacement=torch.tensor([[displacement]]))
    changed = (moved.cells != stay.cells).any(-1).view(7, 7)
    wanted = torch.zeros(7, 7, dtype=torch.bool)
    # Whoever leaves may act upon any cell about it, and a block brings either to the cells beside those.
    wanted[1:6, 1:6] = wanted[2 + dy : 5 + dy, 2 + dx : 5 + dx] = True
    assert torch.equal(changed, wanted)


def test_ages_memory_and_identity_are_felt() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    before = _outcome(model, slots)[0].cells
    for changed in (
        replace(slots, ages=(slots.ages + 1) % 30),
        replace(slots, memory=slots.memory + 1),
        replace(slots, identity=slots.identity + 5),
        replace(slots, tokens=slots.tokens.flip(-1)),
    ):
        assert (_outcome(model, changed)[0].cells != before).any()


@pytest.mark.parametrize("side", [2, 3, 4, 5])
def test_an_agent_is_in_the_centre_of_its_own_window(side: int) -> None:
    poses = torch.tensor([[[5, -3], [5, -2], [40, 0]]])
    index, inside = places_in_windows(poses, poses, side, side)
    assert index.shape == inside.shape == (1, 3, 3)
    centre = side // 2 * side + side // 2
    assert inside[0].diagonal().all() and (index[0].diagonal() == centre).all()
    assert not inside[0, 2, :2].any() and not inside[0, :2, 2].any()
    assert inside[0, 0, 1].item() is (side > 2)
    assert not inside[0, 0, 1] or index[0, 0, 1] == centre + 1


def test_behaviour_does_not_bend_the_dynamics() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    encoded = model.dynamics.encode(slots, _masked(model, slots))
    model.policy(model.read(encoded))[:, 0].sum().backward()
    assert all(parameter.grad is None for parameter in model.dynamics.parameters())
    learned = [*model.reader.parameters(), *model.policy.parameters()]
    assert all(parameter.grad is not None for parameter in learned)


def test_every_parameter_of_the_dynamics_can_be_learned() -> None:
    spec = CountingEnv().spec
    model, slots = stirred_model(spec, VOCAB), random_slots(spec, VOCAB)
    slots = replace(slots, poses=slots.poses[:, :1] + torch.tensor([[0, 0], [0, 1]]))
    encoded = model.dynamics.encode(slots, _masked(model, slots))
    acted = model.dynamics.act(encoded, torch.ones(2, 2, dtype=torch.int64))
    moved, half_known = torch.full((2, 2), STAY), slots.status.roll(1, dims=-1)
    half_known[..., 0] = model.mask
    outcome = model.dynamics.outcome(acted, moved, half_known)
    answers = [
        model.dynamics.displacement_logits(acted),
        model.dynamics.token_logits(outcome)[..., 1:],
        model.dynamics.status_logits(acted, moved)[..., 1:],
        model.dynamics.action_logits(outcome),
    ]
    torch.stack([(answer**2).sum() for answer in answers]).sum().backward()
    unfelt = [name for name, p in model.dynamics.named_parameters() if p.grad is None or not p.grad.any()]
    assert not unfelt


def test_presets_have_about_the_parameters_they_claim() -> None:
    spec = homestead_rows()[0]
    for preset, millions in ((tiny(), 2.3), (small(), 28), (base(), 143)):
        with torch.device("meta"):
            assert WorldModel(preset, spec, 1024).num_parameters() / 1e6 == pytest.approx(millions, rel=0.1)


def test_impossible_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="heads"):
        DynamicsConfig(width=18, num_heads=4)
    with pytest.raises(ValueError, match="outcome_blocks"):
        DynamicsConfig(outcome_blocks=("sideways",))
    with pytest.raises(ValueError, match="odd"):
        WorldModelConfig(num_bins=254)
