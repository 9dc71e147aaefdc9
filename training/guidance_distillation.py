"""Distillation of guidance into one row: a second set of weights learns the guided distribution.

    teacher = GuidanceTeacher(model, text, folder)              # a model with a guidance scale (`LMConfig.guidance`)
    loss = teacher(teacher.student, *batch)                     # a `TokenBatch` (lm_training.py)

Guided sampling takes two rows for each clip: its logits are u + s (c - u), where c has the prompt and u has none (Ho
and Salimans 2022, arXiv 2207.12598). The student begins with the weights of the model and is trained towards this
distribution, by the Kullback-Leibler divergence of every token (Meng et al. 2023, arXiv 2210.03142, distilled the
guidance of diffusion models so). The model itself, which guides by two rows and scores clips, does not change.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
import torch.nn.functional as F

from ..core.checkpoint import load_weights, save_tensors
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer

PLAIN = "plain.safetensors"


class GuidanceTeacher:
    """The guided distribution of a model by its definition, and the divergence of another model from it.

    Attributes:
        student: The model's `guided` one, which is trained.
    """

    def __init__(
        self,
        model: VideoTransformer,
        text: TextEncoder,
        folder: Path,
        temperature: float = 1.0,
        *,
        resume: bool = False,
    ) -> None:
        """Teach the guidance of a model for its scale.

        Args:
            model: The model, whose plain weights are frozen.
            text: The text encoder, for the row without a prompt.
            folder: The folder of the run, whose file keeps the initial weights, so that the run can go on.
            temperature: The temperature of the distributions that are compared.
            resume: Whether the weights are read from the folder.

        Raises:
            CheckpointError: The run goes on, and its file is missing or damaged.
        """
        assert model.guided is not None and model.guidance is not None
        if resume:
            load_weights(model, folder / PLAIN, device=model.device)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(folder / PLAIN, model.state_dict())
        self._model, self._scale, self._temperature = model.eval().requires_grad_(False), model.guidance, temperature
        self._initial, self.student = model.state_dict(), model.guided.requires_grad_(True)
        empty_1P, length_1 = text.prefix([""], model.config.prefix)
        self._empty_1P, self._length_1 = empty_1P.to(model.device), length_1.to(model.device)

    def weights(self, student: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of the whole model from those of the student."""
        return self._initial | {f"guided.{name}": weight for name, weight in student.items()}

    @torch.no_grad()
    def targets(
        self, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
        controls: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the guided logits (B, S, V) float32 of whole clips, by a row with and a row without the prompt."""
        both_BP = torch.cat((text_BP, self._empty_1P.expand_as(text_BP)))
        both_B = torch.cat((lengths_B, self._length_1.expand_as(lengths_B)))
        held = {name: torch.cat((part, part)) for name, part in (controls or {}).items()}
        c_BSV, u_BSV = self._model(tokens_Bthw.repeat(2, 1, 1, 1), both_BP, both_B, held).float().chunk(2)
        return (c_BSV - u_BSV).mul_(self._scale).add_(u_BSV)

    def __call__(
        self, student: VideoTransformer, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
        controls: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the mean divergence of the student from the guided distribution, in nats a video token."""
        targets_BSV = self.targets(tokens_Bthw, text_BP, lengths_B, controls).div_(self._temperature).log_softmax(-1)
        logits_BSV = student(tokens_Bthw, text_BP, lengths_B, controls).float().div(self._temperature).log_softmax(-1)
        if student.layout.has_given:
            sampled_S = (~student.layout.given_S.to(logits_BSV.device)).repeat(tokens_Bthw.shape[1])
            targets_BSV, logits_BSV = targets_BSV[:, sampled_S], logits_BSV[:, sampled_S]
        total = F.kl_div(logits_BSV, targets_BSV, reduction="sum", log_target=True)
        return total / logits_BSV[..., 0].numel()
