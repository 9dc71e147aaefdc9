"""The second stage: the decoder alone is trained, and every token stays what it was."""

import dataclasses
import json
import os
import signal

import pytest
import torch
from torch import nn

from reelm.core.checkpoint import load_tensors
from reelm.core.config import from_dict
from reelm.core.errors import CheckpointError, ReelmError
from reelm.data.rendered import encode_world
from reelm.data.token_shards import read_shards
from reelm.evaluation.lpips import load_lpips
from reelm.tokenizer.codec_files import load_tokenizer
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.training.discriminator import Discriminator, hinge
from reelm.training.ranks import WHOLE_BATCH
from reelm.training.second_stage import SecondStage
from reelm.training.state_folders import newest_state
from reelm.training.tokenizer_training import TokenizerTraining, TrainingClips, train_tokenizer
from reelm.training.train_config import TrainConfig


def recipe(kind="fsq", **changes):
    quantizer = QuantizerConfig(kind=kind, levels=(5, 5), codebook_size=16, spread=0.1)
    model = TokenizerConfig(encoder_width=8, decoder_widths=(8,), decoder_depth=(1,), quantizer=quantizer)
    # A decay of the weights that would be seen on what has no gradient.
    train = TrainConfig(
        **({"steps": 3, "warmup": 1, "report_steps": 1, "weight_decay": 0.5} | changes.pop("train", {}))
    )
    sizes = {"batch_size": 1, "num_frames": 5, "height": 16, "width": 16}
    return TokenizerTraining(**({"model": model, "train": train} | sizes | changes))


class Features(nn.Module):
    """A tiny network of the signature of StyleGAN's vgg16.pt; it refuses other calls and other ranges."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3, stride=2)

    def forward(self, img: torch.Tensor, resize_images: bool = True, return_lpips: bool = False):
        assert not resize_images
        assert return_lpips
        assert img.dtype == torch.float32
        return self.conv(img / 255 - 0.5).relu().flatten(1)


@pytest.fixture(scope="module")
def network(tmp_path_factory):
    """The file of a TorchScript network."""
    torch.manual_seed(5)
    path = tmp_path_factory.mktemp("network") / "features.pt"
    torch.jit.script(Features()).save(str(path))
    return path


@pytest.fixture(scope="module")
def first(tmp_path_factory):
    """The folders of first stages, by kind of quantizer."""
    folder = tmp_path_factory.mktemp("first")
    for kind in ("fsq", "vq"):
        train_tokenizer(recipe(kind, train={"steps": 2}), folder / kind, device="cpu")
    return folder


def second(folder, out, kind="fsq", **options):
    rest = {name: options.pop(name) for name in ("resume", "clips") if name in options}
    return train_tokenizer(recipe(kind, **options), out, decoder_of=folder / kind, device="cpu", **rest)


def noise_clips(stop_in=None):
    """Clips of one's own; with a folder, a run in it is stopped at its second step."""

    def batch(step, share=WHOLE_BATCH):
        if stop_in is not None and step == 1 and not newest_state(stop_in):
            os.kill(os.getpid(), signal.SIGTERM)
        noise = torch.Generator().manual_seed(step)
        return share.of(torch.randint(256, (1, 5, 16, 16, 3), generator=noise, dtype=torch.uint8))

    return TrainingClips(batch=batch, held_out=[("a.mp4", batch(1000)[0])])


def losses(network):
    return {"adversarial_weight": 0.5, "perceptual_weight": 0.5, "lpips_weights": network}


# A learned codebook moves by itself in training, and codes that nothing uses are replaced: not here.
@pytest.mark.parametrize("kind", ["fsq", "vq"])
@pytest.mark.parametrize("sharper", [False, True])
def test_the_decoder_changes_and_no_token_does(tmp_path, first, network, kind, sharper):
    made = second(first, tmp_path / "sharper", kind, **(losses(network) if sharper else {}))
    before = load_tensors(first / kind / "tokenizer.safetensors")
    after = load_tensors(tmp_path / "sharper" / "tokenizer.safetensors")
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        if not name.startswith("decoder."):
            assert tensor.dtype == after[name].dtype
            assert torch.equal(tensor, after[name]), name
    decoder = [name for name in before if name.startswith("decoder.")]
    assert sum(not torch.equal(before[name], after[name]) for name in decoder) > len(decoder) / 2
    old, new = load_tokenizer(first / kind, device="cpu"), load_tokenizer(tmp_path / "sharper", device="cpu")
    assert old.config == new.config
    frames = noise_clips().batch(7)
    tokens = old.encode(frames)
    assert torch.equal(tokens, new.encode(frames))
    assert not torch.equal(old.decode(tokens), new.decode(tokens))
    assert torch.equal(new.decode(tokens), made.decode(tokens))


