"""The model card of a trained model: what the model is, what it was trained on, and what was measured at the end.

write_card(Path("runs/lm"), model_card(Path("runs/lm"), Path("runs/tokenizer"), parts))

The card holds what the files of the two runs record, and a paragraph to fill in by hand about how the clips look.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from .. import __version__
from ..core.checkpoint import read_json
from ..core.files import atomic_write
from ..core.progress import note
from ..generation.hub_card import front_matter
from ..generation.pretrained import Pretrained
from ..lm.lm_config import LMConfig
from ..tokenizer.tokenizer_config import TokenizerConfig
from .validation import best_of, read_entries

LOOKS = """What one sees has not been written down yet. Look at continuations.png and continuations.mp4 of the run, and
say it here: blur, flicker, shifts of colour, what falls apart, and after how long."""


def model_card(run: Path, tokenizer: Path, parts: Pretrained) -> str:
    """Return the model card as Markdown, with what the hub reads of it before.

    Args:
        run: The folder of the language model's training.
        tokenizer: The folder of the tokenizer's training; the card has its held-out figures if there are any.
        parts: The trained model.
    """
    blocks = [
        f"# {parts.name}",
        f"A model of video clips, made by reelm {__version__}. `VideoGenerator.from_pretrained(FOLDER)` loads it.",
        "\n".join(_parts(parts)),
        "Samples by default with " + ", ".join(f"{k} {v}" for k, v in vars(parts.config.sampling).items()) + ".",
        "## How it was made",
        "\n".join(_making(run)),
        "## The words it knows",
        ", ".join(parts.lm.known_words) or "Any: it spells words from pieces.",
        "## Measured on held-out clips",
        "\n".join(_measured(run, tokenizer, parts)) or "Nothing: the data were tokens, or no clip was long enough.",
        LOOKS,
    ]
    return front_matter(parts) + "\n\n".join(blocks) + "\n"


def write_card(out: Path, card: str) -> None:
    """Write the card of the model in a run's folder; one that was edited by hand is kept.

    The last card that was made is also in card.md, by which an edited one is recognised.
    """
    path, last = out / "model" / "README.md", out / "card.md"
    edited = path.exists() and (not last.exists() or path.read_bytes() != last.read_bytes())
    atomic_write(last, card.encode())
    if edited:
        note(f"{path} was edited and is kept; the new card is {last}")
    else:
        atomic_write(path, card.encode())


def _parts(parts: Pretrained) -> Iterator[str]:
    config, sizes = parts.config, parts.sizes()
    codec, lm = config.tokenizer, config.lm
    codes = codec.quantizer.kind if isinstance(codec, TokenizerConfig) else codec.kind
    assert isinstance(lm, LMConfig)  # training runs have no other kind
    yield "| part | what | parameters |\n|---|---|---|"
    yield (
        f"| tokenizer | {sizes['pixels_per_token']} pixels a token, {codes}, {lm.vocab_size:,} codes "
        f"| {sizes['tokenizer_parameters']:,} |"
    )
    yield (
        f"| language model | {lm.depth} blocks of width {lm.width}, {lm.order} order, window of {lm.window} latent "
        f"frames ({sizes['window_seconds']:.3g} s) | {sizes['lm_parameters']:,} |"
    )
    yield f"| clips | {config.width}x{config.height} at {config.fps:g} frames a second | |"
    if lm.controller:
        yield f"| played by | {', '.join((*lm.controller.keys, *lm.controller.axes))} | |"


def _making(run: Path) -> Iterator[str]:
    recipe: dict[str, Any] = read_json(run / "recipe.json")
    options, record = recipe["train"], run / "data.json"
    if record.is_file():
        data: dict[str, Any] = read_json(record)
        windows = ", ".join(f"{name} {value}" for name, value in data["windows"].items() if value is not None)
        yield f"- Clips: {Path(data['clips']).name}; windows: {windows}."
    yield (
        f"- {options['steps']:,} steps of {recipe['batch_tokens']:,} tokens, {options['optimizer']}, learning rate "
        f"{options['learning_rate']:g}, products in {options['precision']}, seed {recipe['seed']}."
    )
    if recipe["model"].get("guidance"):
        scale = recipe["model"]["guidance"]
        yield f"- Guidance in one row, for the scale {scale:g}, was distilled; all else is as in the initial weights."
    if recipe["lora_rank"]:
        yield (
            f"- Products of rank {recipe['lora_rank']} beside the matrices of the blocks were trained (LoRA); all "
            "else is as in the initial weights."
        )
    if recipe["key_guidance"] != 1:
        yield (
            f"- Guidance by the keys, for the scale {recipe['key_guidance']:g}, was distilled into the weights of the "
            "initial model: keys show more often than in the clips."
        )


def _measured(run: Path, tokenizer: Path, parts: Pretrained) -> Iterator[str]:
    entries, continued = read_entries(run), run / "continuations.json"
    if (tokenizer / "held-out.json").is_file():
        figures = read_json(tokenizer / "held-out.json")
        yield f"- The tokenizer: {figures['psnr']:.2f} dB, {figures['codebook_use']:.0%} of the codes used."
    if entries:
        best = best_of(entries)
        guided = parts.config.lm.guidance or read_json(run / "recipe.json")["key_guidance"] != 1
        what = "nats a token from the guidance of two rows" if guided else "nats a token"
        yield f"- {best.nats_per_token:.3f} {what}; the weights are those of step {best.step:,}."
    if continued.is_file():
        yield from _continued(read_json(continued))


def _continued(report: dict[str, Any]) -> Iterator[str]:
    yield (
        f"- {report['predicted_frames']} frames after {report['given_frames']} that were given, {report['width']}x"
        f"{report['height']}, one draw each, PSNR in dB:\n\n| clip | continuation | its tokens alone | last frame "
        "repeated |\n|---|---|---|---|"
    )
    for clip in report["samples"]:
        figures = (clip["psnr"], clip["psnr_of_the_tokens_alone"], clip["still"])
        yield f"| {clip['source']} | " + " | ".join(f"{figure:.2f}" for figure in figures) + " |"
