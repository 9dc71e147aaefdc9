"""Published Cosmos tokenizers become folders of reelm; what is wrong with one is said, and nothing is written then."""

import shutil

import numpy as np
import pytest
import torch
from torch import nn

from reelm import VideoGenerator
from reelm.core.errors import CheckpointError, ReelmError
from reelm.data.rendered import encode_world
from reelm.generation.pretrained import FORMAT, ModelConfig, save_pretrained
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.tokenizer.codec_files import load_tokenizer
from reelm.tokenizer.codecs import count_parameters, tokenizer_bytes
from reelm.tokenizer.cosmos_archive import convert_cosmos
from reelm.tokenizer.cosmos_config import CosmosConfig
from reelm.tokenizer.cosmos_tokenizer import CosmosTokenizer

CONFIG = CosmosConfig(temporal=4, spatial=8, channels=8, multipliers=(1, 2), blocks=1, latent_channels=4)


class Tables(nn.Module):
    """Tables that the published archives hold beside the weights."""

    def __init__(self, **tables):
        super().__init__()
        for name, table in tables.items():
            self.register_buffer(name, torch.as_tensor(table), persistent=False)


def archive(parts, path):
    """Write modules as an archive of TorchScript, with their names."""
    network = nn.Module()
    for name, part in parts.items():
        network.add_module(name, nn.Module())
        tree(network.get_submodule(name), part)
    torch.jit.script(network).save(str(path))


