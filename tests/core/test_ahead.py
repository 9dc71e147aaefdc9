"""The next item is under way, and never more than the next."""

import threading

import pytest

from reelm.core.ahead import prefetch


def test_the_items_in_their_order():
    assert list(prefetch(range(50))) == list(range(50))
    assert list(prefetch([])) == []
    assert list(prefetch([None, 0, False])) == [None, 0, False]


def test_the_next_item_is_made_while_this_one_is_used_and_no_other():
    begun = [threading.Event() for _ in range(4)]
    used = [threading.Event() for _ in range(4)]

    def items():
        for number in range(4):
            begun[number].set()
            if number:
                assert used[number - 1].wait(10)
            yield number

    for number in prefetch(items()):
        if number < 3:
            assert begun[number + 1].wait(10)  # though this one is still in use
        if number < 2:
            assert not begun[number + 2].wait(0.02)
        used[number].set()


def test_errors_come_where_the_item_would_have_come():
    def items():
        yield 1
        raise KeyError("the second")

    taken = prefetch(items())
    assert next(taken) == 1
    with pytest.raises(KeyError, match="the second"):
        next(taken)
    with pytest.raises(StopIteration):
        next(taken)


def test_dropping_it_ends_the_work_and_its_thread():
    made, before = [], threading.active_count()

    def items():
        for number in range(1000):
            made.append(number)
            yield number

    taken = prefetch(items())
    assert [next(taken), next(taken)] == [0, 1]
    taken.close()
    assert threading.active_count() == before
    assert len(made) <= 3
