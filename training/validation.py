"""What held-out tokens cost a language model in training, and which of its checkpoints they cost least.

    held_out = HeldOut(read_shards(folder), text, run_folder, batch_tokens=5120, resume=False)
    held_out.judge(model, step)         # at every checkpoint: a line in held-out.jsonl, maybe a new best.safetensors
    load_weights(model, held_out.best)

A small set of clips is soon known by heart: the loss still falls, and what the model makes of other clips gets worse.
"""

from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F

from ..core.checkpoint import save_tensors
from ..core.log import StepLog, read_log
from ..data.token_shards import Shards
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer

TOLD = "held-out.jsonl"


def read_entries(run: Path) -> list[dict[str, Any]]:
    """Step and nats_per_token of each checkpoint of a run that was measured, in their order."""
    return read_log(run / TOLD)


def best_of(entries: list[dict[str, Any]]) -> dict[str, Any]:
    """The entry of the checkpoint that the held-out tokens cost least, the first of equals."""
    return min(entries, key=lambda entry: entry["nats_per_token"])


class HeldOut:
    """Held-out tokens, and the checkpoints that were measured on them.

    Attributes:
        best: the file with the weights of the best checkpoint so far.
    """

    def __init__(self, sets: list[Shards], text: TextEncoder, folder: Path, *, batch_tokens: int, resume: bool) -> None:
        self._sets, self._text, self._batch_tokens = sets, text, batch_tokens
        self.best, self._log = folder / "best.safetensors", StepLog(folder / TOLD)
        if not resume:
            self._log.cut(0)

    @property
    def entries(self) -> list[dict[str, Any]]:
        """Step and nats_per_token of each checkpoint."""
        return self._log.entries

    def judge(self, model: VideoTransformer, step: int) -> None:
        """Measure a checkpoint, and keep it if none before was as good."""
        self._log.cut(step - 1)  # a killed run may come here again
        nats = round(nats_per_token(model, self._sets, self._text, self._batch_tokens), 5)
        if all(nats < entry["nats_per_token"] for entry in self.entries):
            save_tensors(self.best, model.state_dict())
        self._log.add({"step": step, "nats_per_token": nats})


@torch.no_grad()
def nats_per_token(model: VideoTransformer, sets: list[Shards], text: TextEncoder, batch_tokens: int) -> float:
    """What a token of these clips costs the model under each clip's first caption: the mean over all of them."""
    place, nats, tokens = next(model.parameters()).device, 0.0, 0
    for shards in sets:
        size = max(1, batch_tokens // shards.tokens_Bthw[0].numel())
        for first in range(0, len(shards.captions), size):
            tokens_Bthw = shards.tokens_Bthw[first : first + size].long().to(place)
            prompts = [captions[0] for captions in shards.captions[first : first + size]]
            text_BP, lengths_B = (part.to(place) for part in text.prefix(prompts, model.config.prefix, "captions"))
            logits = model(tokens_Bthw, text_BP, lengths_B)
            wanted_S = model.layout.pack({"video": tokens_Bthw}).flatten()
            nats += float(F.cross_entropy(logits.flatten(0, 1).float(), wanted_S, reduction="sum"))
            tokens += tokens_Bthw.numel()
    return nats / tokens
