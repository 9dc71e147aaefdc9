"""The second stage of a tokenizer's training: only the decoder is trained, so that all tokens stay the same.

    stage = SecondStage(load_tokenizer(folder), adversarial_weight=0.25)
    made_BTHW3, tokens_Bthw = stage.reconstruct(frames_BTHW3)                 # uint8, or float in [0, 1]
    loss, figures = stage.add_losses(frames_BTHW3, made_BTHW3, distance)      # float in [0, 1]
    train(tokenizer.decoder, ..., auxiliary=stage.discriminator)

Encoder and quantizer are not trained: no optimizer and no moving average holds them. Losses that trade PSNR for sharper
pictures belong to this stage, since a language model need not be trained again after it; each is off at weight 0.

The adversarial loss must not dominate: where its gradient with respect to the pixels is longer than that of all other
losses (on the rendered world it was mostly 20 to 100 times as long), it is scaled down to their length. VQGAN (Esser
et al. 2021, arXiv 2012.09841) weighs it by such a ratio at the last layer's weights. So `adversarial_weight` is the
largest ratio of the two gradients' lengths.
"""

import torch

from ..evaluation.lpips import Lpips
from ..tokenizer.video_tokenizer import VideoTokenizer
from .discriminator import Discriminator, hinge


class SecondStage:
    """The reconstruction and the losses of a tokenizer whose decoder alone is trained.

    Args:
        tokenizer: The tokenizer; its encoder and quantizer are frozen.
        adversarial_weight: The weight of the decoder's loss against `discriminator`, which is None at 0.
        perceptual_weight: The weight of `perceptual`.
        perceptual: The LPIPS function, needed where its weight is above 0.
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
        """Return the reconstructions (B, T, H, W, 3) of clips, and their tokens (B, t, h, w)."""
        # Encoded as at inference: autocast would round, and change some of the tokens.
        with torch.no_grad(), torch.autocast(frames_BTHW3.device.type, enabled=False):
            tokens_Bthw = self.tokenizer.encode(frames_BTHW3)
        return self.tokenizer.decode(tokens_Bthw), tokens_Bthw

    def add_losses(
        self, frames_BTHW3: torch.Tensor, made_BTHW3: torch.Tensor, distance: torch.Tensor
    ) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
        """Return `distance` plus the losses of this stage, and the figures to log.

        The gradient of the result trains the decoder and the discriminator, each by its own loss alone. Its value is
        the decoder's loss.

        Args:
            frames_BTHW3: The clips, float in [0, 1].
            made_BTHW3: Their reconstructions by the decoder.
            distance: The reconstruction loss of the two.
        """
        figures: dict[str, torch.Tensor] = {}
        if self.perceptual is not None:
            images = (clip.float().flatten(0, 1).movedim(-1, 1) * 255 for clip in (frames_BTHW3, made_BTHW3))
            figures["perceptual"] = self.perceptual(*images).mean()
            distance = distance + self.perceptual_weight * figures["perceptual"]
        if self.discriminator is None:
            return distance, {name: value.detach() for name, value in figures.items()}
        adversarial = -self.discriminator(made_BTHW3).mean()
        (distance_gradient_BTHW3,) = torch.autograd.grad(distance, made_BTHW3, retain_graph=True)
        # Taken at the pixels alone: the discriminator's weights get none of it, and the decoder's get it by `carrier`.
        (adversarial_gradient_BTHW3,) = torch.autograd.grad(adversarial, made_BTHW3)
        share = (distance_gradient_BTHW3.norm() / adversarial_gradient_BTHW3.norm().clamp(min=1e-12)).clamp(max=1)
        carrier = (made_BTHW3 * (self.adversarial_weight * share * adversarial_gradient_BTHW3)).sum()
        discriminator_loss = hinge(self.discriminator(frames_BTHW3), self.discriminator(made_BTHW3.detach()))
        figures |= {"adversarial": adversarial, "adversarial_share": share, "discriminator": discriminator_loss}
        value = self.adversarial_weight * share * adversarial.detach()
        # The last two terms have a gradient, and the value 0.
        loss = distance + value + (carrier - carrier.detach()) + (discriminator_loss - discriminator_loss.detach())
        return loss, {name: value.detach() for name, value in figures.items()}
