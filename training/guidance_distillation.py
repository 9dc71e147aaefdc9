"""Distillation of guidance into one row: the model learns the guided distribution, with the scale as an input.

    teacher = GuidanceTeacher(model, text, folder, resume=False)      # before training: it keeps the initial weights
    scales_B = draw_scales((1.0, 5.0), len(tokens_Bthw), plain=0.25, seed=0, step=7)
    loss = teacher.loss(model, tokens_Bthw, text_BP, lengths_B, scales_B)

Guided sampling takes two rows for each clip: its logits are u + s (c - u), where c has the prompt and u has none (Ho
and Salimans 2022, arXiv 2207.12598). The student, which reads the prompt and the scale s, is trained towards this
distribution of a frozen copy of its initial weights, by the Kullback-Leibler divergence of every token (Meng et al.
2023, arXiv 2210.03142, distilled the guidance of diffusion models so). A share of the clips has the scale 1, for which
the target is the teacher's plain distribution: what the model does without guidance stays.
"""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from ..core.checkpoint import load_weights, save_tensors, uninitialised
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer

TEACHER = "teacher.safetensors"
# From tokens (B, t, h, w), text ids (B, P), text lengths (B,) and guidance scales (B,) to logits (B, S, V).
Student = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


class GuidanceTeacher:
    """The model with which a distillation begins; a file of the run keeps its weights, so that the run can go on."""

    def __init__(self, model: VideoTransformer, text: TextEncoder, folder: Path, *, resume: bool) -> None:
        """Copy the teacher from the model that is to be trained, or read it from the folder of a run that goes on.

        Raises:
            CheckpointError: The run goes on, and its file is missing or damaged.
        """
        device = model.device
        if not resume:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(folder / TEACHER, model.state_dict())
        with uninitialised():
            self.model = VideoTransformer(model.config)
        load_weights(self.model, folder / TEACHER, device=device)
        self.model.to(device).eval().requires_grad_(False)
        empty_1P, length_1 = text.prefix([""], model.config.prefix)
        self._empty_1P, self._length_1 = empty_1P.to(device), length_1.to(device)

    @torch.no_grad()
    def targets(
        self, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor, scales_B: torch.Tensor
    ) -> torch.Tensor:
        """Return the guided logits (B, S, V) float32 of whole clips, by a row with and a row without the prompt."""
        both_BP = torch.cat((text_BP, self._empty_1P.expand_as(text_BP)))
        both_B = torch.cat((lengths_B, self._length_1.expand_as(lengths_B)))
        c_BSV, u_BSV = self.model(tokens_Bthw.repeat(2, 1, 1, 1), both_BP, both_B).float().chunk(2)
        return (c_BSV - u_BSV).mul_(scales_B.float()[:, None, None]).add_(u_BSV)

    def loss(
        self,
        student: Student,
        tokens_Bthw: torch.Tensor,
        text_BP: torch.Tensor,
        lengths_B: torch.Tensor,
        scales_B: torch.Tensor,
    ) -> torch.Tensor:
        """Return the mean divergence of the student from the guided teacher, in nats a token."""
        targets_BSV = self.targets(tokens_Bthw, text_BP, lengths_B, scales_B)
        logits_BSV = student(tokens_Bthw, text_BP, lengths_B, scales_B).float()
        total = F.kl_div(
            logits_BSV.log_softmax(-1), targets_BSV.log_softmax(-1), reduction="sum", log_target=True
        )  # fmt: skip
        return total / logits_BSV[..., 0].numel()


def draw_scales(learned: tuple[float, float], count: int, *, plain: float, seed: int, step: int) -> torch.Tensor:
    """Return the guidance scales (B,) float64 of the clips of a step, which follow from the seed and the step alone.

    Args:
        learned: The least and the largest scale; scales between them are equally likely.
        count: The number B of clips.
        plain: The share of clips with the scale 1.
        seed: The seed of the training.
        step: The step.
    """
    rng = np.random.default_rng([seed, 4, step])
    scales_B, is_plain_B = rng.uniform(*learned, size=count), rng.random(count) < plain
    return torch.from_numpy(np.where(is_plain_B, 1.0, scales_B))
