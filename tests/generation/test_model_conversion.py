"""Published models of Cosmos-Predict1 become checkpoint folders that are used like any other; bad ones are refused."""

import json
import shutil
import subprocess
import sys
import zipfile

import numpy as np
import pytest
import torch
from safetensors import safe_open

from reelm import VideoGenerator
from reelm.bench.sampling import benchmark
from reelm.core.checkpoint import save_json
from reelm.core.condition import Embedding
from reelm.core.errors import CheckpointError, ReelmError
from reelm.generation.memory_plan import plan_memory
from reelm.generation.model_conversion import MODEL, convert
from reelm.generation.pretrained import read_config
from reelm.generation.video import Video
from reelm.sampling.plan import SamplingConfig
from reelm.tests.lm import plain_cosmos_lm as plain
from reelm.tokenizer.codec_files import SIZES, save_codec_weights
from reelm.tokenizer.codecs import write_codec_config
from reelm.tokenizer.cosmos_config import CosmosConfig
from reelm.tokenizer.cosmos_tokenizer import CosmosTokenizer

CODEC = CosmosConfig(
    temporal=8, spatial=16, channels=8, multipliers=(1, 2, 2), blocks=1, latent_channels=4, levels=(8, 5)
)
SIZE = {"height": 32, "width": 48}
PREDICT = plain.sizes(rows=2, columns=3)
TEXT = plain.sizes(rows=2, columns=3, context=10, states=512)


def config_json(s, **changes):
    """The values of a published config.json."""
    values = {
        "dim": s["dim"], "n_heads": s["heads"], "n_kv_heads": s["kv_heads"], "n_layers": s["layers"],
        "ffn_hidden_size": s["hidden"], "norm_eps": 1e-5, "vocab_size": s["vocab"], "input_types": ["video"],
        "apply_abs_pos_emb": bool(s["context"]), "context_dim": s["context"] or None,
        "insert_cross_attn_every_k_layers": 1,
    }  # fmt: skip
    return {name: value for name, value in (values | changes).items() if value is not None}


