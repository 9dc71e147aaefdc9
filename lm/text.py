"""Text: encode prompts to token ids with SentencePiece, and train its model on captions.

text = TextEncoder(Path("checkpoints/world/text.model").read_bytes())
ids_BP, lengths_B = text.prefix(["a red ball rolls to the right", ""], slots=32)
text.unknown_words("a red zebra")              # ["zebra"]
"""

import io
import re
import unicodedata
from collections.abc import Iterable, Sequence
from typing import Literal

import sentencepiece
import torch

from ..core.errors import CheckpointError, require

_BOS = 1
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")


def words_of(prompt: str) -> list[str]:
    """Return the words of a prompt in lower case, without punctuation."""
    return _WORD.findall(unicodedata.normalize("NFKC", prompt).lower())


class TextEncoder:
    """An encoder of prompts to text ids. Every prefix starts with a begin token, even that of an empty prompt."""

    def __init__(self, model: bytes) -> None:
        self.model = model
        self._pieces = sentencepiece.SentencePieceProcessor()
        try:
            self._pieces.LoadFromSerializedProto(model)
        except RuntimeError as error:
            raise CheckpointError(f"model: text.model must be a SentencePiece model: {error}") from error

    @property
    def vocab_size(self) -> int:
        """The number of text ids."""
        return self._pieces.GetPieceSize()

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prompt, with the begin token first."""
        return [_BOS, *self._pieces.EncodeAsIds(" ".join(words_of(prompt)))]

    def unknown_words(self, prompt: str) -> list[str]:
        """Return the words of a prompt that encode to the unknown token, which a language model cannot tell apart."""
        unknown = self._pieces.unk_id()
        return [word for word in dict.fromkeys(words_of(prompt)) if unknown in self._pieces.EncodeAsIds(word)]

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


def train_text(
    captions: Iterable[str], *, vocab_size: int = 256, model_type: Literal["word", "unigram", "bpe"] = "word"
) -> bytes:
    """Train a SentencePiece model on captions and return its bytes.

    Args:
        captions: The captions.
        vocab_size: The largest number of ids, the begin and unknown tokens included.
        model_type: The type of the model. "word" suits a closed set of captions: a word is known or unknown, and the
            user gets a warning about unknown words. "unigram" and "bpe" spell new words from pieces.

    Raises:
        ReelmError: The captions have no words, or fewer than such a model needs.
    """
    lines = [line for line in (" ".join(words_of(caption)) for caption in captions) if line]
    require(bool(lines), "captions", "must have words in them", lines)
    require(model_type in ("word", "unigram", "bpe"), "model_type", "must be 'word', 'unigram' or 'bpe'", model_type)
    result = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.Train(
            sentence_iterator=iter(lines),
            model_writer=result,
            model_type=model_type,
            vocab_size=vocab_size,
            hard_vocab_limit=False,
            character_coverage=1.0,
            normalization_rule_name="identity",  # `words_of` has normalised already
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
