"""Arguments of `generate` and `continue_clip` that come as JSON: from a server's clients, or a file of prompts.

check_json_options({"seconds": 2, "seed": 7}, JSON_OPTIONS)
read_json_prompt([[0, "a red ball rolls"], [1.0, "a blue ring spins"]])     # a schedule, as `generate` takes it
"""

from collections.abc import Collection, Iterable
from typing import Any

from ..core.errors import require

# The options that JSON can say, by the names that they have in `generate` and `continue_clip`.
JSON_OPTIONS = frozenset({"seed", "seconds", "num_frames", "negative_prompt", "guidance_scale", "guidance",
                          "temperature", "top_k", "top_p", "min_p", "height", "width", "decoder", "block_size", "keys",
                          "fit"})  # fmt: skip


def check_json_options(options: Iterable[str], known: Collection[str]) -> None:
    """Check that all names are known.

    Raises:
        ReelmError: One is not.
    """
    for name in options:
        require(name in known, "options", f"must be of {', '.join(sorted(known))}", name)


def read_json_prompt(prompt: Any) -> Any:
    """Return a prompt as `generate` takes it: in JSON, a schedule is a list of lists of a second and a text.

    Raises:
        ReelmError: It is neither a text nor a schedule nor null.
    """
    if isinstance(prompt, list):
        pairs = all(isinstance(entry, list) and len(entry) == 2 for entry in prompt)
        require(pairs, "prompt", "must be a text or a list of pairs (second, text)", prompt)
        return [tuple(entry) for entry in prompt]
    require(prompt is None or isinstance(prompt, str), "prompt", "must be a text", prompt)
    return prompt
