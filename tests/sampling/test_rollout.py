import torch

from reelm.sampling.noise import NoiseKey, gumbel_noise
from reelm.sampling.rollout import Rollout
from reelm.sampling.rules import SamplingConfig, filter_logits, guide


def slow_twin(parts, prompt, key, settings, frames):
    """Sampling without a cache: every token from a masked pass over all that came before."""
    model, (rows, columns) = parts.lm, (parts.config.lm.rows, parts.config.lm.columns)
    text, lengths = parts.text.prefix([prompt, ""], parts.config.lm.prefix)
    tokens = torch.zeros(1, frames * rows * columns, dtype=torch.int64)
    for position in range(tokens.shape[1]):
        grid = tokens.view(1, frames, rows, columns).expand(2, -1, -1, -1)
        with torch.no_grad():
            logits = model(grid, text, lengths)[:, position]
        scores = filter_logits(guide(logits[:1], logits[1:], settings.guidance_scale), settings)
        noise = gumbel_noise([key], torch.tensor([[position]]), model.config.vocab_size)[:, 0]
        tokens[:, position] = (scores + noise).argmax(-1)
    return tokens.view(frames, rows, columns)


def test_a_rollout_past_its_window_equals_sampling_without_a_cache(debug_generator):
    parts = debug_generator.parts
    settings, key = SamplingConfig(guidance_scale=2.5, top_k=12, top_p=0.95, temperature=0.9), NoiseKey(11)
    rollout = Rollout(parts.lm, parts.text, ["a red ball"], [key], settings)
    frames = parts.config.lm.window + 2
    rolled = torch.cat([rollout.next_frame() for _ in range(frames)])
    assert torch.equal(rolled, slow_twin(parts, "a red ball", key, settings, frames))
    assert rollout.drawn == rolled.numel()


def test_memory_is_flat_however_long_it_rolls(debug_generator):
    parts = debug_generator.parts
    rollout = Rollout(parts.lm, parts.text, ["a red ball"], [NoiseKey(1)], SamplingConfig())
    before = (rollout.cache.keys.data_ptr(), rollout.cache.nbytes, rollout.cache.tokens_BR.shape)
    for _ in range(20):
        rollout.next_frame()
    assert (rollout.cache.keys.data_ptr(), rollout.cache.nbytes, rollout.cache.tokens_BR.shape) == before
    assert not rollout._seen
