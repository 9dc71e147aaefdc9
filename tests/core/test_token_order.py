"""Orders: every token once; and what makes a slot's input is known, and all that is known around it."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.token_order import ORDERS, lattices, scan_order
from reelm.lm.neighbours import AROUND, carry_over, neighbour_tables, neighbours
from reelm.tests.examples import examples

sizes = st.integers(1, 13)


@examples(60)
@given(sizes, sizes, st.sampled_from(ORDERS))
def test_every_place_comes_once(rows, columns, order):
    assert scan_order(rows, columns, order).sort().values.tolist() == list(range(rows * columns))


def test_raster_is_row_by_row():
    assert scan_order(3, 5, "raster").tolist() == list(range(15))


def test_coarse_by_hand():
    assert scan_order(4, 5, "coarse").argsort().view(4, 5).tolist() == [
        [0, 10, 3, 11, 1],
        [14, 6, 15, 7, 16],
        [4, 12, 2, 13, 5],
        [17, 8, 18, 9, 19],
    ]


@examples(60)
@given(st.integers(2, 13), st.integers(2, 13))
def test_tokens_of_a_lattice_are_no_neighbours(rows, columns):
    """No two of a lattice touch along a side, so that what lies between them is known or open for both."""
    for part in lattices(rows, columns):
        y, x = part // columns, part % columns
        distance = (y[:, None] - y).abs() + (x[:, None] - x).abs()
        assert (distance + 9 * torch.eye(len(part), dtype=torch.int64) > 1).all()


@examples(40)
@given(sizes, sizes, st.sampled_from(ORDERS))
def test_neighbours_are_known_and_where_they_are_said_to_be(rows, columns, order):
    offsets_SX, inside_SX = neighbour_tables(rows, columns, order)
    places, size = scan_order(rows, columns, order).tolist(), rows * columns
    assert (offsets_SX[inside_SX] < 0).all() and (offsets_SX >= -3 * size).all()
    for number, neighbour in enumerate(neighbours(order)):
        for turn, place in enumerate(places):
            at, inside = turn + int(offsets_SX[turn, number]), bool(inside_SX[turn, number])
            if neighbour is None:
                assert inside and at == turn - 1
                continue
            (dt, dy, dx), (y, x) = neighbour, divmod(place, columns)
            in_picture = 0 <= y + dy < rows and 0 <= x + dx < columns
            if inside:
                assert in_picture and at // size == dt
                assert places[at % size] == (y + dy) * columns + x + dx
            else:  # what is in the picture is left out only where it is not known yet
                assert not in_picture or (dt == 0 and places.index((y + dy) * columns + x + dx) >= turn)


def test_of_the_last_lattice_all_that_is_around_is_known():
    inside_SX = neighbour_tables(8, 8, "coarse")[1]
    sides = [neighbours("coarse").index(n) for n in AROUND if abs(n[1]) + abs(n[2]) == 1]
    last = len(lattices(8, 8)[-1])
    # But for four at the left border and four at the lower one.
    assert inside_SX[-last:, sides].sum() == 4 * last - 8


@pytest.mark.parametrize("old", ORDERS)
@pytest.mark.parametrize("new", ORDERS)
def test_what_a_neighbour_meant_is_carried_over(old, new):
    weight = torch.randn(6, len(neighbours(old)) * 4)
    carried = carry_over(weight, old, new)
    assert carried.shape == (6, len(neighbours(new)) * 4)
    if old == new:
        assert torch.equal(carried, weight)

    def part(tensor, order, neighbour):
        return tensor.view(6, -1, 4)[:, neighbours(order).index(neighbour)]

    for neighbour in set(neighbours(new)) - {None, AROUND[0]}:
        found = part(carried, new, neighbour)
        wanted = part(weight, old, neighbour) if neighbour in neighbours(old) else torch.zeros(6, 4)
        assert torch.equal(found, wanted)
    if (old, new) == ("raster", "coarse"):  # the token before is the one to the left
        assert torch.equal(part(carried, new, AROUND[0]), part(weight, old, None))
        assert not part(carried, new, None).any()
    if (old, new) == ("coarse", "raster"):
        assert torch.equal(part(carried, new, None), part(weight, old, AROUND[0]))
