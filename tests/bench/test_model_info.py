"""What a model is, and what its clips take, from Python."""

import shutil

import pytest

from reelm.bench.model_info import describe_model, plan_clips
from reelm.core.errors import ReelmError
from reelm.generation.memory_plan import plan_memory
from reelm.generation.pretrained import read_config


def test_a_description_has_the_sizes_and_the_versions(debug_checkpoint, debug_generator, capsys):
    found = describe_model(str(debug_checkpoint), device="cpu", weights="full", cache="int8")
    sizes = debug_generator.parts.sizes()
    assert {name: found[name] for name in sizes} == sizes
    assert (found["device"], found["dtype"], found["cache"]) == ("cpu", "float32", "int8")
    assert len(str(found).splitlines()) == len(found)
    assert capsys.readouterr() == ("", "")


def test_a_plan_is_that_of_the_config_alone(debug_checkpoint, tmp_path):
    shutil.copy(debug_checkpoint / "config.json", tmp_path)
    found = plan_clips(str(tmp_path), seconds=20, batch=3, device="cpu")
    assert found.plan == plan_memory(read_config(tmp_path), seconds=20, batch=3, device="cpu")
    assert plan_clips(str(tmp_path), device="cpu").plan.seconds == 2.0
    assert (found.most_clips is None) == (found.available is None)
    assert {"model", "total", "available", "most_clips"} <= set(found.values())
    assert len(str(found).splitlines()) == len(found.values())


def test_a_preset_beside_a_model_is_refused():
    with pytest.raises(ReelmError, match="preset: must not be given with a model, got 'mine'"):
        plan_clips("mine", preset="cosmos-4b")
