"""What a language model reads of conditions: prompts, and the guidance scale that it applies itself.

class Model(PromptReader, nn.Module): ...
text_BP, lengths_B, scales_B = model.encode([(Text("a red ball"), Guidance(3.0))])
"""

from collections.abc import Sequence

import torch

from ..core.condition import Condition, Guidance, Text
from ..core.errors import require
from .lm_config import LMConfig
from .text import TextEncoder


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
        """The kinds of conditions that the model can use: text, and the guidance scale if it has learnt it."""
        return ("text",) if self.config.guidance is None else ("text", "guidance")

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

    def encode(self, conditions: Sequence[Sequence[Condition]]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Return the text ids (B, P) of these conditions, the number of valid ids and the guidance scale of each row.

        All three are on the CPU. A row has one text, and at most one guidance where the model reads it.

        Raises:
            ReelmError: A row has other conditions, or a text is longer than the prefix.
        """
        assert self.text is not None
        rows: list[tuple[str, float]] = []
        for row in conditions:
            texts = [each.text for each in row if isinstance(each, Text)]
            scales = [each.scale for each in row if isinstance(each, Guidance) and "guidance" in self.reads]
            fits = len(texts) == 1 and len(scales) <= 1 and len(row) == len(texts) + len(scales)
            rule = "must be one text" + " and at most one guidance" * ("guidance" in self.reads) + " for this model"
            require(fits, "conditions", rule, [each.kind for each in row])
            rows.append((texts[0], scales[0] if scales else 1.0))
        text_BP, lengths_B = self.text.prefix([prompt for prompt, _ in rows], self.config.prefix)
        return text_BP, lengths_B, torch.tensor([scale for _, scale in rows])
