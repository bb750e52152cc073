"""What happens in one tick: agents act one after another, then animals, world events, growth, the commons and pressure
doors.

Every effect of an action follows from cells within two of the agent, its heading, what it holds, and what the
others do. An action that is not possible does nothing.

Axes: N cells, A agents, n changes.
"""

import heapq
from collections.abc import Iterable, Sequence
from typing import Self

from world.envs.grounded import BY_CHANCE, BY_NATURE
from world.envs.homestead.draws import draw, unit
from world.envs.homestead.events import EventfulMap
from world.envs.homestead.live_map import ANIMAL, RIPENS
from world.envs.homestead.tiles import (
    DOOR_WOOD,
    MAX_HELD,
    NUM_ITEMS,
    NUM_PAINTS,
    PAINT_SHIFT,
    Action,
    Item,
    Terrain,
    Thing,
)

_ANIMAL_KEY, _COMMONS_KEY = 1 << 20, 2 << 20
_HARVEST = {
    Thing.STONE: (Item.STONE, Thing.NONE),
    Thing.TREE: (Item.WOOD, Thing.STUMP),
    Thing.YOUNG_TREE: (Item.WOOD, Thing.NONE),
    Thing.BUSH_RIPE: (Item.FRUIT, Thing.BUSH_BARE),
    Thing.SAPLING: (Item.FRUIT, Thing.NONE),
    Thing.COMMONS_RIPE: (Item.FRUIT, Thing.COMMONS_BARE),
}
_TOGGLE = {
    Thing.DOOR_CLOSED: Thing.DOOR_OPEN,
    Thing.DOOR_OPEN: Thing.DOOR_CLOSED,
    Thing.SWITCH_OFF: Thing.SWITCH_ON,
    Thing.SWITCH_ON: Thing.SWITCH_OFF,
}
_LATCHED = (Thing.SWITCH_OFF, Thing.SWITCH_ON, Thing.GATE_CLOSED, Thing.GATE_OPEN)

EAT_REWARD = 1.0
CRAFT_REWARD = 1.0
TRADE_REWARD = 1.0
"""For whoever gets, in an exchange that both accepted, what he had none of for what he had more than one of.

Without the second condition two agents would earn for ever by swapping the same two things to and fro.
"""