def test_token_shards_of_the_first_stage_are_those_of_the_second(tmp_path, first):
    second(first, tmp_path / "sharper")
    options = {"clips": 2, "num_frames": 5, "seed": 1, "height": 16, "width": 16}
    encode_world(load_tokenizer(first / "fsq", device="cpu"), tmp_path / "tokens", **options)
    (path,) = (tmp_path / "tokens").iterdir()
    written, shards = path.stat().st_mtime_ns, read_shards(tmp_path / "tokens")[0].tokens_Bthw
    encode_world(load_tokenizer(tmp_path / "sharper", device="cpu"), tmp_path / "tokens", **options)
    assert path.stat().st_mtime_ns == written
    # Those of another encoder or codebook are made anew.
    other = load_tokenizer(tmp_path / "sharper", device="cpu")
    other.encoder.head[1].bias += 1
    encode_world(other, tmp_path / "tokens", **options)
    assert not torch.equal(read_shards(tmp_path / "tokens")[0].tokens_Bthw, shards)
    learned = load_tokenizer(first / "vq", device="cpu")
    name = learned.tokens_id
    learned.decoder.head.bias.data += 1
    assert learned.tokens_id == name
    learned.quantizer.embed_ZD += 1
    assert learned.tokens_id != name


def test_a_stopped_and_resumed_second_stage_equals_an_uninterrupted_one(tmp_path, first, network):
    parts, whole = tmp_path / "parts", tmp_path / "whole"
    second(first, whole, clips=noise_clips(), **losses(network))
    second(first, parts, clips=noise_clips(stop_in=parts), **losses(network))
    assert json.loads((parts / "held-out.json").read_text())["step"] == 2
    second(first, parts, clips=noise_clips(), resume=True, **losses(network))
    # The state has the discriminator, and what its optimizer knows.
    for name in ("metrics.jsonl", "tokenizer.safetensors", "held-out.json"):
        assert (parts / name).read_bytes() == (whole / name).read_bytes(), name
    state, again = (newest_state(folder).tensors(bool) for folder in (whole, parts))
    assert state.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in state.items())
    assert any(name.startswith("auxiliary.layers.") for name in state)
    assert not any(name.startswith(("average.layers.", "model.encoder.")) for name in state)
    with pytest.raises(
        ReelmError, match=r"^adversarial_weight, perceptual_weight, lpips_weights: must be as in the run"
    ):
        second(first, parts, clips=noise_clips(), resume=True)
    (parts / "recipe.json").unlink()  # the state itself knows whose it is
    with pytest.raises(CheckpointError, match="must belong to this model, got another auxiliary"):
        second(first, parts, clips=noise_clips(), resume=True)
    with pytest.raises(ReelmError, match="decoder_of: must be the tokenizer that the run began with"):
        second(first, parts, "vq", clips=noise_clips(), resume=True, **losses(network))
    plain = tmp_path / "plain"
    second(first, plain)
    (plain / "recipe.json").unlink()
    with pytest.raises(CheckpointError, match="must belong to this model"):
        second(first, plain, resume=True, adversarial_weight=0.5)


@pytest.mark.parametrize("change", [{"adversarial_weight": 0.5}, {"perceptual_weight": 0.5}, {"structure_weight": 2.0}])
def test_each_weight_changes_the_decoder(tmp_path, first, network, change):
    file = {"lpips_weights": network} if "perceptual_weight" in change else {}
    made = [
        second(first, tmp_path / str(index), **options).decoder.state_dict()
        for index, options in enumerate(
            [{}, change | file, {name: 2 * weight for name, weight in change.items()} | file]
        )
    ]
    for one, other in ((0, 1), (1, 2)):
        assert any(not torch.equal(made[one][name], made[other][name]) for name in made[0])
    figures = json.loads((tmp_path / "1" / "metrics.jsonl").read_text().splitlines()[-1])
    told = {
        "adversarial_weight": {"adversarial", "adversarial_share", "discriminator"},
        "perceptual_weight": {"perceptual"},
    }
    assert figures.keys() == {"step", "loss", "norm", "psnr", "codes"} | told.get(next(iter(change)), set())


