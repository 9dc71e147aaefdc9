"""Distillation of guidance into one row: a student learns the guided distribution of a model.

    teacher = PromptTeacher(model, text, folder)                # a model with a guidance scale (`LMConfig.guidance`)
    teacher = KeyTeacher(model, 1.5, folder)                    # a model that is played by keys
    loss = teacher(teacher.student, *batch)                     # a `TokenBatch` (lm_training.py)

Guided sampling takes two rows for each clip: its logits are u + s (c - u), where c has what guides and u has not (Ho
and Salimans 2022, arXiv 2207.12598). The student begins with the weights of the model and is trained towards this
distribution, by the Kullback-Leibler divergence of every token (Meng et al. 2023, arXiv 2210.03142, distilled the
guidance of diffusion models so).

Guidance by the prompt has a second set of weights, since the model itself, which guides by two rows and scores clips,
must not change. Guidance by keys, where u is told that nothing is ever held, changes the model: a world that hardly
moves while a key is held is no use without it.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import torch
import torch.nn.functional as F

from ..core.checkpoint import load_weights, save_tensors
from ..lm.text import TextEncoder
from ..lm.transformer import VideoTransformer

PLAIN = "plain.safetensors"
# The text ids (B, P), their numbers (B,) and the tokens (B, t, pictures) of given segments by name.
Given: TypeAlias = tuple[torch.Tensor, torch.Tensor, Mapping[str, torch.Tensor]]


class GuidanceTeacher(ABC):
    """The guided distribution of a frozen model by its definition, and the divergence of another model from it.

    Attributes:
        student: The model that is trained.
    """

    def __init__(
        self, model: VideoTransformer, student: VideoTransformer, scale: float, folder: Path, *, temperature: float,
        resume: bool,
    ) -> None:  # fmt: skip
        """Freeze the model.

        Args:
            model: The model.
            student: The model that is trained.
            scale: The guidance scale s.
            folder: The folder of the run, whose file keeps the weights of the model, so that the run can go on.
            temperature: The temperature of the distributions that are compared.
            resume: Whether the weights are read from the folder.

        Raises:
            CheckpointError: The run goes on, and its file is missing or damaged.
        """
        if resume:
            load_weights(model, folder / PLAIN, device=model.device)
        else:
            folder.mkdir(parents=True, exist_ok=True)
            save_tensors(folder / PLAIN, model.state_dict())
        self._model, self._scale, self._temperature = model.eval().requires_grad_(False), scale, temperature
        self.student = student.requires_grad_(True)

    @abstractmethod
    def weights(self, student: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of the whole model from those of the student."""

    @abstractmethod
    def _without(self, given: Given) -> Given:
        """Return what the other row of each clip is given: all but what guides."""

    @torch.no_grad()
    def targets(
        self, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
        controls: Mapping[str, torch.Tensor] | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the guided logits (B, S, V) float32 of whole clips, by a row with and a row without what guides."""
        held = controls or {}
        other_BP, others_B, rest = self._without((text_BP, lengths_B, held))
        c_BSV, u_BSV = self._model(
            tokens_Bthw.repeat(2, 1, 1, 1), torch.cat((text_BP, other_BP)), torch.cat((lengths_B, others_B)),
            {name: torch.cat((part, rest[name])) for name, part in held.items()},
        ).float().chunk(2)  # fmt: skip
        return (c_BSV - u_BSV).mul_(self._scale).add_(u_BSV)

    def __call__(
        self, student: VideoTransformer, tokens_Bthw: torch.Tensor, text_BP: torch.Tensor, lengths_B: torch.Tensor,
        controls: Mapping[str, torch.Tensor] | None = None, *, seen_Bthw: torch.Tensor | None = None,
    ) -> torch.Tensor:  # fmt: skip
        """Return the mean divergence of the student from the guided distribution, in nats a video token.

        `seen_Bthw` are the tokens that both see, where they are not those of the clips.
        """
        tokens_Bthw = tokens_Bthw if seen_Bthw is None else seen_Bthw
        targets_BSV = self.targets(tokens_Bthw, text_BP, lengths_B, controls).div_(self._temperature).log_softmax(-1)
        logits_BSV = student(tokens_Bthw, text_BP, lengths_B, controls).float().div(self._temperature).log_softmax(-1)
        if student.layout.has_given:
            sampled_S = (~student.layout.given_S.to(logits_BSV.device)).repeat(tokens_Bthw.shape[1])
            targets_BSV, logits_BSV = targets_BSV[:, sampled_S], logits_BSV[:, sampled_S]
        total = F.kl_div(logits_BSV, targets_BSV, reduction="sum", log_target=True)
        return total / logits_BSV[..., 0].numel()


class PromptTeacher(GuidanceTeacher):
    """Guidance by the prompt, for the model's scale: the student is the model's `guided` one."""

    def __init__(
        self, model: VideoTransformer, text: TextEncoder, folder: Path, temperature: float = 1.0, *,
        resume: bool = False,
    ) -> None:  # fmt: skip
        """Teach the guidance of a model; see `GuidanceTeacher`. The text encoder is for the row without a prompt."""
        assert model.guided is not None and model.guidance is not None
        super().__init__(model, model.guided, model.guidance, folder, temperature=temperature, resume=resume)
        self._initial = model.state_dict()
        empty_1P, length_1 = text.prefix([""], model.config.prefix)
        self._empty_1P, self._length_1 = empty_1P.to(model.device), length_1.to(model.device)

    def weights(self, student: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the initial weights, with those of the student as its `guided` model."""
        return self._initial | {f"guided.{name}": weight for name, weight in student.items()}

    def _without(self, given: Given) -> Given:
        text_BP, lengths_B, controls = given
        return self._empty_1P.expand_as(text_BP), self._length_1.expand_as(lengths_B), controls


class KeyTeacher(GuidanceTeacher):
    """Guidance by the keys and axes of a model that is played: the student is the model, and the teacher a copy."""

    def __init__(
        self, model: VideoTransformer, scale: float, folder: Path, temperature: float = 1.0, *, resume: bool = False
    ) -> None:
        """Teach a model its own guidance; see `GuidanceTeacher`."""
        super().__init__(copy.deepcopy(model), model, scale, folder, temperature=temperature, resume=resume)
        self._default = {segment.name: segment.default for segment in model.config.controller.segments}

    def weights(self, student: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the weights of the student, which is the whole model."""
        return student

    def _without(self, given: Given) -> Given:
        text_BP, lengths_B, controls = given
        rest = {name: torch.full_like(part, self._default[name]) for name, part in controls.items()}
        return text_BP, lengths_B, rest
