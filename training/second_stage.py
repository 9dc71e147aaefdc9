"""The second stage of a tokenizer's training: its decoder alone, so that every token stays what it was.

    stage = SecondStage(load_tokenizer(folder), adversarial_weight=0.25)
    made_BTHW3, tokens_Bthw = stage.reconstruct(frames_BTHW3)                 # uint8, or float in [0, 1]
    loss, figures = stage.add_losses(frames_BTHW3, made_BTHW3, distance)      # float in [0, 1]
    train(tokenizer.decoder, ..., beside=stage.discriminator)

Encoder and quantizer stand outside of what is trained: no optimizer and no moving average knows them. Losses that pay
for sharper pictures with PSNR have their place here, where no language model has to follow; each is off at weight 0.

The adversary is kept from taking over: where its gradient at the pixels is longer than that of all other losses (on the
rendered world it was mostly 20 to 100 times as long), it is cut to their length. VQGAN (Esser et al. 2021, arXiv
2012.09841) weighs it by such a ratio at the last layer's weights. So `adversarial_weight` is the most that it has of
their say.
"""

import torch

from ..evaluation.lpips import Lpips
from ..tokenizer.video_tokenizer import VideoTokenizer
from .discriminator import Discriminator, hinge


class SecondStage:
    """One training step's view of a tokenizer whose decoder is trained.

    Args:
        tokenizer: whose encoder and quantizer stay as they are.
        adversarial_weight: of the decoder's loss against `discriminator`, which is None at 0.
        perceptual_weight: of `perceptual`.
        perceptual: needed where its weight is above 0.
    """

    def __init__(
        self,
        tokenizer: VideoTokenizer,
        *,
        adversarial_weight: float = 0.0,
        perceptual_weight: float = 0.0,
        perceptual: Lpips | None = None,
    ) -> None:
        self.tokenizer, self.perceptual = tokenizer.eval().requires_grad_(False), perceptual
        self.adversarial_weight, self.perceptual_weight = adversarial_weight, perceptual_weight
        self.discriminator: Discriminator | None = None
        if adversarial_weight:
            self.discriminator = Discriminator().to(next(tokenizer.parameters()).device)
        tokenizer.decoder.train().requires_grad_(True)

    def reconstruct(self, frames_BTHW3: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What the decoder makes of a clip's tokens (B, T, H, W, 3), and the tokens (B, t, h, w)."""
        # As they are encoded in use: autocast would round, and give other tokens here and there.
        with torch.no_grad(), torch.autocast(frames_BTHW3.device.type, enabled=False):
            tokens_Bthw = self.tokenizer.encode(frames_BTHW3)
        return self.tokenizer.decode(tokens_Bthw), tokens_Bthw

    def add_losses(
        self, frames_BTHW3: torch.Tensor, made_BTHW3: torch.Tensor, distance: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """The distance of a clip and what was made of it with the stage's own losses, and what a log tells of them.

        The gradients of decoder and discriminator are both in it, each from its own loss alone. Its value is what the
        decoder lowers.
        """
        figures: dict[str, torch.Tensor] = {}
        if self.perceptual is not None:
            images = (clip.float().flatten(0, 1).movedim(-1, 1) * 255 for clip in (frames_BTHW3, made_BTHW3))
            figures["perceptual"] = self.perceptual(*images).mean()
            distance = distance + self.perceptual_weight * figures["perceptual"]
        if self.discriminator is None:
            return distance, {name: value.detach() for name, value in figures.items()}
        adversarial = -self.discriminator(made_BTHW3).mean()
        (wanted_BTHW3,) = torch.autograd.grad(distance, made_BTHW3, retain_graph=True)
        # Its gradient ends at the pixels: the discriminator gets none of it, and the decoder gets it below.
        (sharper_BTHW3,) = torch.autograd.grad(adversarial, made_BTHW3)
        share = (wanted_BTHW3.norm() / sharper_BTHW3.norm().clamp(min=1e-12)).clamp(max=1)
        passed = (made_BTHW3 * (self.adversarial_weight * share * sharper_BTHW3)).sum()
        its = hinge(self.discriminator(frames_BTHW3), self.discriminator(made_BTHW3.detach()))
        figures |= {"adversarial": adversarial, "adversarial_share": share, "discriminator": its}
        value = self.adversarial_weight * share * adversarial.detach()
        loss = distance + value + (passed - passed.detach()) + (its - its.detach())
        return loss, {name: value.detach() for name, value in figures.items()}