def test_another_network_is_another_distance(first, network, tmp_path):
    other = Features()
    torch.jit.script(other).save(str(tmp_path / "other.pt"))
    noise = torch.Generator().manual_seed(0)
    frames, made = torch.rand(2, 1, 2, 16, 24, 3, generator=noise)
    made.requires_grad_()
    values = {}
    for path in (network, tmp_path / "other.pt"):
        tokenizer = load_tokenizer(first / "fsq", device="cpu")
        stage = SecondStage(tokenizer, perceptual_weight=2.0, perceptual=load_lpips(path))
        values[path], figures = stage.add_losses(frames, made, (made * 0).sum())
        assert values[path].detach() == 2 * figures["perceptual"]
    features = [other(255 * clip[0].movedim(-1, 1), resize_images=False, return_lpips=True) for clip in (frames, made)]
    wanted = (features[0] - features[1]).square().sum(1).mean()
    torch.testing.assert_close(values[tmp_path / "other.pt"], 2 * wanted)
    assert values[network] != values[tmp_path / "other.pt"]
    (gradient,) = torch.autograd.grad(values[network], made)
    assert gradient.abs().amax((0, 2, 3, 4)).min() > 0  # of both frames


def gradients(first, weight, steep=1.0):
    """The stage after a backward pass, the gradient that its reconstruction got, and its parts."""
    torch.manual_seed(0)
    frames = noise_clips().batch(0).float() / 255
    stage = SecondStage(load_tokenizer(first / "fsq", device="cpu"), adversarial_weight=weight)
    stage.discriminator.eval()  # its norms stand still, so that it can be asked again
    with torch.no_grad():
        stage.discriminator.layers[0].bias += 1
        stage.discriminator.layers[-1].bias.zero_()
    ask = stage.discriminator.forward
    stage.discriminator.forward = lambda clip: steep * ask(clip)
    made, tokens = stage.reconstruct(frames)
    assert not tokens.requires_grad
    made = made.detach().requires_grad_()
    distance = (frames - made).square().mean()
    loss, figures = stage.add_losses(frames, made, distance)
    loss.backward()
    leaf = made.detach().requires_grad_()
    (plain,) = torch.autograd.grad((frames - leaf).square().mean(), leaf)
    (sharper,) = torch.autograd.grad(-stage.discriminator(leaf).mean(), leaf)
    return stage, frames, made, plain, sharper, (loss, figures, distance)


@pytest.mark.parametrize("steep", [1e-3, 1e3])
def test_the_adversary_has_at_most_its_weight_of_the_gradient_at_the_pixels(first, steep):
    _, _, made, plain, sharper, (loss, figures, distance) = gradients(first, 0.5, steep)
    share = min(1.0, float(plain.norm() / sharper.norm()))
    assert (share < 1) == (steep > 1)
    torch.testing.assert_close(made.grad, plain + 0.5 * share * sharper)
    assert float((made.grad - plain).norm()) <= 0.501 * float(plain.norm())
    assert float(figures["adversarial_share"]) == pytest.approx(share)
    torch.testing.assert_close(loss, distance + 0.5 * share * figures["adversarial"])


def test_the_discriminator_learns_from_its_own_loss_alone(first):
    stage, frames, made, _, _, (_, figures, _) = gradients(first, 0.5)
    its = hinge(stage.discriminator(frames), stage.discriminator(made.detach()))
    torch.testing.assert_close(figures["discriminator"], its)
    parameters = list(stage.discriminator.parameters())
    for parameter, gradient in zip(parameters, torch.autograd.grad(its, parameters), strict=True):
        torch.testing.assert_close(parameter.grad, gradient)


