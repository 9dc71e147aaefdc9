import re
import unicodedata
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.checkpoint import BUNDLED
from reelm.core.errors import CheckpointError, ReelmError
from reelm.lm.text import TextEncoder, train_text, words_of
from reelm.tests.examples import examples
from reelm.world.caption import write_caption
from reelm.world.scene import sample_scene

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
    assert text.unknown_words(" ".join(text.words)) == [] and {"red", "ball"} < set(text.words)
    assert list(text.words) == sorted(text.words) and len(text.words) == text.vocab_size - 2


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
    whole = train_text(CAPTIONS)
    for length in range(0, len(whole), 5):
        with pytest.raises(CheckpointError, match=r"text\.model"):
            TextEncoder(whole[:length])
    with pytest.raises(ReelmError, match="captions"):
        train_text(["", "!"])
    with pytest.raises(ReelmError, match="model_type"):
        train_text(CAPTIONS, model_type="syllables")


# Words that differ in their marks alone, or are the same written in two ways, and the words that a text has.
DIFFERENT = [
    "दिन दान दून दन दिनों", "กิน กาน กัน กน", "கல் கால் கில்", "كتب كَتَبَ كُتِبَ كُتُب", "שלום שָׁלוֹם", "ខ្មែរ ខមរ", "မြန် မန်",
    "q̃a qa", "ma mà má", "sınır sinir", "ガラス カラス",
]  # fmt: skip
SAME = [
    ("e\u0301te\u0301", "été"), ("ﬁre", "fire"), ("１２", "12"), ("ro\u00adlls", "rolls"), ("می\u200cخواهم", "میخواهم"),
    ("क्\u200dष", "क्ष"), ("don’t", "don't"), ("м’ята", "м\u02bcята"), ("İSTANBUL", "istanbul"), ("STRASSE", "straße"),
    ("ΣΑΣ", "σας"), ("ｶﾞﾗｽ", "ガラス"), (unicodedata.normalize("NFD", "한국어"), "한국어"), ("❤\ufe0f red", "red"),
]  # fmt: skip
WORDS = {
    "a_b ball‑rolls, rock'n'roll 'a'": ["a", "b", "ball", "rolls", "rock'n'roll", "a"],
    "ลูก\u200bบอล": ["ลูก", "บอล"], "\u0301x 🙂 1\ufe0f\u20e3": ["x", "1"], "दिन। दान॥": ["दिन", "दान"],
    "col·lecció מים־חיים צה״ל": ["col·lecció", "מים", "חיים", "צה״ל"],
}  # fmt: skip
# In a word model each character of a script without spaces is a word.
PARTS = {
    "红球向右滚": "红 球 向 右 滚", "人々がT恤3个": "人 々 が t 恤 3 个", "ラーメン": "ラーメン", "ลูกบอล": "ลู ก บ อ ล",
    "한국어 공이": "한국어 공이", "ស្ត្រី": "ស្ ត្ រី", "a红b": "a 红 b",
}  # fmt: skip


def test_marks_count_and_spellings_that_look_the_same_are_the_same():
    for text in DIFFERENT:
        assert words_of(text) == text.split() == list(dict.fromkeys(text.split()))
    for one, other in SAME:
        assert words_of(one) == words_of(other) and words_of(one)
    for text, words in WORDS.items():
        assert words_of(text) == words


def letters(text):
    return Counter(filter(str.isalnum, unicodedata.normalize("NFKD", text)))


@examples(60)
@given(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\u115f\u1160\u3164\uffa0\u02bcŉ"), max_size=30)
)
def test_no_letter_or_digit_is_lost_and_words_are_their_own_words(text):
    words = words_of(text)
    assert letters("".join(words)) == letters(unicodedata.normalize("NFKC", text).casefold())
    assert words_of(" ".join(words)) == words


def test_the_words_of_the_bundled_model_are_what_they_were():
    text = TextEncoder((BUNDLED / "world" / "text.model").read_bytes())
    for index in range(200):
        caption = write_caption(sample_scene(7, index), np.random.default_rng(index))
        assert words_of(caption) == re.findall("[a-z]+", caption.lower())
        assert text.unknown_words(caption) == []


@pytest.mark.parametrize("kind", ["word", "unigram", "bpe"])
def test_every_kind_of_model_keeps_what_tells_captions_apart(kind):
    captions = [*DIFFERENT, *PARTS, *WORDS]
    text = TextEncoder(train_text(captions, vocab_size=600, model_type=kind))
    assert all(text.unknown_words(caption) == [] for caption in captions)
    words = list(dict.fromkeys(word for caption in captions for word in words_of(caption)))
    assert len({tuple(text.encode(word)) for word in words}) == len(words)
    for caption in captions:  # the pieces spell the words again
        spelt = text._pieces.DecodeIds(text.encode(caption)[1:])
        assert spelt.replace(" ", "") == "".join(words_of(caption))
        if kind != "word" or caption in PARTS:
            assert spelt == (PARTS[caption] if kind == "word" else " ".join(words_of(caption)))
    assert text.unknown_words("दिन दीन 猫") == (["दीन", "猫"] if kind == "word" else text.unknown_words("दीन 猫"))
    assert "猫" in text.unknown_words("红猫")[0]


@pytest.mark.parametrize("kind", ["word", "unigram", "bpe"])
def test_no_caption_is_too_long_to_be_learnt_from(kind):
    assert kind != "word" or TextEncoder(train_text(["clip"])).unknown_words("a clip") == ["a"]  # nor too short
    long = "a " * 3000 + "x" * 5000 + " zebra quiz"
    assert TextEncoder(train_text([long, "a b"], vocab_size=60, model_type=kind)).unknown_words("quiz zebra") == []
