import dataclasses

import pytest
import torch
import torch.nn.functional as F

from reelm.core.checkpoint import load_tensors
from reelm.core.condition import Text
from reelm.core.controls import Controller
from reelm.core.errors import ReelmError
from reelm.data.token_shards import write_shard
from reelm.kernels.sample_reference import guide
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder, train_text
from reelm.lm.transformer import VideoTransformer
from reelm.training.guidance_distillation import KeyTeacher, PromptTeacher
from reelm.training.lm_training import LMTraining, check_guidance, start_from, train_lm
from reelm.training.train_config import TrainConfig
from reelm.training.validation import read_entries

CAPTIONS = ["a red ball", "a blue ring"]
SIZES = {"vocab_size": 12, "rows": 2, "columns": 2, "window": 3, "text_vocab_size": 16, "prefix": 5, "width": 16,
         "depth": 1, "heads": 2, "kv_heads": 1, "head_dim": 8, "hidden": 16, "neighbour_dim": 4}  # fmt: skip
LEARNT = LMConfig(**SIZES, guidance=3.0)
PLAYED = LMConfig(**SIZES, controller=Controller(keys=("a",), axes=("turn",), limits=(1.0,), bins=3))


def recipe(model=LEARNT, **changes):
    train = {"steps": 12, "warmup": 2, "report_steps": 1, "learning_rate": 1e-2} | changes.pop("train", {})
    return LMTraining(**({"model": model, "train": TrainConfig(**train), "batch_tokens": 192} | changes))