class Simulation(EventfulMap):
    """A homestead map, and the rules that move it."""

    def step(self, actions: Sequence[int], events: Iterable[tuple[int, int, int]] = ()) -> list[float]:
        """Advance one tick by the joint action and return each agent's reward; `changes` (n, 3) says what changed.

        World events (kind, y, x) happen in their order. Raises `ValueError` for an action or event that there is none
        of; the world is then of no further use.
        """
        state = self.state
        self._act_in_turn(actions)
        self._wander()
        for kind, y, x in events:
            self._befall(kind, y, x)
        state.tick += 1
        self._grow()
        self._ripen_commons()
        self._hold_doors()
        self._settle()
        return self._rewards

    def after_actions(self, actions: Sequence[int]) -> Self:
        """Return a copy in which the joint action is done, and nothing has happened by itself yet."""
        twin = self.clone()
        twin._act_in_turn(actions)
        return twin

    def commons(self) -> dict[int, float]:
        """Return the bare plants of the commons, and the chance with which each ripens now."""
        count, rate = len(self._commons), self.config.commons_rate
        return {
            cell: min(rate * self._ripe_near(number), 1.0 / count)
            for number, cell in enumerate(self._commons)
            if self.thing_at[cell] == Thing.COMMONS_BARE
        }

    def lets_animals_in(self, cell: int) -> bool:
        """Return whether an animal could step onto a cell, were no other animal there."""
        return self._is_bare(cell) and self.occupant[cell] in (0, ANIMAL)

    def _act_in_turn(self, actions: Sequence[int]) -> None:
        state = self.state
        count = len(state.cells)
        for agent in range(count):
            if not 0 <= actions[agent] < len(Action):
                raise ValueError(
                    f"homestead: agent {agent} asked for action {actions[agent]}, expected 0 to {len(Action) - 1}"
                )
        self._begin_tick()
        self._rewards = [0.0] * count
        self._traded: set[int] = set()
        self._actions = actions
        first = -state.tick % count
        for agent in (*range(first, count), *range(first)):
            self._act(agent, actions[agent])

    def _act(self, agent: int, action: int) -> None:
        if action == Action.NOOP:
            return
        if action <= Action.WEST:
            self._move(agent, action - 1)
        elif action == Action.USE:
            self._use(agent)
        elif action == Action.PLACE:
            self._place(agent)
        elif action == Action.PLANT:
            self._plant(agent)
        elif action == Action.PAINT:
            self._paint(agent)
        else:
            self._give(agent)

    def _move(self, agent: int, heading: int) -> None:
        state = self.state
        cell = state.cells[agent]
        target = cell + self.steps[heading]
        self._touch(cell, agent)
        state.facing[agent] = heading
        if self.walkable(target) and not self.occupant[target]:
            self._touch(target, agent)
            self.occupant[cell], self.occupant[target] = 0, agent + 1
            state.cells[agent] = target

    def _use(self, agent: int) -> None:
        target = self.ahead(agent)
        if self.occupant[target]:
            return
        held, thing, ledger = self.state.inventory[agent], self.thing_at[target], self.state.ledger
        if thing in _HARVEST:
            item, rest = _HARVEST[Thing(thing)]
            if held[item] < MAX_HELD:
                held[item] += 1
                ledger.wood_cut += item == Item.WOOD
                ledger.fruit_picked += item == Item.FRUIT
                self._put(target, rest, agent)
                if rest in (Thing.STUMP, Thing.BUSH_BARE):
                    self._wait(target, self.state.tick + 1 + self.config.regrow_ticks)
        elif self.config.hidden_switches and thing in _LATCHED:
            self._use_latch(target, agent)
        elif thing in _TOGGLE:
            self._put(target, _TOGGLE[Thing(thing)], agent)
            if thing in (Thing.SWITCH_OFF, Thing.SWITCH_ON):
                self._set_gates(target, agent, is_open=thing == Thing.SWITCH_OFF)
        elif thing == Thing.BENCH:
            if held[Item.WOOD] >= DOOR_WOOD and held[Item.DOOR] < MAX_HELD:
                held[Item.WOOD] -= DOOR_WOOD
                held[Item.DOOR] += 1
                ledger.doors_made += 1
                self._rewards[agent] += CRAFT_REWARD
        elif thing == Thing.NONE and held[Item.FRUIT] and self.ground_at[target] & 15 != Terrain.WALL:
            held[Item.FRUIT] -= 1
            ledger.fruit_eaten += 1
            self._rewards[agent] += EAT_REWARD

    def _set_gates(self, switch: int, agent: int, *, is_open: bool) -> None:
        for offset in self._around:
            cell = switch + offset
            if self.thing_at[cell] in (Thing.GATE_CLOSED, Thing.GATE_OPEN) and not self.occupant[cell]:
                self._put(cell, Thing.GATE_OPEN if is_open else Thing.GATE_CLOSED, agent)

    def _use_latch(self, target: int, agent: int) -> None:
        """Throw a hidden switch; or try the gate ahead, which opens if the switch beside it was thrown; or shut it."""
        if self.thing_at[target] in (Thing.SWITCH_OFF, Thing.SWITCH_ON):
            self._put(target, Thing.SWITCH_ON, agent)
        elif self.thing_at[target] == Thing.GATE_OPEN:
            self._put(target, Thing.GATE_CLOSED, agent)
        else:
            for switch in (target + offset for offset in self._around):
                if self.thing_at[switch] == Thing.SWITCH_ON:
                    self._put(switch, Thing.SWITCH_OFF, agent)
                    self._put(target, Thing.GATE_OPEN, agent)

    def _place(self, agent: int) -> None:
        """Take down the door ahead; else hang a door where there is a frame; else lay a stone."""
        target = self.ahead(agent)
        if self.occupant[target]:
            return
        held = self.state.inventory[agent]
        if self.thing_at[target] in (Thing.DOOR_CLOSED, Thing.DOOR_OPEN):
            if held[Item.DOOR] < MAX_HELD:
                held[Item.DOOR] += 1
                self._put(target, Thing.NONE, agent)
        elif self._is_bare(target):
            if held[Item.DOOR] and self._is_framed(target):
                held[Item.DOOR] -= 1
                self._cover(target, Thing.DOOR_CLOSED, agent)
            elif held[Item.STONE]:
                held[Item.STONE] -= 1
                self._cover(target, Thing.STONE, agent)

    def _plant(self, agent: int) -> None:
        """Revive a bare plant of the commons, or sow a sapling on grass that has nothing around it."""
        state, target = self.state, self.ahead(agent)
        held = state.inventory[agent]
        if not held[Item.FRUIT] or self.occupant[target]:
            return
        if self.thing_at[target] == Thing.COMMONS_BARE:
            self._put(target, Thing.COMMONS_RIPE, agent)
        elif self._is_bare_grass(target) and not any(
            self.thing_at[target + o] or self.ground_at[target + o] & 15 == Terrain.WALL for o in self._around
        ):
            self._sow(target, agent)
        else:
            return
        held[Item.FRUIT] -= 1
        state.ledger.fruit_planted += 1

    def _paint(self, agent: int) -> None:
        """Paint the ground ahead in the agent's colour, or clean it of that colour."""
        target = self.ahead(agent)
        if self.occupant[target] or not self._is_bare(target):
            return
        own, ground = 1 + self.looks[agent] % NUM_PAINTS, self.ground_at[target]
        self._touch(target, agent)
        self.ground_at[target] = ground & 15 | (0 if ground >> PAINT_SHIFT == own else own) << PAINT_SHIFT

    def _give(self, agent: int) -> None:
        """Hand one of what the agent has most of to whom it faces; two who give to each other exchange."""
        other = self.occupant[self.ahead(agent)] - 1
        if agent in self._traded or not 0 <= other < len(self.state.cells):
            return
        mutual = self._actions[other] == Action.GIVE and self.ahead(other) == self.state.cells[agent]
        mine, others = self.state.inventory[agent], self.state.inventory[other]
        item = _most(mine)
        if not mutual:
            if item is not None and others[item] < MAX_HELD:
                mine[item] -= 1
                others[item] += 1
            return
        self._traded.update((agent, other))
        back = _most(others)
        if item is None or back is None or item == back:
            return
        if others[item] == MAX_HELD or mine[back] == MAX_HELD:
            return
        self._rewards[agent] += TRADE_REWARD * (mine[back] == 0 and mine[item] > 1)
        self._rewards[other] += TRADE_REWARD * (others[item] == 0 and others[back] > 1)
        mine[item], others[item] = mine[item] - 1, others[item] + 1
        mine[back], others[back] = mine[back] + 1, others[back] - 1
        self.state.ledger.trades += 1

    def _wander(self) -> None:
        state, rate = self.state, self.config.animal_rate
        for index, cell in enumerate(state.animals):
            bits = draw(state.seed, state.tick, _ANIMAL_KEY + index)
            if unit(bits) >= rate:
                continue
            target = cell + self.steps[bits & 3]
            if not self.occupant[target] and self._is_bare(target):
                self._touch(cell, BY_CHANCE)
                self._touch(target, BY_CHANCE)
                self.occupant[cell], self.occupant[target] = 0, ANIMAL
                state.animals[index] = target

    def _grow(self) -> None:
        state, heap = self.state, self._heap
        while heap and heap[0][0] <= state.tick:
            at, cell = heapq.heappop(heap)
            if state.due.get(cell) == at:
                del state.due[cell]
                thing = Thing(self.thing_at[cell])
                self._put(cell, RIPENS[thing], BY_CHANCE if thing == Thing.SAPLING else BY_NATURE)

    def _ripen_commons(self) -> None:
        """Look at one plant a tick, chosen by chance: the same rate for each as if all were looked at."""
        count = len(self._commons)
        if not count:
            return
        bits = draw(self.state.seed, self.state.tick, _COMMONS_KEY)
        chosen = bits % count
        cell = self._commons[chosen]
        is_bare, rate = self.thing_at[cell] == Thing.COMMONS_BARE, self.config.commons_rate
        if is_bare and unit(bits) < rate * self._ripe_near(chosen) * count:
            self._put(cell, Thing.COMMONS_RIPE, BY_CHANCE)

    def _ripe_near(self, plant: int) -> int:
        return sum(self.thing_at[near] == Thing.COMMONS_RIPE for near in self._near[plant])

    def _hold_doors(self) -> None:
        for door, weights in self.pressure:
            held = sum(weight for plate, weight in weights if 0 < self.occupant[plate] < ANIMAL)
            wanted = Thing.PRESSURE_OPEN if held >= 2 or self.occupant[door] else Thing.PRESSURE_CLOSED
            if self.thing_at[door] != wanted:
                self._put(door, wanted, BY_NATURE)


def _most(held: list[int]) -> int | None:
    """Return the item one has most of, the first of equals; None for empty hands."""
    best = max(range(NUM_ITEMS), key=held.__getitem__)
    return best if held[best] else None