def tree(target, source):
    """Give a module the tensors of another one, without its code."""
    for name, tensor in [*source.named_parameters(recurse=False), *source.named_buffers(recurse=False)]:
        target.register_buffer(name, tensor.detach())
    for name, child in source.named_children():
        target.add_module(name, nn.Module())
        tree(target.get_submodule(name), child)


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A folder as it is published, and the tokenizer in it."""
    torch.manual_seed(0)
    tokenizer = CosmosTokenizer(CONFIG).bfloat16().float().eval().requires_grad_(False)
    tokenizer.encoder.norm_out.norm.bias.fill_(2.0**-30)  # which float16 does not have
    folder = tmp_path_factory.mktemp("published") / "Tiny-DV4x8x8-720p"
    folder.mkdir()
    tables = Tables(_levels=CONFIG.levels, _basis=[1, 8, 64, 512, 2560, 12800])
    archive({"encoder": tokenizer.encoder, "quant_conv": tokenizer.quant_conv, "quantizer": tables},
            folder / "encoder.jit")  # fmt: skip
    archive({"post_quant_conv": tokenizer.post_quant_conv, "decoder": tokenizer.decoder}, folder / "decoder.jit")
    return folder, tokenizer


def test_a_published_folder_becomes_the_same_tokenizer(published, tmp_path, run):
    folder, tokenizer = published
    code, out, _ = run("convert", folder, tmp_path / "cosmos")
    count = len(tokenizer.state_dict())
    assert (
        code == 0
        and f"a tokenizer of 4x8x8, {count} tensors" in out
        and "left out: encoder.jit: quantizer._levels" in out
    )
    assert {path.name for path in (tmp_path / "cosmos").iterdir()} == {"tokenizer.json", "tokenizer.safetensors"}
    found = load_tokenizer(tmp_path / "cosmos", device="cpu")
    assert found.config == CONFIG and found.tokens_id == tokenizer.tokens_id
    assert all(torch.equal(tensor, found.state_dict()[name]) for name, tensor in tokenizer.state_dict().items())
    assert count_parameters(CONFIG) == sum(parameter.numel() for parameter in tokenizer.parameters())
    assert tokenizer_bytes(CONFIG) == 4 * count_parameters(CONFIG)


def test_its_compression_is_given_where_the_name_has_none(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / "renamed")
    with pytest.raises(ReelmError, match=r"compression: must be 4x8x8, 8x8x8 or 8x16x16, or a part .*, got 'renamed'"):
        convert_cosmos(folder, tmp_path / "out")
    assert convert_cosmos(folder, tmp_path / "out", compression="4x8x8").config == CONFIG


def renamed(parts):
    end = parts["encoder"].norm_out
    end.other = end.norm
    del end.norm
    return parts


def narrowed(parts):
    parts["encoder"].mid.block_1.conv1[0].conv3d.weight = nn.Parameter(torch.zeros(3, 16, 1, 3, 3))
    return parts


def scalar(parts):
    parts["encoder"].conv_in[0].conv3d.weight = nn.Parameter(torch.tensor(1.0))
    return parts


def not_finite(parts):
    parts["encoder"].mid.block_1.conv1[0].conv3d.bias.fill_(torch.nan)
    return parts


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        (renamed, r"must have the \d+ tensors of this tokenizer, got \d+, without encoder.norm_out.norm.bias"),
        (narrowed, r"encoder.mid.block_1.conv1.0.conv3d.weight must have the shape \(16, 16, 1, 3, 3\), got \(3, "),
        (scalar, "must hold the weights of a Cosmos tokenizer: "),
        (not_finite, "encoder.mid.block_1.conv1.0.conv3d.bias must have finite floating-point values"),
        (lambda parts: {"quant_conv": parts["quant_conv"]}, "must hold the weights of a Cosmos tokenizer: .*conv_in"),
    ],
)
def test_other_weights_are_refused_and_nothing_is_written(published, tmp_path, change, rule):
    folder = shutil.copytree(published[0], tmp_path / published[0].name)
    tokenizer = load_tokenizer_of(published[1])
    parts = change({"encoder": tokenizer.encoder, "quant_conv": tokenizer.quant_conv})
    archive(parts, folder / "encoder.jit")
    with pytest.raises(CheckpointError, match=rule):
        convert_cosmos(folder, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == [folder.name]


def load_tokenizer_of(tokenizer):
    """Return a copy that may be changed."""
    copy = CosmosTokenizer(CONFIG).requires_grad_(False)
    copy.load_state_dict(tokenizer.state_dict())
    return copy


def test_missing_files_and_used_folders_are_refused(published, tmp_path):
    folder = shutil.copytree(published[0], tmp_path / published[0].name)
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "mine.txt").touch()
    with pytest.raises(ReelmError, match="target: must be new or empty"):
        convert_cosmos(folder, tmp_path / "used")
    (folder / "decoder.jit").unlink()
    with pytest.raises(CheckpointError, match=r"decoder.jit: must be an archive that torch has saved"):
        convert_cosmos(folder, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == [folder.name, "used"]


def test_clips_are_encoded_and_a_model_over_it_generates_and_continues(published, tmp_path):
    convert_cosmos(published[0], tmp_path / "cosmos")
    tokenizer = load_tokenizer(tmp_path / "cosmos", device="cpu")
    encode_world(tokenizer, tmp_path / "tokens", clips=2, num_frames=5, seed=1, height=32, width=32)
    assert len(list((tmp_path / "tokens").iterdir())) == 1
    lm = LMConfig(vocab_size=64000, rows=4, columns=4, width=16, depth=1, heads=2, kv_heads=1, head_dim=8, hidden=16,
                  neighbour_dim=4)  # fmt: skip
    model = VideoTransformer(lm)
    model.text = TextEncoder(train_text(["a red ball moves left", "a blue ring spins over grass"]))
    save_pretrained(
        tmp_path / "model",
        ModelConfig(format=FORMAT, fps=8.0, height=32, width=32, tokenizer=CONFIG, lm=lm),
        tokenizer,
        model,
    )
    generator = VideoGenerator.from_pretrained(tmp_path / "model", device="cpu")
    assert generator.parts.tokenizer_id == tokenizer.tokens_id
    video = generator.generate("a red ball", num_frames=13, seed=2)
    again = load_tokenizer(tmp_path / "model", device="cpu").decode(
        torch.from_numpy(np.array(video.tokens))[None].long()
    )
    shown = (again[0].clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    assert np.abs(video.frames.astype(int) - shown).max() <= 1
    longer = generator.continue_clip(video, num_frames=8)
    whole = generator.generate("a red ball", num_frames=21, seed=2)
    assert np.array_equal(longer.tokens, whole.tokens) and len(longer.frames) == 21
