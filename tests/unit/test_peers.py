"""What the comparison of architectures promises: peers that are what they are called, and scores that all can earn."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from learner.peers.comparison import ComparisonConfig, sequences
from learner.peers.contenders import NAMES, attention_only, contender, frames_loss
from learner.peers.frames import Frames, absences, following, frames_of, full_contexts, in_view, shifted
from learner.peers.scoring import Asked, Foreseen, ask, copying, scores
from learner.peers.spatio_temporal import SpatioTemporal, SpatioTemporalConfig
from tests.model_cases import homestead_rows, random_slots
from world.errors import ConfigError
from world.evaluation.one_step import HeldOut
from world.field import NEVER, Uint16Array
from world.model.blocks import GlobalBlock, LocalBlock
from world.model.dynamics import DynamicsConfig
from world.model.world_model import WorldModel, tiny
from world.trajectory import STAY, Transitions

VIEW = (9, 9)
EAST, WEST = 5, 3
SMALL = SpatioTemporalConfig(num_frames=4, width=16, hidden=16, num_heads=2, num_key_heads=1, num_blocks=2)


def _frames_model(config: SpatioTemporalConfig = SMALL) -> SpatioTemporal:
    spec, tokenizer, _ = homestead_rows()
    torch.manual_seed(0)
    model = SpatioTemporal(
        config,
        vocab_size=tokenizer.vocab_size,
        num_actions=spec.num_actions,
        num_events=len(spec.events),
        num_agents=2,
        view=VIEW,
        status_cells=spec.layout.status_cells,
    ).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return model


def _columns(start: int = 10, length: int = 4) -> dict[str, np.ndarray]:  # type: ignore[type-arg]
    ticks = homestead_rows()[2]
    return {name: column[None, start : start + length] for name, column in ticks.columns().items()}


def _told(frames: Frames, model: SpatioTemporal) -> tuple[Tensor, Tensor]:
    with torch.no_grad():
        return model.logits(model(frames), frames.cells, frames.status)


def test_a_model_of_frames_answers_for_every_cell_of_every_next_view() -> None:
    cells, status = _told(frames_of(_columns(), VIEW), _frames_model())
    assert cells.shape == (2, 4, 81, 256) and status.shape == (2, 4, 9, 256)
    assert torch.isneginf(cells[..., 0]).all() and torch.isfinite(cells[..., 1:]).all()


def test_a_later_frame_never_changes_an_earlier_answer() -> None:
    model, frames = _frames_model(), frames_of(_columns(), VIEW)
    before = _told(frames, model)
    for name in ("cells", "status", "actions", "turns", "events"):
        changed = getattr(frames, name).clone()
        changed[:, 2] = (changed[:, 2] + 1) % 4
        after = _told(replace(frames, **{name: changed}), model)
        for early, late in zip(before, after, strict=True):
            assert torch.equal(early[:, :2], late[:, :2]), name
        assert not torch.equal(before[0][:, 2], after[0][:, 2]), name
        assert not torch.equal(before[0][:, 3], after[0][:, 3]), f"{name} of a frame is remembered in the next"


def test_nothing_flows_from_one_episode_into_the_next() -> None:
    model, columns = _frames_model(), _columns()
    columns["is_first"] = np.array([[False, False, True, False]])
    frames = frames_of(columns, VIEW)
    before = _told(frames, model)[0]
    changed = frames.cells.clone()
    changed[:, 1] = 3
    after = _told(replace(frames, cells=changed), model)[0]
    assert torch.equal(before[:, 2:], after[:, 2:]) and not torch.equal(before[:, 1], after[:, 1])


def test_every_agent_has_its_own_view_of_the_joint_action() -> None:
    model, frames = _frames_model(), frames_of(_columns(), VIEW)
    assert frames.own.tolist() == [0, 1] and torch.equal(frames.actions[0], frames.actions[1])
    swapped = _told(replace(frames, own=frames.own.flip(0)), model)[0]
    assert not torch.equal(swapped, _told(frames, model)[0])


def test_what_followed_a_frame_is_the_next_frame() -> None:
    columns = _columns(0, 100)
    frames, after = frames_of(columns, VIEW), following(columns, VIEW)
    assert (after.cells > 0).all(), "an agent sees all of its next view"
    assert torch.equal(frames.cells[:, 1:], after.cells[:, :-1])
    assert torch.equal(frames.status[:, 1:], after.status[:, :-1])
    assert after.known[:, 50:].float().mean() > 0.9 and not after.known.all()


def test_events_are_told_where_they_are_in_view() -> None:
    columns = _columns()
    columns["events"] = np.zeros_like(columns["events"])
    pose = columns["poses"][0, 1, 0]
    columns["events"][0, 1, 0] = (3, pose[0] + 2, pose[1] - 4)
    events = frames_of(columns, VIEW).events
    assert events[0, 1, 4 + 2, 4 - 4] == 3 and events[0].count_nonzero() == 1


def test_windows_are_cut_to_views() -> None:
    windows = np.arange(25).reshape(1, 1, 5, 5)
    assert in_view(windows, (3, 3))[0, 0, 0].tolist() == [6, 7, 8]
    assert shifted(windows, np.array([[EAST]]), (3, 3))[0, 0, 0].tolist() == [7, 8, 9]


def _walk(moves: list[int]) -> Transitions:
    """One agent that begins at (5, 5), in windows of 5 × 5."""
    ticks = homestead_rows()[2][: len(moves)]
    columns = {name: column[:, :1] if column.ndim > 1 else column for name, column in ticks.columns().items()}
    steps = [0] + [move % 3 - 1 for move in moves[:-1]]
    poses = np.stack([np.full(len(moves), 5), 5 + np.cumsum(steps)], axis=1)
    return replace(
        Transitions.from_columns(columns),
        poses=poses[:, None].astype(np.int32),
        displacement=np.array(moves, np.uint8)[:, None],
        is_first=np.arange(len(moves)) == 0,
    )


def test_absence_counts_the_frames_since_a_cell_was_in_view() -> None:
    absent = absences(_walk([EAST, EAST, STAY, WEST, WEST]), (3, 3))[:, 0, 0]
    assert absent[0].tolist() == [0, 0, NEVER], "a new column, never seen"
    assert absent[2].tolist() == [0, 0, 0]
    assert absent[3].tolist() == [2, 0, 0], "the western column was last in view at tick 1, and it is tick 3"
    assert absent[4].tolist() == [4, 0, 0], "and the one beyond at tick 0, and it is tick 4"


def test_a_context_lies_in_one_episode() -> None:
    is_first = np.array([True, False, False, True, False, False, False])
    assert full_contexts(is_first, 3).tolist() == [2, 5, 6]


def _asked(absent: list[int], tokens: list[int], last: list[int]) -> Asked:
    def row(values: list[int]) -> Uint16Array:
        return np.array(values, np.uint16).reshape(1, 1, 1, -1)

    return Asked(
        rows=np.array([0]),
        tokens=row(tokens),
        last=row(last),
        by_chance=np.zeros((1, 1, 1, len(tokens)), np.bool_),
        absent=np.array(absent, np.int32).reshape(1, 1, 1, -1),
        status=np.array([[[1, 2]]], np.uint16),
        last_status=np.array([[[1, 1]]], np.uint16),
    )


def test_scores_of_a_case_worked_by_hand() -> None:
    # In view: one edit found, one missed, one false alarm. Back soon: an edit found. Back late: one that was made up.
    asked = _asked([0, 0, 0, 3, 9, NEVER], [5, 6, 7, 8, 9, 4], [4, 4, 7, 4, 9, 0])
    told = Foreseen(
        tokens=np.array([[[[5, 4, 4, 8, 5, 4]]]], np.uint16),
        status=np.array([[[1, 2]]], np.uint16),
        cell_bits=np.array([[[[1.0, 2.0, 3.0, 5.0, 7.0, 100.0]]]]),
        own_bits=np.array([4.0]),
    )
    found = {name: score.value for name, score in scores([asked], [told], 8, seed=0).items()}
    assert found["f1@in_view"] == pytest.approx(0.5) and found["right@in_view"] == pytest.approx(1 / 3)
    assert found["f1@back_soon"] == 1.0 and found["bits@back_soon"] == 5.0
    assert found["f1@back_late"] == 0.0 and found["right@back_late"] == 0.0 and found["bits@back_late"] == 7.0
    assert found["nll_bits"] == pytest.approx(6.0 + 4.0), "of what is in view, and of what is the agent's own"
    assert found["f1@status"] == 1.0
    assert found["bits@others_saw"] == 0.0, "what nobody had seen is asked of nobody"


def test_copying_finds_no_edit_and_makes_none_up() -> None:
    asked = [_asked([0, 0, 9, 9], [5, 6, 7, 8], [4, 6, 7, 8])] * 3
    found = copying(asked, 8, 20, seed=0)
    assert found["f1@in_view"].value == 0.0 and found["right@back_late"].value == 1.0
    # One of two cells changes: a bit for each, and log2(18) for what it changes to; of status one of two as well.
    assert found["nll_bits"].value == pytest.approx(2 + np.log2(18) + 2 + np.log2(18))
    assert found["bits@in_view"].value == pytest.approx(1 + np.log2(18) / 2)


def test_who_is_wrong_about_the_place_alone_is_told_apart() -> None:
    truth = np.arange(1, 10, dtype=np.uint16).reshape(1, 1, 3, 3)
    last = truth.copy()
    last[0, 0, 1, 1] = 20
    nothing = np.zeros(truth.shape, np.bool_)
    status = np.ones((1, 1, 2), np.uint16)
    asked = Asked(np.array([0]), truth, last, nothing, np.zeros(truth.shape, np.int32), status, status)
    # The view from one cell farther east: all is right, in the wrong place.
    east = np.concatenate([truth[..., 1:], np.full((1, 1, 3, 1), 30, np.uint16)], axis=-1)
    told = Foreseen(east, status, np.zeros(truth.shape), np.zeros(1))
    found = scores([asked], [told], 8, seed=0)
    assert found["f1@in_view"].value == 0.0 and found["placed_f1@in_view"].value == 1.0
    right = scores([asked], [replace(told, tokens=truth)], 8, seed=0)
    assert right["f1@in_view"].value == right["placed_f1@in_view"].value == 1.0


def test_intervals_are_over_worlds() -> None:
    good, bad = _asked([0], [5], [4]), _asked([0], [5], [4])

    def told(token: int) -> Foreseen:
        return Foreseen(
            np.full((1, 1, 1, 1), token, np.uint16),
            np.array([[[1, 2]]], np.uint16),
            np.zeros((1, 1, 1, 1)),
            np.zeros(1),
        )

    mixed = scores([good, bad] * 4, [told(5), told(4)] * 4, 8, seed=0)["f1@in_view"]
    assert mixed.low is not None and mixed.high is not None
    assert mixed.value == pytest.approx(2 / 3) and mixed.low < mixed.value < mixed.high
    alike = scores([good] * 4, [told(5)] * 4, 8, seed=0)["f1@in_view"]
    assert alike.low == alike.value == alike.high == 1.0


def test_attention_alone_mixes_nothing_locally_and_is_of_about_the_same_size() -> None:
    spec, tokenizer, _ = homestead_rows()
    ours = WorldModel(tiny(), spec, tokenizer.vocab_size)
    peer = WorldModel(attention_only(), spec, tokenizer.vocab_size)
    assert sum(isinstance(part, LocalBlock) for part in ours.modules()) == 3
    assert not any(isinstance(part, LocalBlock) for part in peer.modules())
    # Four over the window, and both have one over what each agent has.
    assert [sum(isinstance(part, GlobalBlock) for part in model.modules()) for model in (peer, ours)] == [5, 2]
    assert peer.num_parameters() == pytest.approx(ours.num_parameters(), rel=0.05)
    frames = _frames_model(SpatioTemporalConfig())
    dynamics = sum(parameter.numel() for parameter in ours.dynamics.parameters())
    # By less for this small vocabulary and these two agents, whose tables are a part of it.
    assert frames.num_parameters() == pytest.approx(dynamics, rel=0.1)


def test_attention_alone_looks_across_the_window_before_it_says_who_goes_where() -> None:
    spec, tokenizer, _ = homestead_rows()
    slots = random_slots(spec, tokenizer.vocab_size, memory_size=16)
    far = replace(slots, tokens=slots.tokens.clone())
    far.tokens[:, :, 0, 0, 0] = (far.tokens[:, :, 0, 0, 0] + 1) % tokenizer.vocab_size
    # What a block adds is zero at first; stirred, so that every path can be felt.
    for config, reaches in ((attention_only(), True), (tiny(), False)):
        torch.manual_seed(0)
        model = WorldModel(config, spec, tokenizer.vocab_size).eval()
        with torch.no_grad():
            for parameter in model.parameters():
                if not parameter.any():
                    parameter.normal_(std=0.1)
            mask = torch.full(slots.tokens.shape[:-1], model.mask)
            actions = torch.zeros(slots.turns.shape, dtype=torch.int64)
            moves = [
                model.dynamics.displacement_logits(model.dynamics.act(model.dynamics.encode(told, mask), actions))
                for told in (slots, far)
            ]
        assert torch.equal(*moves) != reaches


def test_a_kind_of_mixing_that_there_is_none_of_is_refused() -> None:
    with pytest.raises(ConfigError, match="mixing is"):
        DynamicsConfig(mixing="sideways")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="comparison"):
        ComparisonConfig(seconds=0.0)


@pytest.mark.parametrize("name", NAMES)
def test_every_contender_learns_and_can_be_asked_the_same(name: str) -> None:
    spec, tokenizer, ticks = homestead_rows()
    ticks = replace(ticks, memory=np.zeros((*ticks.actions.shape, tiny().memory_size), np.float16))
    made = contender(name, spec, tokenizer, HeldOut(ticks[:4], None), learning_rate=2e-3, seed=0)
    rng, halves = np.random.default_rng(0), [ticks[:60], ticks[60:]]
    losses = [made.train_step(sequences(halves, made.num_sequences, made.num_ticks, rng), 0.0) for _ in range(20)]
    assert losses[-1] < 0.9 * losses[0]
    asked = ask(ticks, VIEW, num_frames=8, first=20, stride=25)
    told = made.foresee(ticks, asked.rows)
    assert told.tokens.shape == asked.tokens.shape and told.status.shape == asked.status.shape
    assert told.cell_bits.shape == asked.tokens.shape and told.own_bits.shape == asked.rows.shape
    assert (told.cell_bits[asked.known] > 0).all() and (told.tokens > 0).all()
    assert {"f1@in_view", "nll_bits"} <= scores([asked], [told], 8, seed=0).keys()


def test_contenders_learn_from_as_many_agent_ticks_in_a_step() -> None:
    spec, tokenizer, ticks = homestead_rows()
    made = [contender(name, spec, tokenizer, HeldOut(ticks[:4], None), learning_rate=1e-3, seed=0) for name in NAMES]
    assert len({one.num_sequences * one.num_ticks for one in made}) == 1


def test_the_loss_of_frames_asks_nothing_of_what_was_not_seen() -> None:
    model, columns = _frames_model(), _columns()
    hidden = dict(columns, next_tokens=columns["next_tokens"].copy())
    hidden["next_tokens"][:, :2] = 0
    with torch.no_grad():
        assert 0 < frames_loss(model, hidden, 0.1, 0.0) < frames_loss(model, columns, 0.1, 0.0)
