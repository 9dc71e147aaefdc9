import pytest

from reelm.core.errors import CheckpointError, ReelmError
from reelm.lm.text import TextEncoder, train_text, words_of

CAPTIONS = ["a red ball rolls to the right", "A blue ring, spins!", "the ball stays still"]


@pytest.fixture(scope="module")
def text():
    return TextEncoder(train_text(CAPTIONS))


def test_case_and_punctuation_do_not_matter(text):
    assert words_of("A  red, BALL-rolls!") == ["a", "red", "ball", "rolls"]
    assert text.encode("A red, ball!") == text.encode("a red ball")
    assert text.encode("a red ball") != text.encode("a blue ball")


def test_unknown_words_are_named(text):
    assert text.unknown_words("a red Zebra and a zebra ring 🙂") == ["zebra", "and"]
    assert text.unknown_words("the blue ball") == []


def test_every_prefix_starts_with_begin_and_is_padded(text):
    ids, lengths = text.prefix(["a red ball", ""], slots=8)
    assert ids.shape == (2, 8)
    assert lengths.tolist() == [4, 1]
    assert ids[0, 0] == ids[1, 0] == 1
    assert ids[1, 1:].tolist() == [0] * 7


def test_a_prompt_that_does_not_fit_is_refused(text):
    with pytest.raises(ReelmError, match=r"prompt: must be at most 7 text tokens long, got '10000 tokens'"):
        text.prefix(["ball " * 10_000], slots=8)


@pytest.mark.parametrize("kind", ["unigram", "bpe"])
def test_piece_models_spell_new_words(kind):
    text = TextEncoder(train_text(CAPTIONS * 5, vocab_size=60, model_type=kind))
    assert text.unknown_words("balls") == []
    assert text.unknown_words("жар") == ["жар"]


def test_a_smaller_vocabulary_knows_less():
    assert TextEncoder(train_text(CAPTIONS, vocab_size=6)).unknown_words("spins rolls still")


def test_damaged_models_and_empty_captions_are_refused():
    with pytest.raises(CheckpointError, match=r"text\.model"):
        TextEncoder(b"not a model")
    with pytest.raises(ReelmError, match="captions"):
        train_text(["", "!"])
    with pytest.raises(ReelmError, match="model_type"):
        train_text(CAPTIONS, model_type="syllables")
