"""The newest tokens of every row of a cache: rows move as the entries of a list would, and a ring holds what is new."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.errors import ReelmError
from reelm.core.token_history import HISTORY, TokenHistory, gather_rows
from reelm.tests.examples import examples

SIZE = 3


def history_of(clips):
    """A row for each of these clips, which stands at its end."""
    history = TokenHistory(len(clips), SIZE, torch.device("cpu"))
    for row, tokens in enumerate(clips):
        history.restore_tokens([row], torch.tensor(tokens, dtype=torch.int64))
    return history


def newest(history, row):
    """The position of a row, and its tokens from the oldest that is kept on."""
    position = int(history.positions_B[row])
    kept = torch.arange(max(0, position - HISTORY * SIZE), position)
    return position, history.tokens_BQ[row][kept % (HISTORY * SIZE)].tolist()


clips_of_any_length = st.lists(st.lists(st.integers(0, 99), max_size=30), max_size=5)


@examples(60)
@given(st.data(), clips_of_any_length)
def test_rows_move_as_entries_of_a_list(data, clips):
    history = history_of(clips)
    for _ in range(3):
        kept = [row for row in range(len(clips)) if data.draw(st.booleans())]
        sources = list(kept)
        for place in data.draw(st.lists(st.integers(0, len(kept)), max_size=2)):
            sources.insert(place, None)
        history.arrange(sources)
        clips = [[] if source is None else clips[source] for source in sources]
        wanted = [(len(tokens), tokens[-HISTORY * SIZE :]) for tokens in clips]
        assert [newest(history, row) for row in range(len(clips))] == wanted


@examples(60)
@given(st.lists(st.lists(st.integers(0, 99), min_size=1, max_size=SIZE), min_size=1, max_size=12))
def test_tokens_come_by_parts_and_latent_frames_are_read_back(parts):
    history, tokens = TokenHistory(1, SIZE, torch.device("cpu")), []
    for part in parts:
        history.put_tokens(torch.tensor([part]))
        history.advance(len(part))
        tokens += part
        assert newest(history, 0) == (len(tokens), tokens[-HISTORY * SIZE :])
    whole = len(tokens) // SIZE
    # Of the oldest one that is kept, some tokens may have been written over by those of the one under way.
    for frame in range(max(0, whole - HISTORY + 1), whole):
        assert history.frame(0, frame).tolist() == tokens[frame * SIZE : (frame + 1) * SIZE]


def test_drafts_lie_ahead_and_nothing_advances():
    history = history_of([[1, 2], [1, 2, 3, 4]])
    history.put_tokens(torch.tensor([[10, 11], [20, 21]]), offsets=[0, 3])
    assert history.positions_B.tolist() == [2, 4]
    assert history.next_positions(2).tolist() == [[2, 3], [4, 5]]
    ahead_BL = history.next_positions(4, offsets=[0, 3])
    assert ahead_BL.tolist() == [[2, 5], [4, 7]]
    assert history.tokens(ahead_BL).tolist() == [[10, 11], [20, 21]]
    history.advance([1, 0])
    assert history.positions_B.tolist() == [3, 4]


def test_tokens_are_placed_in_several_rows_at_once():
    history = history_of([[7], [8], [9]])
    history.restore_tokens([0, 2], torch.arange(17))
    assert newest(history, 0) == newest(history, 2) == (17, list(range(2, 17)))
    assert newest(history, 1) == (1, [8])


@pytest.mark.parametrize("sources", [[1, 0], [0, None, 0]])
def test_rows_that_do_not_ascend_are_refused(sources):
    with pytest.raises(ReelmError, match=r"^sources: must ascend"):
        history_of([[1], [2]]).arrange(sources)


def test_as_many_rows_stay_in_the_same_memory():
    held = torch.arange(6).view(3, 2)
    assert gather_rows(held, [1, None, 2]) is held
    assert held.tolist() == [[2, 3], [0, 0], [4, 5]]
    assert gather_rows(held, [2]).tolist() == [[4, 5]]