def publish(folder, s, weights=None, *, wrap=lambda w: {"model": w}, values=None, name="model.pt"):
    """Write a folder as it is published."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = plain.published_weights(s, seed=3) if weights is None else weights
    torch.save(wrap({key: tensor.bfloat16() for key, tensor in weights.items()}), folder / name)
    (folder / "config.json").write_text(json.dumps(values or config_json(s)))
    return folder


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    """The folder of a converted tokenizer of 40 ids."""
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tokenizer")
    save_codec_weights(CosmosTokenizer(CODEC).eval(), folder)
    save_json(folder / SIZES, write_codec_config(CODEC))
    return folder


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    return publish(tmp_path_factory.mktemp("published") / "model", PREDICT)


@pytest.fixture(scope="module")
def generator(published, tokenizer, tmp_path_factory):
    target = tmp_path_factory.mktemp("converted") / "cosmos"
    convert(published, target, tokenizer=tokenizer, **SIZE)
    return VideoGenerator.from_pretrained(target, device="cpu")


@pytest.fixture(scope="module")
def text_generator(tokenizer, tmp_path_factory):
    folder = tmp_path_factory.mktemp("text")
    convert(publish(folder / "source", TEXT), folder / "cosmos", tokenizer=tokenizer, **SIZE)
    return VideoGenerator.from_pretrained(folder / "cosmos", device="cpu")


def picture(seed=0, frames=1):
    return np.random.default_rng(seed).integers(0, 256, (frames, 32, 48, 3), dtype=np.uint8)


def tensors_of(folder):
    with safe_open(folder / "lm.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (no dict)


# What is converted.


@pytest.mark.parametrize("wrap", [lambda w: w, lambda w: {f"model.{key}": x for key, x in w.items()},
                                  lambda w: {"model": {f"model.{key}": x for key, x in w.items()}}])  # fmt: skip
def test_a_published_folder_becomes_a_checkpoint_under_whatever_prefix(tmp_path, tokenizer, generator, wrap):
    source = publish(tmp_path / "source", PREDICT, wrap=wrap)
    report = convert(source, tmp_path / "out", tokenizer=tokenizer, **SIZE)
    assert report.left_out == () and report.before == 0
    found, weights = tensors_of(tmp_path / "out"), plain.published_weights(PREDICT, seed=3)
    assert len(found) == report.tensors == len(generator.parts.lm.state_dict())
    joined = [weights[f"layers.1.attention.w{part}.weight"] for part in "qkv"]
    for name, tensor in (
        ("head.weight", weights["output.weight"]),
        ("blocks.1.attention.qkv.weight", torch.cat(joined)),
    ):
        assert torch.equal(found[name], tensor.bfloat16())
    assert sum(map(torch.numel, found.values())) == sum(map(torch.numel, weights.values()))


def test_tensors_may_be_in_several_files_and_tables_are_left_out(tmp_path, tokenizer, generator):
    weights = plain.published_weights(PREDICT, seed=3) | {"rope.cos_cached": torch.ones(3)}
    names = sorted(weights)
    for part, chosen in enumerate((names[:9], names[9:])):
        publish(tmp_path / "in", PREDICT, {key: weights[key] for key in chosen}, name=f"model_{part}.pt")
    report = convert(tmp_path / "in", tmp_path / "out", tokenizer=tokenizer, **SIZE)
    assert report.left_out == ("model_1.pt: model.rope.cos_cached",)
    clip = VideoGenerator.from_pretrained(tmp_path / "out", device="cpu").continue_clip(picture(), num_frames=8, seed=1)
    assert np.array_equal(clip.tokens, generator.continue_clip(picture(), num_frames=8, seed=1).tokens)


def test_the_config_says_what_the_published_code_does(generator, text_generator):
    config, text = generator.parts.config, text_generator.parts.config
    assert config.sampling == SamplingConfig(guidance_scale=1.0, top_p=0.8) and config.fps == 25
    assert (config.lm.rows, config.lm.columns, config.lm.frames, config.lm.yarn_scale) == (2, 3, 5, 1.0)
    assert text.lm.context_dim == 10 and text_generator.parts.lm.horizon == 5
    assert generator.parts.sizes()["reads"] == [] and text_generator.parts.sizes()["reads"] == ["embedding"]


def test_yarn_is_that_of_the_config_and_of_the_sizes_of_12b(tmp_path, tokenizer):
    values = config_json(PREDICT, apply_yarn=True, yarn_scale=3)
    report = convert(publish(tmp_path / "in", PREDICT, values=values), tmp_path / "out", tokenizer=tokenizer, **SIZE)
    assert report.config.lm.yarn_scale == 3.0
    large = plain.sizes(dim=5120, layers=40, heads=1, kv_heads=1, head_dim=6, hidden=1)
    report = convert(publish(tmp_path / "12b", large), tmp_path / "large", tokenizer=tokenizer, **SIZE)
    assert report.config.lm.yarn_scale == 2.0


def test_the_command_says_what_it_reads_and_writes(published, tokenizer, tmp_path, run):
    code, out, err = run(
        "convert", published, tmp_path / "out", "--tokenizer", tokenizer, "--height", 32, "--width", 48
    )
    assert code == 0 and "a model of the kind cosmos, clips of 48x32, 19 tensors" in out
    assert "reads " in err and str(published) in err


def test_an_interrupted_conversion_goes_on_and_appears_when_it_is_whole(published, tokenizer, tmp_path, monkeypatch):
    from reelm.core.torch_archive import TorchArchive

    read, stop = TorchArchive.tensor, [7]

    def interrupted(archive, name):
        stop[0] -= 1
        if stop[0] < 0:
            raise KeyboardInterrupt
        return read(archive, name)

    target = tmp_path / "out"
    monkeypatch.setattr(TorchArchive, "tensor", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(published, target, tokenizer=tokenizer, **SIZE)
    assert not target.exists() and (tmp_path / ".out.unfinished").is_dir()
    stop[0] = 1000
    report = convert(published, target, tokenizer=tokenizer, **SIZE)
    assert 0 < report.before < report.tensors
    assert 1000 - stop[0] + 7 <= len(plain.published_weights(PREDICT, seed=3)) + 2, "what was written is not read again"
    monkeypatch.undo()
    convert(published, tmp_path / "again", tokenizer=tokenizer, **SIZE)
    assert (target / "lm.safetensors").read_bytes() == (tmp_path / "again/lm.safetensors").read_bytes()
    assert sorted(path.name for path in target.iterdir()) == ["config.json", "lm.safetensors", "tokenizer.safetensors"]


def test_what_was_begun_from_other_files_is_begun_again(published, tokenizer, tmp_path):
    unfinished = tmp_path / ".out.unfinished"
    unfinished.mkdir()
    (unfinished / "lm.safetensors").write_bytes(b"something else")
    (unfinished / "lm.safetensors.written.json").write_text('{"source": "another", "tensors": 5}')
    (unfinished / "text.json").write_text("of a model of another kind")
    (unfinished / "tokenizer").mkdir()
    assert convert(published, tmp_path / "out", tokenizer=tokenizer, **SIZE).before == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == set(MODEL)
    VideoGenerator.from_pretrained(tmp_path / "out", device="cpu")


# What a converted model does.


def test_pictures_and_clips_are_continued_beyond_the_published_length(generator):
    for frames in (1, 9, 17):
        clip = generator.continue_clip(picture(frames=frames), num_frames=8 * 9, seed=4)
        assert clip.tokens.shape == ((frames - 1) // 8 + 10, 2, 3) and len(clip.frames) == frames + 72
    again = generator.continue_clip(generator.continue_clip(picture(frames=17), num_frames=16, seed=4), num_frames=56)
    assert np.array_equal(again.tokens, clip.tokens)


def test_decoders_batches_streams_and_sessions_agree(generator, tmp_path):
    options = {"seed": 5, "num_frames": 57}
    whole = generator.generate(None, **options)
    for more in ({"decoder": "sequential"}, {"decoder": "jacobi", "block_size": 7}):
        assert np.array_equal(generator.generate(None, **options, **more).tokens, whole.tokens)
    streamed = np.concatenate(list(generator.stream(None, **options)))
    assert np.array_equal(streamed, whole.frames)
    both = generator.generate(None, num_videos_per_prompt=2, **options)
    assert np.array_equal(both[0].tokens, whole.tokens) and not np.array_equal(both[1].tokens, whole.tokens)
    start = generator.generate(None, seed=5, num_frames=25)
    session = start.state.save(tmp_path / "a.safetensors")
    assert np.array_equal(generator.continue_clip(session, num_frames=32).tokens, whole.tokens)
    saved = Video.load(start.save(tmp_path / "a.mkv"))
    assert np.array_equal(generator.continue_clip(saved, num_frames=32).tokens, whole.tokens)
    assert len(generator.score(whole).nats_per_frame) == 8


def test_embeddings_of_text_are_read_and_clips_go_on_beyond_the_horizon(text_generator):
    texts = [Embedding(np.random.default_rng(seed).normal(size=(20, 10)).astype(np.float32)) for seed in (0, 1)]
    options = {"seed": 2, "num_frames": 65}
    first, second = (text_generator.generate(None, conditions=[text], **options) for text in texts)
    assert first.tokens.shape == (9, 2, 3) and not np.array_equal(first.tokens, second.tokens)
    start = text_generator.generate(None, conditions=[texts[0]], seed=2, num_frames=41)
    assert np.array_equal(text_generator.continue_clip(start, num_frames=24).tokens, first.tokens)
    with pytest.raises(
        ReelmError, match=r"^conditions: must be one embedding of a text for this model, got \['text'\]"
    ):
        text_generator.generate(None, **options)


def test_prompts_and_guidance_are_refused_before_anything_is_drawn(generator):
    for call in (lambda: generator.generate("a car"), lambda: generator.continue_clip(picture(), prompt="a car")):
        with pytest.raises(ReelmError, match=r"^prompt: must be none: this model reads clips alone, got 'a car'"):
            call()
    with pytest.raises(ReelmError, match=r"^guidance_scale: must be 1 for a model that reads no prompts, got 3.0"):
        generator.generate(None, guidance_scale=3.0)


def test_it_is_planned_and_measured(generator):
    assert plan_memory(generator.parts.config, seconds=3, continuing=True).total > 0
    report = benchmark(generator, seconds=1.0, check=True, baselines=False)
    assert all(row["ok"] and not row["mismatching_tokens"] for row in report["rows"])


# What is refused: nothing is run, nothing is written.


def without(name):
    def change(weights, values):
        del weights[name]

    return change


def renamed(old, new):
    def change(weights, values):
        weights[new] = weights.pop(old)

    return change


def reshaped(name, *shape):
    def change(weights, values):
        weights[name] = torch.zeros(shape)

    return change


def filled(name, value):
    def change(weights, values):
        weights[name].view(-1)[-1] = value

    return change


def says(**changes):
    def change(weights, values):
        for name, value in changes.items():
            values.pop(name) if value is None else values.__setitem__(name, value)

    return change


BAD = {
    "embedding missing": (without("tok_embeddings.weight"), "must have the tensor tok_embeddings.weight"),
    "head missing": (without("output.weight"), "must have the tensor output.weight"),
    "layer missing": (without("layers.1.feed_forward.w3.weight"), "must have the tensor layers.1.feed_forward.w3"),
    "norm missing": (without("norm.weight"), "must have the tensor norm.weight"),
    "query norm missing": (without("layers.0.attention.q_norm.weight"), "must have the tensor layers.0.attention.q_n"),
    "renamed key": (renamed("layers.0.attention.wo.weight", "layers.0.attention.out.weight"),
                    "must have the tensor layers.0.attention.wo.weight"),
    "unknown tensor": (lambda w, v: w.update(extra=torch.ones(3)), "the 25 tensors of this model, got extra too"),
    "one layer too many": (lambda w, v: w.update({"layers.2.ffn_norm.weight": torch.ones(24)}),
                           "got layers.2.ffn_norm.weight too"),
    "cross-attention in a model without text": (
        lambda w, v: w.update({"layers.0.cross_attention_norm.weight": torch.ones(24)}), "cross_attention_norm.weight"),
    "wrong shape": (reshaped("layers.0.attention.wk.weight", 32, 25), r"together the shape \(128, 24\), got"),
    "wrong rows": (reshaped("layers.0.feed_forward.w1.weight", 19, 24), r"together the shape \(40, 24\), got"),
    "wrong axes": (reshaped("norm.weight", 24, 1), r"norm.weight must have together the shape \(24,\), got \(24, 1\)"),
    "scalar": (reshaped("norm.weight"), r"norm.weight must have together the shape \(24,\), got \(\)"),
    "too few ids": (reshaped("tok_embeddings.weight", 39, 24), r"the shape \(40, 24\), got \(39, 24\)"),
    "NaN": (filled("layers.1.attention.wv.weight", float("nan")), "blocks.1.attention.qkv.weight: must be finite"),
    "infinity": (filled("output.weight", float("inf")), "head.weight: must be finite, got NaN or infinity"),
    "whole numbers": (lambda w, v: w.update({"norm.weight": torch.ones(24).long()}), "one floating-point dtype"),
    "two dtypes": (lambda w, v: w.update({"layers.0.attention.wk.weight": w["layers.0.attention.wk.weight"].double()}),
                   "must have one floating-point dtype"),
    "size missing": (says(dim=None), "config.json must be that of a Cosmos-Predict1 model: 'dim'"),
    "layers missing": (says(n_layers=None), "config.json must be that of a Cosmos-Predict1 model: 'n_layers'"),
    "size of no model": (says(n_heads=0), "config.json must be that of a Cosmos-Predict1 model"),
    "heads that do not divide": (says(n_kv_heads=3), r"kv_heads: must divide heads \(4\), got 3"),
    "size that is text": (says(ffn_hidden_size="many"), "config.json must be that of a Cosmos-Predict1 model"),
    "other width": (says(dim=32), r"must have together the shape"),
    "other depth": (says(n_layers=3), "must have the tensor layers.2"),
    "other heads": (says(n_kv_heads=4), "must have together the shape"),
    "text without embeddings": (says(apply_abs_pos_emb=True), "config.json must be that of a Cosmos-Predict1 model"),
    "text that is not there": (says(apply_abs_pos_emb=True, context_dim=10), "must have together|must have the"),
    "cross-attention in some layers": (
        says(apply_abs_pos_emb=True, context_dim=10, insert_cross_attn_every_k_layers=2), "every_k_layers: must be 1"),
    "config of another model": (lambda w, v: (v.clear(), v.update(model_type="llama")), "config.json must be"),
}  # fmt: skip


@pytest.mark.parametrize("case", BAD)
def test_bad_weights_and_configs_are_refused_and_nothing_is_written(case, tokenizer, tmp_path):
    change, rule = BAD[case]
    weights, values = plain.published_weights(PREDICT, seed=3), config_json(PREDICT)
    change(weights, values)
    (tmp_path / "in").mkdir()
    torch.save({"model": weights}, tmp_path / "in/model.pt")
    (tmp_path / "in/config.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match=rule):
        convert(tmp_path / "in", tmp_path / "out", tokenizer=tokenizer, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


class Code:
    """An object whose pickle makes a file when it is read by Python."""

    def __reduce__(self):
        return (open, ("made-by-code", "w"))


def truncated(folder):
    data = (folder / "model.pt").read_bytes()
    (folder / "model.pt").write_bytes(data[: len(data) // 2])


def shortened_entry(folder):
    with zipfile.ZipFile(folder / "model.pt") as old, zipfile.ZipFile(folder / "new.pt", "w") as new:
        largest = max(old.infolist(), key=lambda entry: entry.file_size).filename
        for name in old.namelist():
            new.writestr(name, old.read(name)[: 100 if name == largest else None])
    (folder / "new.pt").replace(folder / "model.pt")


def damaged(folder):
    data = bytearray((folder / "model.pt").read_bytes())
    data[len(data) // 3] ^= 255
    (folder / "model.pt").write_bytes(data)


FILES = {
    "no weights": (lambda folder: (folder / "model.pt").unlink(), "must hold model.pt, got none"),
    "no config": (lambda folder: (folder / "config.json").unlink(), "must hold config.json or encoder.jit"),
    "config that is no JSON": (lambda folder: (folder / "config.json").write_text("{"), "config.json must be JSON"),
    "config that is no table": (lambda folder: (folder / "config.json").write_text("[]"), "must hold a table"),
    "truncated": (truncated, "model.pt: must be an archive that torch has saved"),
    "an entry cut short": (shortened_entry, "model.pt: .* must have [0-9]+ bytes, got|must be whole"),
    "a byte changed": (damaged, "model.pt"),
    "no archive": (lambda folder: (folder / "model.pt").write_text("weights"), "model.pt: must be an archive"),
    "pickle with code": (lambda folder: torch.save({"model": Code()}, folder / "model.pt"), "nothing that runs"),
    "code among the weights": (
        lambda folder: torch.save({"model": plain.published_weights(PREDICT, 3) | {"x": Code()}}, folder / "model.pt"),
        "nothing that runs"),
    "the same tensors twice": (lambda folder: shutil.copy(folder / "model.pt", folder / "model_1.pt"), "tensor once"),
    "a shard missing": (
        lambda folder: (publish(folder, PREDICT, {"norm.weight": torch.ones(24)}, name="model_1.pt"),
                        (folder / "model.pt").unlink()), "must have the tensor output.weight"),
}  # fmt: skip


@pytest.mark.parametrize("case", FILES)
def test_bad_files_are_refused_and_nothing_runs(case, published, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    change, rule = FILES[case]
    source = shutil.copytree(published, tmp_path / "in")
    change(source)
    with pytest.raises(CheckpointError, match=rule):
        convert(source, tmp_path / "out", tokenizer=tokenizer, **SIZE)
    assert [path.name for path in tmp_path.iterdir()] == ["in"], "no file was made"


def test_arguments_that_do_not_fit_are_refused(published, tokenizer, tmp_path):
    out = tmp_path / "out"
    with pytest.raises(ReelmError, match=r"^tokenizer: must be given for a model: the folder of its tokenizer"):
        convert(published, out)
    with pytest.raises(CheckpointError, match=r"^tokenizer: must be a folder with encoder.jit or tokenizer.json"):
        convert(published, out, tokenizer=tmp_path)
    with pytest.raises(ReelmError, match=r"^height: must be a multiple of 16, got 40"):
        convert(published, out, tokenizer=tokenizer, height=40, width=48)
    other = shutil.copytree(tokenizer, tmp_path / "other")
    save_json(other / SIZES, write_codec_config(CODEC) | {"levels": [8, 4]})
    with pytest.raises(CheckpointError, match=r"^tokenizer: must have the 40 ids of the model, got 32"):
        convert(published, out, tokenizer=other, **SIZE)
    out.mkdir()
    (out / "mine.txt").write_text("kept")
    with pytest.raises(ReelmError, match=r"^target: must be new or empty"):
        convert(published, out, tokenizer=tokenizer, **SIZE)
    assert (out / "mine.txt").read_text() == "kept"


PEAK = """
import resource, sys
from pathlib import Path
from reelm.generation.model_conversion import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[1]), Path(sys.argv[2]), tokenizer=Path(sys.argv[3]), height=32, width=48)
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024)
"""


def test_memory_holds_one_tensor_at_a_time(tokenizer, tmp_path):
    wide = plain.sizes(dim=640, layers=6, heads=5, kv_heads=5, head_dim=128, hidden=2560)
    source = publish(tmp_path / "in", wide)
    command = [sys.executable, "-c", PEAK, source, tmp_path / "out", tokenizer]
    grown = int(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    largest, whole = 2 * 640 * 2 * 2560, (source / "model.pt").stat().st_size
    assert grown < 2 * largest + 40 * 2**20 < whole
    assert read_config(tmp_path / "out").lm.width == 640
