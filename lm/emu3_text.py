"""Prompts of Emu3's language model: the text by the published tokenizer, and the tokens around it.

    text = Emu3Text(Path("emu3/text.json").read_text(), config)
    ids_BP, lengths_B = text.prefix(["a red ball", ""])                 # begin, text, picture, "90*90", tokens

The tokenizer is a file of Hugging Face's tokenizers, as the published model has it (tokenizer.json).
"""

from collections.abc import Sequence
from typing import Any

import torch

from ..core.condition import Condition, Text
from ..core.errors import INSTALL, CheckpointError, require
from .emu3_lm_config import Emu3LMConfig


class Emu3Text:
    """An encoder of prompts to the ids of a prefix.

    Attributes:
        content: The content of the tokenizer's file.
    """

    def __init__(self, content: str, config: Emu3LMConfig) -> None:
        """Read the tokenizer.

        Raises:
            CheckpointError: It is no tokenizer, or the library that reads it is not installed.
        """
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise CheckpointError(f"model: text.json needs tokenizers; {INSTALL.format('emu3')}") from None
        self.content, self._config = content, config
        try:
            self._tokenizer: Any = Tokenizer.from_str(content)
        except Exception as error:  # the library raises no class of its own
            raise CheckpointError(f"model: text.json must be a file of a tokenizer: {error}") from error
        largest = max(self._tokenizer.get_vocab().values(), default=0)
        if largest >= config.text_vocab_size:
            rule = f"must have ids below the model's {config.text_vocab_size}"
            raise CheckpointError(f"model: text.json {rule}, got {largest}")
        size = self._tokenizer.encode(config.size_text, add_special_tokens=False).ids
        self._before, self._after = [config.begin_id], [config.picture_id, *size, config.tokens_id]

    def encode(self, prompt: str) -> list[int]:
        """Return the ids of a prefix."""
        return [*self._before, *self._tokenizer.encode(prompt, add_special_tokens=False).ids, *self._after]

    def shorten(self, prompt: str) -> str:
        """Return a prompt that fits into the prefix, or else as many of its first words as do."""
        words = prompt.split()
        while words and len(self.encode(prompt)) > self._config.prefix:
            words.pop()
            prompt = " ".join(words)
        return prompt

    def prefix(self, prompts: Sequence[str], argument: str = "prompt") -> tuple[torch.Tensor, torch.Tensor]:
        """Return the ids (B, P) int64 of prompts, padded at their ends, and their lengths (B,).

        Raises:
            ReelmError: A prompt is longer than the prefix.
        """
        rows = [self.encode(prompt) for prompt in prompts]
        slots = self._config.prefix
        for row in rows:
            around = len(self._before) + len(self._after)
            rule = f"must be at most {slots - around} text tokens long"
            require(len(row) <= slots, argument, rule, f"{len(row) - around} tokens")
        ids_BP = torch.zeros(len(rows), slots, dtype=torch.int64)
        for index, row in enumerate(rows):
            ids_BP[index, : len(row)] = torch.tensor(row)
        return ids_BP, torch.tensor([len(row) for row in rows])

    def read(self, conditions: Sequence[Sequence[Condition]]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the same of conditions, which must be one text for each row.

        Raises:
            ReelmError: A row has other conditions, or a text is longer than the prefix.
        """
        for row in conditions:
            fits = len(row) == 1 and isinstance(row[0], Text)
            require(fits, "conditions", "must be one text for this model", [each.kind for each in row])
        return self.prefix([each.text for row in conditions for each in row if isinstance(each, Text)])