def test_a_discriminator_sees_space_and_time_and_learns_to_tell():
    torch.manual_seed(0)
    discriminator = Discriminator()
    frames = torch.rand(1, 33, 48, 48, 3, requires_grad=True)
    scores = discriminator(frames)
    assert scores.shape == (1, 1, 9, 6, 6)
    (gradient,) = torch.autograd.grad(scores[0, 0, 4, 3, 3], frames)
    seen = [int(gradient.abs().amax([d for d in range(5) if d != dim]).count_nonzero()) for dim in (1, 2, 3)]
    assert seen == [17, 38, 38]
    assert discriminator(torch.rand(2, 1, 8, 8, 3)).shape == (2, 1, 1, 1, 1)
    # Plain clips that stand still, and the same that flicker: only time tells them apart.
    optimizer = torch.optim.AdamW(discriminator.parameters(), lr=3e-3)
    for _ in range(30):
        flicker = torch.rand(4, 5, 1, 1, 3).expand(-1, -1, 16, 16, -1)
        loss = hinge(discriminator(flicker[:, :1].expand_as(flicker)), discriminator(flicker))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 1.0
    with torch.autocast("cpu", torch.bfloat16):
        assert discriminator(torch.rand(1, 1, 8, 8, 3)).dtype == torch.float32


def test_it_runs_in_bfloat16(tmp_path, first, network):
    made = second(first, tmp_path, train={"precision": "bfloat16", "steps": 1}, **losses(network))
    assert all(bool(p.isfinite().all()) for p in made.parameters())


def test_hinge_has_no_more_to_gain_beyond_its_margins():
    assert hinge(torch.tensor([1.0, 3.0]), torch.tensor([-1.0, -2.0])) == 0
    assert hinge(torch.tensor([0.0]), torch.tensor([0.5])) == 2.5


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"adversarial_weight": -0.1}, "adversarial_weight"),
        ({"perceptual_weight": -0.1}, "perceptual_weight"),
        ({"perceptual_weight": 1.0}, "lpips_weights"),
        ({"lpips_weights": "network"}, "perceptual_weight"),
        ({"adversarial_weight": 1.0, "height": 4}, "height, width"),
        ({"perceptual_weight": 1.0, "lpips_weights": "network", "height": 8}, "height, width"),
    ],
)
def test_options_out_of_range_are_refused(change, name, network):
    if "lpips_weights" in change:
        change = change | {"lpips_weights": network}
    with pytest.raises(ReelmError, match=f"^{name}: must be"):
        recipe(**change)


def test_what_does_not_belong_to_the_stage_is_refused(tmp_path, first, network):
    for options, name in (
        (losses(network), "adversarial_weight"),
        (losses(network) | {"adversarial_weight": 0}, "perceptual_weight"),
    ):
        with pytest.raises(ReelmError, match=f"^{name}: must be 0 without decoder_of"):
            train_tokenizer(recipe(**options), tmp_path / "out", device="cpu")
    with pytest.raises(ReelmError, match=r"^model: must be the sizes of the tokenizer in decoder_of"):
        train_tokenizer(recipe("lfq"), tmp_path / "out", decoder_of=first / "fsq", device="cpu")
    with pytest.raises(ReelmError, match=r"^decoder_of: must not be the folder that is written"):
        second(first, first / "fsq")
    with pytest.raises(CheckpointError, match=r"tokenizer\.json"):
        second(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_networks_that_cannot_be_asked_are_refused(tmp_path, first):
    class Images(nn.Module):
        def forward(self, img: torch.Tensor, resize_images: bool = True, return_lpips: bool = False):
            return img

    class Plain(nn.Module):
        def forward(self, img: torch.Tensor):
            return img.flatten(1)

    for module, rule in (
        (Images(), "must give features"),
        (Plain(), "must be a network that takes"),
        (None, "must be a TorchScript file"),
    ):
        path = tmp_path / "net.pt"
        if module is None:
            path.write_bytes(b"none")
        else:
            torch.jit.script(module).save(str(path))
        with pytest.raises(ReelmError, match=f"^lpips_weights: {rule}"):
            second(first, tmp_path / "out", perceptual_weight=1.0, lpips_weights=path)
    with pytest.raises(ReelmError, match=r"^lpips_weights: must be a file that exists"):
        second(first, tmp_path / "out", perceptual_weight=1.0, lpips_weights=tmp_path / "none.pt")
    assert not (tmp_path / "out").exists()


def test_a_recipe_with_a_file_passes_through_the_options(network):
    wanted = recipe(**losses(network))
    assert from_dict(TokenizerTraining, dataclasses.asdict(wanted)) == wanted
