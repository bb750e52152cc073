"""What transitions and chunks promise: every row once, in order, with all its columns."""

from dataclasses import replace

import numpy as np
import pytest

from tests.model_cases import homestead_rows
from world.errors import ReplayError
from world.snapshot import WorldId
from world.trajectory import (
    ELSEWHERE,
    NUM_DISPLACEMENTS,
    STAY,
    Chunk,
    ChunkBuilder,
    Transitions,
    displacement_class,
    displacement_of,
    turns_at,
)


def _row(tick: int) -> Transitions:
    rows = homestead_rows()[2]
    return replace(rows[:1], weights_version=np.array([tick], np.int32))


def _ticks(chunk: Chunk | None) -> list[int] | None:
    return None if chunk is None else chunk.transitions.weights_version.tolist()


def test_columns_rebuild_equal_transitions() -> None:
    rows = homestead_rows()[2][:5]
    again = Transitions.from_columns(rows.columns())
    for name, column in rows.columns().items():
        np.testing.assert_array_equal(again.columns()[name], column)
    assert len(rows) == 5 and rows.num_agents == 2
    assert rows.nbytes == sum(column.nbytes for column in rows.columns().values())


def test_missing_unknown_and_uneven_columns_are_refused() -> None:
    columns = homestead_rows()[2][:5].columns()
    with pytest.raises(ReplayError, match="ages"):
        Transitions.from_columns({name: column for name, column in columns.items() if name != "ages"})
    with pytest.raises(ReplayError, match="colour"):
        Transitions.from_columns({**columns, "colour": columns["ages"]})
    with pytest.raises(ReplayError, match="unequal"):
        Transitions.from_columns({**columns, "ages": columns["ages"][:-1]})


def test_stacked_slices_are_what_was_sliced() -> None:
    rows = homestead_rows()[2]
    again = Transitions.stack([rows[:3], rows[3:4], rows[4:10]])
    for name, column in rows[:10].columns().items():
        np.testing.assert_array_equal(again.columns()[name], column)


def test_chunks_are_full_consecutive_and_end_at_a_skipped_tick() -> None:
    builder = ChunkBuilder(WorldId("w"), 3, 3)
    made = [(tick, builder.add(tick, _row(tick))) for tick in (0, 1, 2, 3, 5, 6, 7, 8)]
    assert [(tick, _ticks(chunk)) for tick, chunk in made if chunk] == [(2, [0, 1, 2]), (5, [3]), (7, [5, 6, 7])]
    chunk = builder.flush()
    assert chunk is not None and chunk.first_tick == 8 and chunk.epoch == 3 and _ticks(chunk) == [8]
    assert builder.flush() is None and len(builder) == 0


def test_every_row_is_in_exactly_one_chunk_at_its_own_tick_even_with_chunks_of_one_tick() -> None:
    for length in (1, 2, 5):
        builder, ticks = ChunkBuilder(WorldId("w"), 1, length), [0, 1, 2, 4, 5, 6, 7, 8, 20, 21]
        chunks = [chunk for tick in ticks if (chunk := builder.add(tick, _row(tick)))]
        chunks += [chunk] if (chunk := builder.flush()) else []
        seen = []
        for chunk in chunks:
            assert _ticks(chunk) == list(range(chunk.first_tick, chunk.first_tick + len(chunk.transitions)))
            assert chunk.num_items == len(chunk.transitions) * 2
            assert len(chunk.transitions) <= length
            seen += _ticks(chunk) or []
        assert seen == ticks


def test_displacement_classes_invert_within_one_cell() -> None:
    moves = np.indices((3, 3)).reshape(2, -1).T.astype(np.int32) - 1
    before = np.full((9, 2), -7, np.int32)
    classes = displacement_class(before, before + moves)
    assert classes.tolist() == list(range(9))
    np.testing.assert_array_equal(displacement_of(classes), moves)
    assert displacement_class(before[:1], before[:1] + np.array([[0, 2]])).tolist() == [ELSEWHERE]
    assert displacement_of(np.array([ELSEWHERE], np.uint8)).tolist() == [[0, 0]]
    assert NUM_DISPLACEMENTS == ELSEWHERE + 1
    assert displacement_class(before, before).tolist() == [STAY] * 9


def test_in_a_rotating_order_every_agent_is_first_in_turn() -> None:
    first = [int(turns_at(tick, 3, "rotating").argmin()) for tick in range(1, 7)]
    assert first == [0, 2, 1, 0, 2, 1]
    assert turns_at(2, 3, "rotating").tolist() == [1, 2, 0]
    assert turns_at(5, 3, "fixed").tolist() == [0, 1, 2]
