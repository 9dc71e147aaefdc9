"""The weights of Emu3's tokenizer in the layout of transformers by their names there, and the sizes in its config.json.

config = emu3_codec_config(values, pictures=True)                   # the contents of config.json
names = published_names(config)                                     # here -> there, without what is in front
"""

from collections.abc import Mapping

from ..core.errors import CheckpointError
from .codecs import without_weights
from .emu3_config import Emu3CodecConfig

SIZES = {
    "codebook_size": "codebook_size", "embed_dim": "embed_dim", "latent_channels": "latent_channels",
    "temporal_downsample_factor": "temporal", "base_channels": "base_channels", "channel_multiplier": "multipliers",
    "num_res_blocks": "blocks", "attn_resolutions": "attended",
}  # fmt: skip


def emu3_codec_config(values: Mapping[str, object], *, pictures: bool) -> Emu3CodecConfig:
    """Return the sizes of the tokenizer of a model.

    Args:
        values: The contents of its config.json.
        pictures: Whether the tokenizer is for still pictures.

    Raises:
        CheckpointError: They lack a size, or say what no such tokenizer has.
    """
    try:
        found = values["vq_config"]
        if not isinstance(found, dict):
            raise TypeError("vq_config must be a table")
        if found.get("double_latent"):
            raise ValueError("double_latent must be false")
        sizes = {own: found[name] for name, own in SIZES.items() if name in found}
        return Emu3CodecConfig(**sizes, pictures=pictures)
    except (LookupError, TypeError, ValueError, ArithmeticError) as error:
        raise CheckpointError(f"source: config.json must be that of Emu3: {error}") from error


def published_names(config: Emu3CodecConfig) -> dict[str, str]:
    """Return the published names of all tensors of the tokenizer by their names here."""
    names = without_weights(config).state_dict()
    # The layers that halve or double the frames are wrapped once more in the published code.
    return {name: name.replace(".conv.", ".conv.conv.") if ".time_conv." in name else name for name in names}
