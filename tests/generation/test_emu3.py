"""Emu3 as transformers saves it is converted and gives the same logits, codes, pixels and tokens; bad ones are not."""

import json
import shutil

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from reelm import VideoGenerator
from reelm.core.condition import Text
from reelm.core.errors import CheckpointError, ReelmError
from reelm.generation.model_conversion import convert
from reelm.lm.emu3_folder import Emu3Folder
from reelm.sampling.engine import Engine
from reelm.sampling.plan import ClipPlan, NoiseKey, SamplingConfig
from reelm.sampling.teacher import TeacherForcing
from reelm.tests import emu3_models
from reelm.tests.emu3_models import CODES, FIRST, publish, sequence

SIZE = {"height": 8, "width": 12}  # 2 x 3 tokens
INDEX, HEAD = "model.safetensors.index.json", "text_model.lm_head.weight"


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published") / "emu3")


@pytest.fixture(scope="module", params=[1, 4], ids=["pictures", "clips"])
def generator(request, published, tmp_path_factory):
    target = tmp_path_factory.mktemp("converted") / "emu3"
    frames = None if request.param == 1 else request.param
    report = convert(published, target, latent_frames=frames, **SIZE)
    assert report.tensors == 15 and report.left_out == ()
    return VideoGenerator.from_pretrained(target, device="cpu")


def frames_of(generator):
    return generator.parts.config.lm.frames


def length_of(generator):
    return generator.parts.tokenizer.compression.frames(frames_of(generator))


def logits_of_reference(generator, prompt, tokens_S):
    ids, places = sequence(generator.parts.lm.text.encode(prompt), tokens_S, frames_of(generator))
    logits = emu3_models.reference()(input_ids=torch.tensor([ids])).logits[0]
    return logits[places, FIRST : FIRST + CODES]


