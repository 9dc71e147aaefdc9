"""Text: encode prompts to token ids with SentencePiece, and train its model on captions.

    text = TextEncoder(Path("checkpoints/world/text.model").read_bytes())
    ids_BP, lengths_B = text.prefix(["a red ball rolls to the right", ""], slots=32)
    text.unknown_words("a red zebra")              # ["zebra"]
    class Model(PromptReader, nn.Module): ...      # a language model, which encodes conditions by `text`

`words_of` alone decides what a word is, for training, encoding, warnings and file names. Its normal form is close to
the NFKC_Casefold of the Unicode standard: spellings that look the same are the same, case does not matter, and
characters that show nothing (soft hyphens, joiners, variation selectors) are left out. A word is a run of letters and
digits with their combining marks, so that vowel signs and accents count in every script; apostrophes may stand inside
it. Hyphens, spaces and all other characters end it.

Chinese, Japanese, Thai, Lao, Khmer and Burmese have no spaces between words. A "word" model takes each character of
these scripts, with its marks, as a word of its own (as the default word boundaries of Unicode's annex 29 do for
ideographs and Hiragana); Katakana and Hangul stay whole. "unigram" and "bpe" models find longer pieces themselves.
"""

import functools
import io
import re
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from typing import Literal

import sentencepiece
import torch

from ..core.condition import Condition, Text
from ..core.errors import CheckpointError, require
from .lm_config import LMConfig

_BOS = 1
_APOSTROPHES = {ord(character): "'" for character in "’ʼ"}
_INSIDE = "'’·\u05f3\u05f4"  # apostrophes, the middle dot of Catalan, and the Hebrew geresh and gershayim
# The beginnings of the Unicode names of letters that are written without spaces between words.
_UNSPACED = ("CJK ", "HIRAGANA ", "THAI ", "LAO ", "KHMER ", "MYANMAR ", "TAI ", "NEW TAI ")
# Over the kinds of characters that `_kind` returns: whole words, and the parts that a word model counts as words.
_WORD = re.compile("[LU][LUM]*(?:'[LU][LUM]*)*")
_PART = re.compile("UM*|L[LM]*(?:'L[LM]*)*")
# Characters that show nothing and are not of the category Cf: fillers and variation selectors.
_FILLERS = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


@functools.cache
def _kind(character: str) -> str:
    """Return "U" or "L" for a letter or digit (without or with spaces between words), "M" for a mark, else another."""
    category = unicodedata.category(character)
    if character in _INSIDE:
        return "'"
    if category in ("Mn", "Mc"):
        return "M"
    if not character.isalnum():
        return " "
    return "U" if unicodedata.name(character, "").startswith(_UNSPACED) else "L"


@functools.cache
def _is_shown(character: str) -> bool:
    # A zero-width space, which is of the category Cf, separates words.
    return character == "\u200b" or not (unicodedata.category(character) == "Cf" or _FILLERS.match(character))


def _normalised(text: str) -> str:
    text = unicodedata.normalize("NFKC", "".join(filter(_is_shown, text))).casefold()
    # A capital I with a dot is an i in lower case; Unicode's folding, which knows no language, keeps the dot.
    return unicodedata.normalize("NFKC", text.replace("i\u0307", "i"))


def _find(pattern: re.Pattern[str], text: str) -> list[str]:
    text = _normalised(text)
    kinds = "".join(map(_kind, text))
    return [text[match.start() : match.end()].translate(_APOSTROPHES) for match in pattern.finditer(kinds)]


def words_of(prompt: str) -> list[str]:
    """Return the words of a prompt in lower case, without punctuation; see the module for what a word is."""
    return _find(_WORD, prompt)


