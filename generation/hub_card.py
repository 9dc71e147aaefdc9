"""Model cards that the hub understands: Markdown with a few lines of YAML before it.

front_matter(parts)                     # what kind of model it is, for the hub's lists
plain_card(parts)                       # a card of a model that has none of its own

Fields and their values are those of the hub's documentation of model cards
(https://huggingface.co/docs/hub/model-cards). The license is left to who publishes the model.
"""

from .. import __version__
from .pretrained import Pretrained, controller_of


def front_matter(parts: Pretrained) -> str:
    """Return the YAML at the beginning of a card, which ends with an empty line."""
    tags = ["video-generation", "autoregressive", "discrete-tokens"]
    if controller_of(parts.config.lm):
        tags.append("world-model")
    lines = ["---", "library_name: reelm", "pipeline_tag: text-to-video", "tags:", *(f"- {tag}" for tag in tags), "---"]
    return "\n".join(lines) + "\n\n"


def plain_card(parts: Pretrained) -> str:
    """Return a card with the sizes of a model, how it is loaded, and the words that it knows."""
    sizes = {name.replace("_", " "): value for name, value in parts.sizes().items() if value not in ([], {}, None)}
    blocks = [
        f"# {parts.name}",
        f"A model of video clips, for reelm {__version__}:",
        '```python\nimport reelm\n\ngenerator = reelm.VideoGenerator.from_pretrained("OWNER/NAME")\n'
        'generator.generate("a prompt", seconds=2).save("clip.mp4")\n```',
        "| | |\n|---|---|\n" + "\n".join(f"| {name} | {value} |" for name, value in sizes.items()),
        "## The words it knows",
        ", ".join(parts.lm.known_words) or "Any: it spells words from pieces.",
    ]
    return front_matter(parts) + "\n\n".join(blocks) + "\n"