@pytest.mark.parametrize("block", [1, 2, 5, 6])
def test_logits_are_those_of_transformers(generator, block):
    lm, count = generator.parts.lm, 6 * frames_of(generator)
    tokens_S = torch.randint(CODES, (count,), generator=torch.Generator().manual_seed(block))
    wanted = logits_of_reference(generator, "a red ball", tokens_S)
    oracle = lm.oracle(tokens_S[None], [(Text("a red ball"),)])[0]
    torch.testing.assert_close(oracle, wanted, rtol=0, atol=1e-4)
    forced, found = TeacherForcing(tokens_S[None], block), []
    engine = Engine(lm, SamplingConfig(guidance_scale=1.0), decoder=forced)
    engine.add(ClipPlan(prompts=((0, "a red ball"),), key=NoiseKey(0)))
    for _ in range(-(-count // block)):
        engine.step()
        found.append(forced.logits_RLV[0])
    torch.testing.assert_close(torch.cat(found), wanted, rtol=0, atol=1e-4)
    assert wanted.std() > 0.5


@pytest.mark.parametrize("decoder", ["sequential", "jacobi"])
def test_the_best_tokens_of_the_whole_layout_are_those_of_transformers(generator, decoder):
    video = generator.generate("blue ball", temperature=0, guidance_scale=1.0, seed=0, decoder=decoder,
                               num_frames=length_of(generator))  # fmt: skip
    tokens = []
    while len(tokens) < video.tokens.size:
        logits = logits_of_reference(generator, "blue ball", [*tokens, 0])
        tokens.append(int(logits[-1].argmax()))
    assert video.tokens.flatten().tolist() == tokens
    assert len(set(tokens)) > 2 and video.stats["passes"] <= len(tokens), "no pass is spent on a delimiter"


def test_guidance_is_that_of_transformers(generator):
    video = generator.generate("a red ball", negative_prompt="blue", temperature=0, guidance_scale=2.5, seed=0,
                               num_frames=length_of(generator))  # fmt: skip
    tokens = []
    while len(tokens) < video.tokens.size:
        both = [logits_of_reference(generator, prompt, [*tokens, 0])[-1] for prompt in ("a red ball", "blue")]
        prompted, negative = (each.log_softmax(-1) for each in both)
        tokens.append(int((negative + 2.5 * (prompted - negative)).argmax()))
    assert video.tokens.flatten().tolist() == tokens


def test_codes_and_pixels_of_pictures_are_those_of_transformers(generator):
    codec, reference = generator.parts.tokenizer, emu3_models.reference().model.vqmodel
    if not codec.config.pictures:
        pytest.skip("clips are compared as clips")
    pictures_BHW3 = torch.rand(3, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    codes = reference.encode(pictures_BHW3.permute(0, 3, 1, 2) * 2 - 1, torch.tensor([[8, 12]] * 3)).image_tokens
    found = codec.encode(pictures_BHW3[:, None])
    assert torch.equal(found[:, 0], torch.stack(codes)) and found.unique().numel() > 2
    wanted = reference.decode(torch.stack(codes)).permute(0, 2, 3, 1)
    torch.testing.assert_close(codec.decode(found)[:, 0] * 2 - 1, wanted, rtol=0, atol=1e-4)


def test_codes_and_pixels_of_clips_are_those_of_transformers_whole_and_as_a_stream(generator):
    codec, reference = generator.parts.tokenizer, emu3_models.reference().model.vqmodel
    if codec.config.pictures:
        pytest.skip("pictures are compared as pictures")
    clip_THW3 = torch.rand(16, 8, 12, 3, generator=torch.Generator().manual_seed(0))
    # It cuts the codes of a clip to the "height" in latent frames and to the "width" in rows; this size cuts nothing.
    (codes_thw,) = reference.encode(clip_THW3.permute(0, 3, 1, 2)[None] * 2 - 1, torch.tensor([[64, 64]])).image_tokens
    found = codec.encode(clip_THW3[None])
    assert torch.equal(found[0], codes_thw) and len(codes_thw) == 4
    wanted = reference.decode(codes_thw[None])[0].permute(0, 2, 3, 1)
    whole = codec.decode(found)
    torch.testing.assert_close(whole[0] * 2 - 1, wanted, rtol=0, atol=1e-4)
    state, tokens, frames = None, [], []
    for part in (clip_THW3[:4], clip_THW3[4:8], clip_THW3[8:]):
        part_tokens, state = codec.encode_chunk(part[None], state)
        tokens.append(part_tokens)
    assert torch.equal(torch.cat(tokens, 1), found)
    states = [None, None]
    for index in range(4):
        made, states = codec.decode_frame(found[0, index].expand(2, -1, -1), states)
        torch.testing.assert_close(made[0], made[1], rtol=0, atol=1e-5)
        frames.append(made[0])
    torch.testing.assert_close(torch.cat(frames), whole[0], rtol=0, atol=1e-5)


def test_decoders_batches_and_sessions_agree(generator, tmp_path):
    length = {"num_frames": 16} if frames_of(generator) > 1 else {}
    options = {"guidance_scale": 2.0, "top_k": 9, **length}
    alone = generator.generate("a red ball", seed=3, **options)
    batch = generator.generate(["blue", "a red ball"], seed=[1, 3], decoder="jacobi", block_size=4, **options)
    assert np.array_equal(batch[1].tokens, alone.tokens)
    assert alone.frames.shape == (length.get("num_frames", 1), 8, 12, 3)
    assert generator.score(alone).nats > 0
    if length:
        start = generator.generate("a red ball", seed=3, **options | {"num_frames": 8})
        for source in (start, start.state.save(tmp_path / "a.safetensors")):
            assert np.array_equal(generator.continue_clip(source, num_frames=8).tokens, alone.tokens)
        longer = generator.continue_clip(alone, num_frames=12)  # beyond the clips of training
        assert np.array_equal(longer.tokens[:4], alone.tokens) and len(longer.tokens) == 7
        streamed = np.concatenate(list(generator.stream("a red ball", seed=3, **options)))
        assert np.array_equal(streamed, alone.frames)


def test_what_such_a_model_does_not_do_is_refused(generator):
    with pytest.raises(ReelmError, match=r"^decoder: must not be 'diagonal' for this model"):
        generator.generate("a red ball", decoder="diagonal")
    with pytest.raises(ReelmError, match=r"^prompt: must be at most \d+ text tokens long"):
        generator.parts.lm.unknown_words("a " * 300, "prompt")
    assert len(generator.parts.lm.shorten("a " * 300).split()) < 256
    if frames_of(generator) == 1:
        clip = generator.generate("blue", seed=1)
        for call in (lambda: generator.generate("blue", num_frames=5), lambda: generator.continue_clip(clip),
                     lambda: generator.stream("blue")):  # fmt: skip
            with pytest.raises(ReelmError, match=r"^num_frames: must be 1 for a model of single pictures"):
                call()


def edit(file, change):
    values = json.loads(file.read_text())
    change(values)
    file.write_text(json.dumps(values))


def edit_shard(folder, change):
    """Change the tensors of the shard that holds the head."""
    file = folder / json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"][HEAD]
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file)


def truncated(folder):
    file = min(folder.glob("*.safetensors"))
    file.write_bytes(file.read_bytes()[:-100])


def config(change):
    return lambda folder: edit(folder / "config.json", change)


def index(change):
    return lambda folder: edit(folder / INDEX, change)


def shard(change):
    return lambda folder: edit_shard(folder, change)


def without_head(folder):
    edit_shard(folder, lambda tensors: tensors.pop(HEAD))
    edit(folder / INDEX, lambda values: values["weight_map"].pop(HEAD))


@pytest.mark.parametrize("change", [lambda text: text.pop("bos_token_id"), lambda text: text.update(bos_token_id=None)])
def test_a_config_that_does_not_name_the_begin_token_has_the_published_one(published, tmp_path, change):
    folder = shutil.copytree(published, tmp_path / "emu3")
    config(lambda values: (values["text_config"].update(vocab_size=184622), change(values["text_config"])))(folder)
    assert Emu3Folder(folder).config(rows=2, columns=3, frames=1).begin_id == 151849


BAD = {
    "a shard missing": (lambda f: min(f.glob("*.safetensors")).unlink(), r"must hold model-\d+-of-\d+.safetensors"),
    "a shard truncated": (truncated, "must be a whole safetensors file"),
    "an index that is no JSON": (lambda f: (f / INDEX).write_text("{"), "index.json must be JSON"),
    "an index without a map": (index(lambda v: v.pop("weight_map")), "must have a weight_map"),
    "an index that leaves the folder": (
        index(lambda v: v["weight_map"].update({HEAD: "../model.safetensors"})), "must name safetensors files"),
    "an index that names a pickle": (
        index(lambda v: v["weight_map"].update({HEAD: "model.bin"})), "must name safetensors files in its folder"),
    "a tensor that its shard lacks": (shard(lambda t: t.pop(HEAD)), "must have the tensor text_model.lm_head"),
    "a tensor in no shard": (without_head, "must have the tensor lm_head.weight, got"),
    "another shape": (shard(lambda t: t.update({HEAD: torch.zeros(90, 31)})), "must have together the shape"),
    "fewer ids": (shard(lambda t: t.update({HEAD: torch.zeros(84, 32)})), "lm_head.weight must have 90 rows"),
    "an unknown tensor": (shard(lambda t: t.update(extra=torch.zeros(3))), "got extra too"),
    "NaN": (shard(lambda t: t[HEAD].fill_(torch.nan)), "head.weight: must be finite"),
    "no tokenizer of text": (lambda f: (f / "tokenizer.json").unlink(), "must hold tokenizer.json"),
    "a tokenizer that is none": (lambda f: (f / "tokenizer.json").write_text("{}"), "text.json must be a file of"),
    "no vocabulary": (config(lambda v: v.pop("vocabulary_map")), "must have vocabulary_map"),
    "fewer video tokens": (
        config(lambda v: v["vocabulary_map"].pop("<|visual token 000023|>")), "must have 24 video tokens"),
    "a video token elsewhere": (
        config(lambda v: v["vocabulary_map"].update({"<|visual token 000003|>": 80})), "one after the other"),
    "a delimiter missing": (config(lambda v: v["vocabulary_map"].pop("<|extra_200|>")), "extra_200"),
    "other heads": (config(lambda v: v["text_config"].update(num_key_value_heads=1)), "together the shape"),
    "other layers": (config(lambda v: v["text_config"].update(num_hidden_layers=1)), "too$"),
    "another codec": (config(lambda v: v["vq_config"].update(base_channels=64)), "together the shape"),
    "another rotation": (
        config(lambda v: v["text_config"]["rope_parameters"].update(rope_type="yarn")), "rope_type must be 'def"),
    "a size that no tensor has": (config(lambda v: v["text_config"].update(hidden_size=2**62)), "must have sizes of a"),
    "a size that is no integer": (config(lambda v: v["text_config"].update(hidden_size=2.5)), "config.json must"),
    "a code of 5,000 digits": (
        config(lambda v: v["vocabulary_map"].update({f"<|visual token {'9' * 5000}|>": 80})), "must be that of Emu3"),
    "more layers than any": (config(lambda v: v["text_config"].update(num_hidden_layers=10**9)), "at most 1000 lay"),
    "words beyond the ids": (
        lambda f: (f / "tokenizer.json").write_text(emu3_models.words_file().replace('"ball":3', '"ball":500')),
        "must have ids below the model's 90, got 500"),
    "a config of another model": (config(lambda v: v.update(model_type="llama")), "must hold model.pt"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_folders_are_refused_and_nothing_is_written(case, published, tmp_path):
    change, rule = BAD[case]
    source = shutil.copytree(published, tmp_path / "in")
    change(source)
    tokenizer = {"tokenizer": tmp_path} if case == "a config of another model" else {}
    with pytest.raises(CheckpointError, match=rule):
        convert(source, tmp_path / "out", **tokenizer, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_one_file_without_an_index_is_read_too(tmp_path, generator):
    if frames_of(generator) > 1:
        pytest.skip("once is enough")
    source = publish(tmp_path / "in", shard_size="1GB")
    assert [path.name for path in source.glob("*.safetensors*")] == ["model.safetensors"]
    convert(source, tmp_path / "out", **SIZE)
    again = VideoGenerator.from_pretrained(tmp_path / "out", device="cpu")
    assert np.array_equal(again.generate("blue", seed=1).tokens, generator.generate("blue", seed=1).tokens)


def test_options_of_other_kinds_are_refused(published, tmp_path):
    with pytest.raises(ReelmError, match=r"^tokenizer: must not be given for Emu3, which has its tokenizer with it"):
        convert(published, tmp_path / "out", tokenizer=tmp_path, **SIZE)
    with pytest.raises(ReelmError, match=r"^height: must be a multiple of 4, got 9"):
        convert(published, tmp_path / "out", height=9, width=12)