@pytest.fixture(scope="module")
def text():
    return TextEncoder(train_text(CAPTIONS))


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Clips of one latent frame whose captions say which tokens are likelier: seven of ten are even, or odd."""
    folder, generator = tmp_path_factory.mktemp("data"), torch.Generator().manual_seed(0)
    kind, other = torch.arange(200) % 2, torch.rand(200, 1, 2, 2, generator=generator) < 0.3
    tokens = 2 * torch.randint(6, other.shape, generator=generator) + (kind[:, None, None, None] ^ other.long())
    write_shard(folder / "clips.safetensors", tokens, [[CAPTIONS[k]] for k in kind], fps=8)
    return folder


@pytest.fixture(scope="module")
def taught(data, text, tmp_path_factory):
    """The run of a plain model, which has learnt the captions."""
    folder = tmp_path_factory.mktemp("taught")
    plain = recipe(LMConfig(**SIZES), drop_caption=0.3, train={"steps": 80})
    return folder, train_lm(plain, data, text, folder, device="cpu")


@pytest.fixture(scope="module")
def played_data(tmp_path_factory):
    """Clips of two latent frames, the second of which mostly has even tokens while a key is held, or odd ones."""
    folder, generator = tmp_path_factory.mktemp("played"), torch.Generator().manual_seed(0)
    held_B = torch.arange(200) % 2
    odd_B1hw = held_B[:, None, None, None] ^ (torch.rand(200, 1, 2, 2, generator=generator) < 0.3).long()
    second = 2 * torch.randint(6, (200, 1, 2, 2), generator=generator) + odd_B1hw
    tokens = torch.cat((torch.randint(12, (200, 1, 2, 2), generator=generator), second), 1)
    keys = torch.stack((torch.zeros_like(held_B), held_B), 1)[..., None]
    controls = {"keys": keys, "turn": torch.ones_like(keys)}
    write_shard(folder / "clips.safetensors", tokens, [CAPTIONS[:1]] * 200, fps=8, controls=controls,
                controller=PLAYED.controller)  # fmt: skip
    return folder


@pytest.fixture(scope="module")
def player(played_data, text, tmp_path_factory):
    """The run of a model that is played, which has learnt what its key does."""
    folder = tmp_path_factory.mktemp("player")
    plain = recipe(PLAYED, train={"steps": 80})
    return folder, train_lm(plain, played_data, text, folder, device="cpu")


def played_batch(text, clips=40, seed=1):
    generator = torch.Generator().manual_seed(seed)
    keys = torch.randint(2, (clips, 2, 1), generator=generator)
    controls = {"keys": keys, "turn": torch.randint(3, keys.shape, generator=generator)}
    return torch.randint(12, (clips, 2, 2, 2), generator=generator), *text.prefix(CAPTIONS[:1] * clips, 5), controls


@torch.no_grad()
def divergence(target_BSV, found_BSV):
    """The mean divergence of one distribution from another, in nats a token."""
    logs = found_BSV.log_softmax(-1), target_BSV.log_softmax(-1)
    return float(F.kl_div(*logs, reduction="sum", log_target=True) / target_BSV[..., 0].numel())


@torch.no_grad()
def logits(model, *conditions):
    tokens = torch.randint(12, (50, 1, 2, 2), generator=torch.Generator().manual_seed(1))
    tokens_BS = model.layout.pack({"video": tokens}).flatten(1)
    return model.oracle(tokens_BS, [conditions] * len(tokens))


def test_the_distilled_model_guides_in_one_row_and_is_the_same_without(data, text, taught, tmp_path):
    folder, teacher = taught
    steps = {"steps": 100, "learning_rate": 6e-3}
    student = train_lm(recipe(drop_caption=0.2, train=steps), data, text, tmp_path, device="cpu", init=folder)
    for caption in CAPTIONS:
        plain, unconditional = logits(teacher, Text(caption)), logits(teacher, Text(""))
        target = guide(plain.clone(), unconditional, 3.0)
        untaught = divergence(target, plain)
        assert untaught > 0.03
        assert divergence(target, logits(student.guided, Text(caption))) < 0.1 * untaught
        assert torch.equal(logits(student, Text(caption)), plain)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_the_loss_is_the_divergence_from_the_guided_logits_of_two_rows(text, taught, tmp_path, temperature):
    _, plain = taught
    torch.manual_seed(3)
    model = VideoTransformer(LEARNT)
    model.load_state_dict(model.state_dict() | plain.state_dict())
    teacher = PromptTeacher(model, text, tmp_path, temperature=temperature)
    tokens = torch.randint(12, (2, 3, 2, 2))
    ids, lengths = text.prefix(CAPTIONS, 5)
    empty, length = text.prefix(["", ""], 5)
    conditional, unconditional = plain(tokens, ids, lengths), plain(tokens, empty, length)
    targets = teacher.targets(tokens, ids, lengths)
    torch.testing.assert_close(targets, 3 * conditional - 2 * unconditional, rtol=1e-4, atol=1e-4)
    found = divergence(targets / temperature, model.guided(tokens, ids, lengths) / temperature)
    assert float(teacher(teacher.student, tokens, ids, lengths).detach()) == pytest.approx(found, rel=1e-4)
    again = PromptTeacher(VideoTransformer(LEARNT), text, tmp_path, resume=True)
    assert torch.equal(again.targets(tokens, ids, lengths), targets)


def test_a_model_that_is_played_learns_guidance_by_its_keys(played_data, text, player, tmp_path):
    """The mean divergence of video tokens from the guided distribution is a tenth of what it was."""
    folder, plain = player
    run = recipe(PLAYED, key_guidance=3.0, train={"steps": 100, "learning_rate": 6e-3})
    student = train_lm(run, played_data, text, tmp_path, device="cpu", init=folder)
    tokens, *captions, controls = played_batch(text)
    controls["turn"] = torch.ones_like(controls["turn"])  # as in the clips
    rest = {"keys": torch.zeros_like(controls["keys"]), "turn": controls["turn"]}
    with torch.no_grad():
        held, none = plain(tokens, *captions, controls), plain(tokens, *captions, rest)
        found = student(tokens, *captions, controls)
    video_S = (~PLAYED.layout.given_S).repeat(2)
    target = guide(held.clone(), none, 3.0)[:, video_S]
    untaught = divergence(target, held[:, video_S])
    assert untaught > 0.03
    assert divergence(target, found[:, video_S]) < 0.1 * untaught


def test_the_teacher_of_keys_is_told_that_nothing_is_held_and_sees_the_same_tokens(text, player, tmp_path):
    _, plain = player
    model = VideoTransformer(PLAYED)
    model.load_state_dict(plain.state_dict())
    teacher = KeyTeacher(model, 1.5, tmp_path)
    tokens, *captions, controls = played_batch(text, clips=3)
    rest = {"keys": torch.zeros_like(controls["keys"]), "turn": torch.ones_like(controls["turn"])}
    seen = tokens.flip(0)
    targets = teacher.targets(seen, *captions, controls)
    wanted = 1.5 * plain(seen, *captions, controls) - 0.5 * plain(seen, *captions, rest)
    torch.testing.assert_close(targets, wanted, rtol=1e-4, atol=1e-4)
    video_S = (~PLAYED.layout.given_S).repeat(2)
    found = divergence(targets[:, video_S], plain(seen, *captions, controls)[:, video_S])
    assert found > 0
    loss = teacher(teacher.student, tokens, *captions, controls, seen_Bthw=seen)
    assert float(loss.detach()) == pytest.approx(found, rel=1e-4)
    with torch.no_grad():
        model.head.weight.zero_()
    assert torch.equal(teacher.targets(seen, *captions, controls), targets), "the teacher is a copy"


def test_held_out_clips_measure_the_divergence(data, text, taught, tmp_path):
    folder, _ = taught
    run = recipe(train={"steps": 15, "learning_rate": 1.5e-2, "checkpoint_minutes": 1e-9})
    best = train_lm(run, data, text, tmp_path, held_out=data, device="cpu", init=folder)
    nats = [checkpoint.nats_per_token for checkpoint in read_entries(tmp_path)]
    assert len(nats) == 15
    assert nats[-1] < 0.5 * nats[0]
    saved = load_tensors(tmp_path / "best.safetensors")
    assert all(torch.equal(saved[name], weight) for name, weight in best.state_dict().items())


@pytest.mark.parametrize("by", ["prompt", "keys"])
def test_a_killed_and_resumed_distillation_has_the_same_losses(request, by, text, tmp_path, stopped_at_batch):
    folder, _ = request.getfixturevalue("taught" if by == "prompt" else "player")
    data = request.getfixturevalue("data" if by == "prompt" else "played_data")
    run = recipe() if by == "prompt" else recipe(PLAYED, key_guidance=2.0, token_noise=0.1)
    options = {"levels": (4, 3), "device": "cpu"}
    train_lm(run, data, text, tmp_path / "whole", init=folder, **options)
    with stopped_at_batch(5) as calls:
        train_lm(run, data, text, tmp_path / "parts", init=folder, **options)
    assert len(calls) == 5
    train_lm(run, data, text, tmp_path / "parts", resume=True, **options)
    for name in ("metrics.jsonl", "lm.safetensors", "lm.json", "text.model", "plain.safetensors"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()


def test_a_model_that_guides_itself_can_begin_both_kinds_of_training(data, text, taught, tmp_path):
    folder, _ = taught
    train_lm(recipe(), data, text, tmp_path / "guided", device="cpu", init=folder)
    written = load_tensors(tmp_path / "guided" / "lm.safetensors")
    for sizes in (LEARNT, LMConfig(**SIZES)):
        model = VideoTransformer(sizes)
        start_from(model, tmp_path / "guided", text)
        assert all(torch.equal(weight, written[name]) for name, weight in model.state_dict().items())


def test_guidance_is_not_learnt_without_a_model_that_has_it(data, text, tmp_path):
    with pytest.raises(ReelmError, match="init: must be a trained model whose guidance is distilled"):
        train_lm(recipe(), data, text, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("name", "other"), [("order", "coarse"), ("window", 4), ("depth", 2)])
def test_only_the_guidance_of_a_model_of_the_same_sizes_is_distilled(data, text, taught, tmp_path, name, other):
    folder, _ = taught
    sizes = dataclasses.replace(LEARNT, **{name: other})
    with pytest.raises(ReelmError, match=rf"model.{name}: must be .* as in the model whose guidance is distilled"):
        train_lm(recipe(sizes), data, text, tmp_path / "out", device="cpu", init=folder)
    assert not (tmp_path / "out").exists()


def test_a_refused_training_leaves_the_run_that_is_there(data, text, taught, tmp_path):
    folder, _ = taught
    train_lm(recipe(train={"steps": 3}), data, text, tmp_path, held_out=data, device="cpu", init=folder)
    before = files_of(tmp_path)
    with pytest.raises(ReelmError, match="folder: must be new, or its run must be resumed"):
        train_lm(recipe(seed=1), data, text, tmp_path, held_out=data, device="cpu", init=folder)
    assert files_of(tmp_path) == before


def files_of(folder):
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_guidance_by_keys_is_learnt_from_a_model_that_is_played_and_not_with_that_by_prompts(
    data, text, taught, player, tmp_path
):
    folder, _ = taught
    with pytest.raises(ReelmError, match="key_guidance: must be 1 for a model that is not played"):
        train_lm(recipe(LMConfig(**SIZES), key_guidance=2.0), data, text, tmp_path / "out", device="cpu", init=folder)
    with pytest.raises(ReelmError, match="init: must be a trained model whose guidance is distilled"):
        train_lm(recipe(LMConfig(**SIZES), key_guidance=2.0), data, text, tmp_path / "out", device="cpu")
    assert not (tmp_path / "out").exists()
    # Before the clips are read, the recipe of `reelm train lm` has no keys and no vocabulary yet.
    check_guidance(recipe(LMConfig(**SIZES | {"vocab_size": 1}), key_guidance=2.0), player[0], resume=False)
    with pytest.raises(ReelmError, match=r"key_guidance: must be 1 where guidance by prompts is distilled"):
        recipe(key_guidance=2.0)
    for wrong in (0.9, 101.0, float("nan")):
        with pytest.raises(ReelmError, match="key_guidance: must be from 1 to 100"):
            recipe(PLAYED, key_guidance=wrong)


def test_its_temperature_needs_a_scale():
    with pytest.raises(ReelmError, match="guidance_temperature: must be 1 where no guidance is distilled"):
        recipe(LMConfig(**SIZES), guidance_temperature=0.7)


@pytest.mark.parametrize("wrong", [1.0, 0.5, -1.0, 101.0, float("nan")])
def test_a_scale_that_cannot_be_learnt_is_refused(wrong):
    with pytest.raises(ReelmError, match="guidance: must be above 1 and at most 100"):
        LMConfig(vocab_size=4, guidance=wrong)
