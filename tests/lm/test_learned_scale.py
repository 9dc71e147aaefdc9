import torch

from reelm.core.condition import Guidance, Text

SCALES = (1.0, 0.5, 2.0, 3.999)


def test_a_scale_of_one_is_the_model_without_scales_and_others_are_not(guided_generator):
    model = guided_generator.parts.lm
    tokens_1S = torch.arange(48)[None] % 25
    plain = model.oracle(tokens_1S, [(Text("a red ball"),)])
    for scale in SCALES:
        same = torch.equal(model.oracle(tokens_1S, [(Text("a red ball"), Guidance(scale))]), plain)
        assert same == (scale == 1)


def test_steps_over_a_cache_equal_whole_passes_for_rows_of_several_scales(guided_generator):
    model = guided_generator.parts.lm
    conditions = [(Text("a red ball"), Guidance(scale)) for scale in SCALES] + [(Text("a red ball"),)]
    tokens_BS = torch.randint(25, (len(conditions), 48), generator=torch.Generator().manual_seed(0))
    cache = model.make_cache(len(conditions))
    model.condition(cache, range(len(conditions)), conditions)
    expected, found = model.oracle(tokens_BS, conditions), []
    for part in tokens_BS.split(24, 1):
        cache.put_tokens(part)
        found.append(model.step(cache, 24))
        cache.advance(24)
    torch.testing.assert_close(torch.cat(found, 1), expected, rtol=1e-4, atol=1e-4)