class TextEncoder:
    """An encoder of prompts to text ids. Every prefix starts with a begin token, even that of an empty prompt."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise CheckpointError(f"model: text.model must be a SentencePiece model: {error}") from error
        if not {2, 3} <= set(_fields(model)):
            raise CheckpointError("model: text.model must be a whole SentencePiece model, got a part of one")
        # Only a model that spells words has a piece for the mark of a word's beginning.
        self._spells = self._pieces.PieceToId("▁") != self._pieces.unk_id()

    @property
    def vocab_size(self) -> int:
        """The number of text ids."""
        return self._pieces.GetPieceSize()

    @property
    def words(self) -> tuple[str, ...]:
        """The words that the model knows, sorted; none for a model that spells new words from pieces."""
        pieces = map(self._pieces.IdToPiece, range(self.vocab_size))
        return () if self._spells else tuple(sorted(piece[1:] for piece in pieces if piece.startswith("▁")))

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, with the begin token first."""
        return [_BOS, *self._pieces.EncodeAsIds(" ".join(self._words(prompt)))]

    def _words(self, prompt: str) -> list[str]:
        return _find(_WORD if self._spells else _PART, prompt)

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of a prompt that encode to the unknown token, which a language model cannot tell apart."""
        unknown = self._pieces.unk_id()
        return [word for word in dict.fromkeys(self._words(prompt)) if unknown in self._pieces.EncodeAsIds(word)]

    def shorten(self, prompt: str, slots: int) -> str:
        """Return a prompt that fits into so many slots, or else as many of its first words as do, if any does."""
        if len(self.encode(prompt)) <= slots:
            return prompt
        words = self._words(prompt)[: slots - 1]  # a word takes at least one slot, and the begin token another
        while words and len(self.encode(" ".join(words))) > slots:
            words.pop()
        return " ".join(words) or prompt

    def prefix(self, prompts: Sequence[str], slots: int, argument: str = "prompt") -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids (B, P) int64 of prompts, right-padded to `slots`, and their lengths (B,).

        Args:
            prompts: The prompt of each row.
            slots: The number P of slots of the prefix.
            argument: The name of the prompts in error messages.

        Raises:
            ReelmError: A prompt is longer than the prefix.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        for row in rows:
            require(
                len(row) <= slots, argument, f"must be at most {slots - 1} text tokens long", f"{len(row) - 1} tokens"
            )
        ids_BP = torch.zeros(len(rows), slots, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids_BP[index, : len(row)] = torch.tensor(row)
        return ids_BP, torch.tensor([len(row) for row in rows])


class PromptReader:
    """The part of a language model that reads prompts.

    Attributes:
        config: The sizes of the model.
        text: The encoder of prompts; None while no prompts are encoded.
    """

    config: LMConfig
    text: TextEncoder | None = None

    @property
    def reads(self) -> tuple[str, ...]:
        """The kinds of conditions that the model can use: text."""
        return ("text",)

    @property
    def known_words(self) -> tuple[str, ...]:
        """The words that the model knows, sorted; none if it spells new words from pieces."""
        return () if self.text is None else self.text.words

    def shorten(self, text: str) -> str:
        """Return a prompt, or as many of its first words as fit into the prefix."""
        return text if self.text is None else self.text.shorten(text, self.config.prefix)

    def unknown_words(self, text: str, argument: str) -> list[str]:
        """Return the words of a prompt that the model does not know.

        Args:
            text: The prompt.
            argument: The name of the prompt in error messages.

        Raises:
            ReelmError: The prompt is longer than the prefix.
        """
        assert self.text is not None
        self.text.prefix([text], self.config.prefix, argument)
        return self.text.unknown_words(text)

    def encode(self, conditions: Sequence[Sequence[Condition]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the text ids (B, P) of these conditions, one text for each row, and the number of valid ids of each.

        Both are on the CPU.

        Raises:
            ReelmError: A row has other conditions, or a text is longer than the prefix.
        """
        assert self.text is not None
        prompts = []
        for row in conditions:
            texts = [each.text for each in row if isinstance(each, Text)]
            fits = len(texts) == len(row) == 1
            require(fits, "conditions", "must be one text for this model", [each.kind for each in row])
            prompts += texts
        return self.text.prefix(prompts, self.config.prefix)


def _fields(model: bytes) -> Iterator[int]:
    """Yield the numbers of the fields of a SentencePiece model that has been parsed.

    It is a protobuf of pieces (1), the options of their training (2) and the normaliser (3), in this order. A part that
    ends between two pieces would be taken for a smaller model.
    """
    position = 0

    def number() -> int:
        nonlocal position
        value = shift = 0
        while True:
            byte = model[position]
            position, value, shift = position + 1, value | (byte & 127) << shift, shift + 7
            if byte < 128:
                return value

    while position < len(model):
        yield number() >> 3  # with its type, which is "bytes of this length" for all of them
        length = number()
        position += length


def train_text(
    captions: Iterable[str], *, vocab_size: int = 256, model_type: Literal["word", "unigram", "bpe"] = "word"
) -> bytes:
    """Train a SentencePiece model on captions and return its bytes.

    Args:
        captions: The captions, of any length; those without words are left out.
        vocab_size: The largest number of ids, the begin and unknown tokens included.
        model_type: The type of the model. "word" suits a closed set of captions: a word is known or unknown, and the
            user gets a warning about unknown words. "unigram" and "bpe" spell new words from pieces.

    Raises:
        ReelmError: The captions have no words, or fewer than such a model needs.
    """
    require(model_type in ("word", "unigram", "bpe"), "model_type", "must be 'word', 'unigram' or 'bpe'", model_type)
    pattern = _PART if model_type == "word" else _WORD
    lines = [line for line in (" ".join(_find(pattern, caption)) for caption in captions) if line]
    require(bool(lines), "captions", "must have words in them", lines)
    result = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=result,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            # Longer ones would be left out in silence; less than 10 is refused.
            max_sentence_length=max(10, *(len(line.encode()) for line in lines)),
            normalization_rule_name="identity",  # `_normalised` has done it
            unk_id=0,
            bos_id=_BOS,
            eos_id=-1,
            pad_id=-1,
            minloglevel=2,
        )
    except RuntimeError as error:
        require(
            False, "captions", f"must suit a {model_type} model of {vocab_size} ids ({error})", f"{len(lines)} lines"
        )
    return result.getvalue()
