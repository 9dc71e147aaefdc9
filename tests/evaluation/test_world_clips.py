import pytest
import torch

from reelm.core.errors import ReelmError
from reelm.evaluation.world_clips import _kept, evaluate_model, evaluate_tokenizer
from reelm.training.samples import write_samples
from reelm.world.render import render
from reelm.world.scene import sample_scene


def test_a_model_with_random_weights_is_judged_as_such(debug_generator, tmp_path):
    report = evaluate_model(
        debug_generator, prompts=6, two_objects=2, clips=6, batch=4, contact_sheet=tmp_path / "sheet.png"
    )
    assert report["judge_on_rendered_clips"]["all"] == 1.0
    assert report["generated_one_object"]["all"] == 0.0
    assert report["generated_two_objects"]["n"] == 2
    assert 0 < report["tokenizer"]["codes_used"] <= 1
    assert "psnr db" in str(report)
    assert report["generated_one_object"]["decoder"] == "jacobi"
    assert report["generated_one_object"]["tokens_per_pass"] > 1
    assert (tmp_path / "sheet.png").read_bytes().startswith(b"\x89PNG")


def test_how_clips_are_drawn_may_be_chosen(debug_generator):
    options = {"prompts": 2, "two_objects": 0, "clips": 1}
    report = evaluate_model(debug_generator, **options, decoder="sequential", guidance_scale=1.0)
    assert report["generated_one_object"]["tokens_per_pass"] == 1
    assert report["sampling"]["guidance_scale"] == 1.0
    frame_size = debug_generator.parts.lm.layout.frame_size
    blocks = [evaluate_model(debug_generator, **options, block_size=size) for size in (2, frame_size)]
    few, many = (report["generated_one_object"]["tokens_per_pass"] for report in blocks)
    assert few < many


def test_a_perfect_codec_has_the_judges_own_accuracy(debug_generator, monkeypatch):
    tokenizer = debug_generator.parts.tokenizer
    scenes = [sample_scene(3, index, split="held-out", objects=1) for index in range(6)]
    clips = render(scenes, 17)
    monkeypatch.setattr(type(tokenizer), "decode_chunk", lambda self, tokens, state: (clips.float() / 255, None))
    report = evaluate_tokenizer(tokenizer, scenes)
    assert report["judge_on_reconstructions"] == report["judge_on_rendered_clips"]
    assert report["tokenizer"]["psnr_db"] > 90


def test_only_cells_that_nothing_near_moves_count_as_still():
    clips = torch.zeros(1, 9, 32, 32, 3, dtype=torch.uint8)
    tokens = torch.zeros(1, 3, 4, 4, dtype=torch.int64)
    assert len(_kept(clips, tokens)) == 32
    clips[0, 6, 18, 18] = 9  # in latent frame 2, cell (2, 2), within half a cell of cells (1, 1) to (2, 2)
    tokens[0, 2, 2, 2] = 1
    kept = _kept(clips, tokens)
    assert len(kept) < 32
    assert kept.all()
    tokens[0, 2, 0, 0] = 1
    assert not _kept(clips, tokens).all()


def test_what_moves_in_a_latent_frame_0_of_several_frames_is_not_still_after_it():
    clips, tokens = torch.zeros(1, 12, 32, 32, 3, dtype=torch.uint8), torch.zeros(1, 3, 4, 4, dtype=torch.int64)
    assert len(_kept(clips, tokens, 4)) == 32
    clips[0, 2:, 18, 18] = 9  # changes within latent frame 0, in cell (2, 2) and within half a cell of three others
    tokens[0, 0, 2, 2] = 1
    kept = _kept(clips, tokens, 4)
    assert len(kept) == 32 - 4 and kept.all()
    clips[0, 4:, 18, 18] = 0  # changes into latent frame 1
    assert len(_kept(clips, tokens, 4)) == 32 - 8


@pytest.mark.parametrize("options", [{"prompts": 0}, {"two_objects": -1}, {"clips": 0}, {"batch": 0}, {"seed": -1}])
def test_options_out_of_range_are_refused(debug_generator, options):
    with pytest.raises(ReelmError, match=next(iter(options))):
        evaluate_model(debug_generator, **options)


def test_samples_are_drawn(debug_generator, tmp_path):
    write_samples(debug_generator.parts, ["a red ball", "grass"], tmp_path / "samples.png")
    assert (tmp_path / "samples.png").stat().st_size > 1000
