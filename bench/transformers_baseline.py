"""Baselines of the benchmark: the `generate` of transformers, drawing as many tokens from a model of the same shape.

    baselines, left_out = hugging_face_rows(parts, sampling, batch=1)        # left_out: {name: reason}
    seconds = baselines[0].run(tokens)

transformers has neither prefix + window attention nor token inputs that are computed from neighbours. Its rows run a
Llama of equal width, depth, heads and vocabulary with random weights, which needs as many matrix products, cache
entries and logits per token. They run in this process and need the `bench` extra.
"""

import importlib.util
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from ..core.memory import available_memory
from ..generation.memory_plan import show_bytes
from ..generation.pretrained import Pretrained
from ..lm.lm_config import LMConfig
from ..sampling.plan import SamplingConfig


@dataclass(frozen=True)
class Baseline:
    """Another implementation of sampling.

    Attributes:
        name: The name of its row.
        note: The remark in the report.
        run: A function that draws so many tokens for each clip of the batch and returns the elapsed seconds.
    """

    name: str
    note: str
    run: Callable[[int], float]


def hugging_face_rows(parts: Pretrained, sampling: SamplingConfig, batch: int) -> tuple[list[Baseline], dict[str, str]]:
    """Return the `generate` of transformers with a static and a dynamic cache, or the reason why it is left out."""
    if importlib.util.find_spec("transformers") is None:
        return [], {"transformers": "not installed (the bench extra)"}
    lm, numerics, device = parts.config.lm, parts.lm.numerics, parts.lm.device
    if not isinstance(lm, LMConfig):
        return [], {"transformers": f"no model of transformers has the shape of the kind {lm.kind!r}"}
    embedding = (lm.vocab_size + lm.text_vocab_size) * lm.width
    needed = (lm.parameters + embedding) * numerics.dtype.itemsize
    free = available_memory(device)
    if free is not None and needed > free:
        return [], {"transformers": f"a second model takes {show_bytes(needed)}, {show_bytes(free)} are free"}
    models: dict[str, Any] = {}
    return [
        Baseline(
            f"transformers, {cache} cache", "a Llama of equal shape", _llama(parts, lm, sampling, batch, cache, models)
        )
        for cache in ("static", "dynamic")
    ], {}


def _llama(
    parts: Pretrained, lm: LMConfig, sampling: SamplingConfig, batch: int, cache: str, models: dict[str, Any]
) -> Callable[[int], float]:
    """Return a function that draws with a Llama of this model's shape, which its first call makes for all rows."""
    device, dtype = parts.lm.device, parts.lm.numerics.dtype

    def make_model() -> None:
        from transformers import AutoModelForCausalLM, LlamaConfig
        from transformers.utils import logging

        logging.set_verbosity_error()
        config = LlamaConfig(
            vocab_size=lm.vocab_size + lm.text_vocab_size, hidden_size=lm.width, intermediate_size=lm.hidden,
            num_hidden_layers=lm.depth, num_attention_heads=lm.heads, num_key_value_heads=lm.kv_heads,
            head_dim=lm.head_dim, max_position_embeddings=2**20, tie_word_embeddings=False,
        )  # fmt: skip
        with device:  # large weights are made directly on their device and in their dtype
            model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
        models["llama"] = model.eval()

    def run(count: int) -> float:
        if not models:
            make_model()
        options: dict[str, Any] = {"do_sample": sampling.temperature > 0, "top_k": sampling.top_k or 0}
        if sampling.temperature > 0:
            options |= {"temperature": sampling.temperature, "top_p": sampling.top_p, "min_p": sampling.min_p or None}
        if sampling.guidance_scale != 1:
            negative = torch.full((batch, 1), lm.vocab_size, device=device)
            options |= {"guidance_scale": sampling.guidance_scale, "negative_prompt_ids": negative}
        if cache == "static":
            options["cache_implementation"] = "static"
        prompt = torch.full((batch, 8), lm.vocab_size, device=device)
        start = time.perf_counter()
        with torch.no_grad():
            out = models["llama"].generate(
                prompt, max_new_tokens=count, min_new_tokens=count, pad_token_id=0, eos_token_id=None, **options
            )
        out.cpu()
        assert out.shape == (batch, 8 + count)
        return time.perf_counter() - start

    return run
