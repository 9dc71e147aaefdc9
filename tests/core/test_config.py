import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reelm.core.config import from_dict, to_dict
from reelm.core.errors import ReelmError
from reelm.sampling.plan import SamplingConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig


@given(st.sampled_from([8, 16]), st.integers(1, 64), st.sampled_from(["fsq", "vq", "lfq"]))
def test_a_config_survives_json(spatial, width, kind):
    config = from_dict(TokenizerConfig, {"spatial": spatial, "encoder_width": width, "quantizer": {"kind": kind}})
    assert from_dict(TokenizerConfig, json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"encoder_widht": 8}, "unknown option 'encoder_widht'"),
        ({"encoder_width": "8"}, r"config.encoder_width: must be int, got '8'"),
        ({"encoder_width": True}, "must be int"),
        ({"decoder_widths": 8}, "decoder_widths"),
        ({"quantizer": {"kind": "pq"}}, r"config.quantizer.kind"),
        ([], "must be a table"),
    ],
)
def test_a_wrong_config_is_refused_by_name(values, message):
    with pytest.raises(ReelmError, match=message):
        from_dict(TokenizerConfig, values)


def test_null_and_whole_numbers_fit_optional_and_float_fields():
    config = from_dict(SamplingConfig, {"top_k": None, "temperature": 1})
    assert config.top_k is None
    assert isinstance(config.temperature, float)
