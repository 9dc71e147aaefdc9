"""Several processes train what one does, on the same batches: data parallel, and with divided weights or layers.

REELM_STEPS=50 pytest tests/training/test_ranks.py -m "slow or not slow"
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
from concurrent.futures import ProcessPoolExecutor

import pytest
import torch
import torch.distributed as dist
from torch.distributed.checkpoint import HuggingFaceStorageWriter

from reelm.core.checkpoint import load_tensors
from reelm.core.errors import CheckpointError, ReelmError
from reelm.data.token_shards import write_shard
from reelm.lm.lm_config import LMConfig
from reelm.lm.text import TextEncoder, train_text
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.tokenizer_config import TokenizerConfig
from reelm.training import lm_training
from reelm.training.lm_training import LMTraining, train_lm
from reelm.training.ranks import Ranks, Share
from reelm.training.state_folders import ORDER, in_order, newest_state
from reelm.training.tokenizer_training import TokenizerTraining, train_tokenizer
from reelm.training.train_config import TrainConfig

CAPTIONS = ["a red ball", "a blue ring"]
MODEL = LMConfig(vocab_size=12, rows=2, columns=2, window=3, text_vocab_size=16, prefix=5, width=16, depth=2,
                 heads=4, kv_heads=2, head_dim=8, hidden=16, neighbour_dim=4)  # fmt: skip
QUANTIZERS = {"fsq": QuantizerConfig(levels=(5, 5), spread=0.0), "vq": QuantizerConfig(kind="vq", codebook_size=16)}
FOUR = {
    "pairs": {"tensor": 2},
    "pairs-divided": {"tensor": 2, "shards": 2},
    "pairs-muon": {"tensor": 2, "shards": 2, "optimizer": "muon"},
    "pairs-recomputed": {"tensor": 2, "shards": 2, "recompute": True, "parts": 2},
}  # fmt: skip
STEPS = int(os.environ.get("REELM_STEPS", 14))
WAYS = {"data": {}, "divided": {"shards": 2}, "tensor": {"tensor": 2}}


def lm_recipe(lora_rank=0, **train):
    options = {"steps": STEPS, "warmup": 5, "report_steps": 1, "learning_rate": 1e-2, "precision": "float32"} | train
    return LMTraining(model=MODEL, batch_tokens=96, token_noise=0.2, lora_rank=lora_rank, train=TrainConfig(**options))


def tokenizer_as(ranks, folder, kind, **train):
    """Train a tokenizer of a kind, with a loss that is the mean of those of the clips."""
    model = TokenizerConfig(encoder_width=8, decoder_widths=(8,), decoder_depth=(1,), quantizer=QUANTIZERS[kind])
    options = {"steps": 8, "warmup": 2, "report_steps": 1, "precision": "float32"} | train
    recipe = TokenizerTraining(
        model=model, batch_size=4, num_frames=5, height=16, width=16, moving_weight=1, train=TrainConfig(**options)
    )
    return train_tokenizer(recipe, folder, device="cpu", ranks=ranks)


def write_data(folder):
    """Write token shards of clips of two lengths, and a text model."""
    generator = torch.Generator().manual_seed(0)
    (folder / "tokens").mkdir()
    for index, frames in enumerate((3, 3, 6)):
        tokens = torch.randint(12, (20, frames, 2, 2), generator=generator)
        write_shard(folder / "tokens" / f"{index}.safetensors", tokens, [[CAPTIONS[n % 2]] for n in range(20)], fps=8)
    (folder / "text.model").write_bytes(train_text(CAPTIONS))


def train_as(ranks, folder, *, resume=False, init=None, **train):
    text = TextEncoder((folder.parent / "text.model").read_bytes())
    return train_lm(lm_recipe(**train), folder.parent / "tokens", text, folder, levels=(4, 3), device="cpu",
                    resume=resume, init=init, ranks=ranks)  # fmt: skip


def join(rank, count, folder):
    """Join the processes that meet in a folder."""
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder / 'meeting'}", rank=rank, world_size=count)
    return Ranks(rank, count)


def work(rank, folder):
    """What each of two processes does, in the same order."""
    ranks = join(rank, 2, folder)
    for name, way in WAYS.items():
        train_as(ranks, folder / name, **way)
        if "tensor" in way:
            continue
        tokenizer_as(ranks, folder / f"{name}-fsq", "fsq", **way)
        learned = dict(tokenizer_as(ranks, folder / f"{name}-vq", "vq", **way).quantizer.named_buffers())
        both = [None, None]
        dist.all_gather_object(both, learned)
        assert all(torch.equal(both[0][key], both[1][key]) for key in learned)
    train_as(ranks, folder / "divided-adapted", init=folder / "one", lora_rank=2, shards=2)
    with pytest.raises(ReelmError, match="shards: must divide the number of processes, 2, got 3"):
        train_as(ranks, folder / "refused", shards=3)
    with pytest.raises(ReelmError, match="batch_tokens: must make a number of clips that 2 processes, with 3 parts"):
        train_as(ranks, folder / "refused", parts=3)
    with pytest.raises(ReelmError, match="tensor: must divide the number of processes, 2, got 4"):
        train_as(ranks, folder / "refused", tensor=4)
    with pytest.raises(ReelmError, match="shards: must divide the number of groups of 2 processes, 1, got 2"):
        train_as(ranks, folder / "refused", tensor=2, shards=2)
    stop_one(ranks, folder / "stopped", shards=2)
    train_as(ranks, folder / "stopped", resume=True, shards=2)
    stop_one(ranks, folder / "on-one", tensor=2)
    write_badly(ranks, folder / "on-a-full-disk", shards=2)
    dist.destroy_process_group()


def write_badly(ranks, folder, **way):
    """Go on with a stopped run whose state one of the processes cannot write."""
    stop_one(ranks, folder, **way)

    def refuse(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    write = HuggingFaceStorageWriter.write_data
    HuggingFaceStorageWriter.write_data = refuse if ranks.rank == 1 else write
    try:
        with pytest.raises(ReelmError, match=rf"^out: state-{STEPS:08} could not be written: .*No space left"):
            train_as(ranks, folder, resume=True, **way)
    finally:
        HuggingFaceStorageWriter.write_data = write
    assert newest_state(folder).values().step == 8
    train_as(ranks, folder, resume=True, **way)


def stop_one(ranks, folder, *, rank=1, **way):
    """Stop a run of all processes by a signal that only one of them gets."""
    loss = lm_training.cross_entropy
    calls = []

    def stopping(*args, **options):
        calls.append(args)
        if len(calls) == 8 and ranks.rank == rank:
            os.kill(os.getpid(), signal.SIGTERM)
        return loss(*args, **options)

    lm_training.cross_entropy = stopping
    try:
        train_as(ranks, folder, **way)
    finally:
        lm_training.cross_entropy = loss
    assert len(calls) == 8


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of the same trainings by one process, and by two."""
    folder = tmp_path_factory.mktemp("ranks")
    write_data(folder)
    train_as(Ranks(), folder / "one")
    train_as(Ranks(), folder / "parts", parts=2)
    train_as(Ranks(), folder / "one-adapted", init=folder / "one", lora_rank=2)
    for kind in QUANTIZERS:
        tokenizer_as(Ranks(), folder / f"one-{kind}", kind)
    context = multiprocessing.get_context("forkserver")  # from a process that has imported all, which takes seconds
    context.set_forkserver_preload(["reelm.tests.training.test_ranks"])
    with ProcessPoolExecutor(2, context) as pool:
        for result in [pool.submit(work, rank, folder) for rank in range(2)]:
            result.result()
    return folder


def test_a_state_without_one_of_its_parts_is_refused(runs, tmp_path):
    folder = shutil.copytree(runs / "divided", runs / "in-part")
    parts = sorted(newest_state(folder).folder.glob("shard-*"))
    assert len(parts) == 2
    for part in parts:
        aside = part.rename(tmp_path / part.name)
        with pytest.raises(
            CheckpointError, match=r"^resume: state-\d+ must (have whole safetensors|belong to this model)"
        ):
            train_as(Ranks(), folder, resume=True, steps=STEPS + 1)
        aside.rename(part)


def losses(folder):
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("way", ["parts", *WAYS, "divided-adapted"])
def test_losses_are_those_of_one_process(runs, way):
    alone = "one-adapted" if "adapted" in way else "one"
    assert losses(runs / way) == pytest.approx(losses(runs / alone), abs=1e-5)
    one, other = (load_tensors(runs / name / "lm.safetensors") for name in (alone, way))
    assert one.keys() == other.keys()
    assert all(torch.allclose(tensor, other[name], atol=2e-4) for name, tensor in one.items())


@pytest.mark.parametrize("way", ["data", "divided"])
def test_a_tokenizer_is_trained_as_by_one_process(runs, way):
    assert losses(runs / f"{way}-fsq") == pytest.approx(losses(runs / "one-fsq"), abs=2e-5)


@pytest.mark.parametrize("way", ["data", "divided"])
def test_a_learned_codebook_counts_the_vectors_of_all_processes(runs, way):
    """The first codes are drawn from the vectors of all, at random; `work` has found them equal in both processes."""
    one, other = (load_tensors(runs / f"{name}-vq" / "tokenizer.safetensors") for name in ("one", way))
    counts = [each["quantizer.cluster_size_Z"] for each in (one, other)]
    assert float(counts[1].sum()) == pytest.approx(float(counts[0].sum()), rel=1e-4)


def test_a_run_that_a_signal_to_one_process_has_stopped_goes_on_to_the_same_weights(runs):
    whole, stopped = (load_tensors(runs / name / "lm.safetensors") for name in ("divided", "stopped"))
    assert losses(runs / "stopped") == losses(runs / "divided")
    assert all(torch.equal(tensor, stopped[name]) for name, tensor in whole.items())


def test_one_process_goes_on_with_a_run_of_two(runs):
    assert len(losses(runs / "on-one")) == 8
    train_as(Ranks(), runs / "on-one", resume=True)
    assert losses(runs / "on-one") == pytest.approx(losses(runs / "one"), abs=1e-5)


def work_of_four(rank, folder):
    """What each of four processes does: layers divided among two, and weights or batches among the pairs."""
    ranks = join(rank, 4, folder)
    for name, way in FOUR.items():
        train_as(ranks, folder / name, **way)
    with pytest.raises(ReelmError, match="tensor: must divide the model's kv_heads, 2, got 4"):
        train_as(ranks, folder / "refused", tensor=4)
    train_as(ranks, folder / "begun-by-one", resume=True, tensor=2, shards=2)
    stop_one(ranks, folder / "fewer", rank=3, tensor=2, shards=2)
    dist.destroy_process_group()


def work_of_two(rank, folder):
    """What each of two processes does with a run that four have begun."""
    ranks = join(rank, 2, folder / "fewer")
    stop_one(ranks, folder / "fewer", resume=True, shards=2)
    dist.destroy_process_group()


def whole_state(folder):
    """Return all tensors of a state, with their rows in the order of one process."""
    found = newest_state(folder).tensors(bool)
    return {name: in_order(rows, found.get(ORDER + name)) for name, rows in found.items() if not name.startswith(ORDER)}


@pytest.mark.slow
def test_layers_and_weights_are_divided_together(tmp_path):
    write_data(tmp_path)
    train_as(Ranks(), tmp_path / "one")
    train_as(Ranks(), tmp_path / "one-muon", optimizer="muon")
    stop_one(Ranks(), tmp_path / "begun-by-one", rank=0)
    torch.multiprocessing.spawn(work_of_four, (tmp_path,), nprocs=4)
    files = sorted(path.name for path in newest_state(tmp_path / "fewer").folder.iterdir())
    assert files == [*(f"shard-{rank:05d}-model-00001-of-00001.safetensors" for rank in range(1, 5)), "state.json"]
    torch.multiprocessing.spawn(work_of_two, (tmp_path,), nprocs=2)
    assert len(losses(tmp_path / "fewer")) == 16
    train_as(Ranks(), tmp_path / "fewer", resume=True)
    for name in ("pairs", "pairs-divided", "pairs-recomputed", "begun-by-one", "fewer"):
        assert losses(tmp_path / name) == pytest.approx(losses(tmp_path / "one"), abs=1e-5), name
    # Muon computes in bfloat16, and of the parts of a matrix.
    assert losses(tmp_path / "pairs-muon") == pytest.approx(losses(tmp_path / "one-muon"), abs=2e-3)
    one, other = (whole_state(tmp_path / name) for name in ("one", "pairs-divided"))
    assert {name: tensor.shape for name, tensor in one.items()} == {
        name: tensor.shape for name, tensor in other.items()
    }
    assert all(torch.allclose(tensor, other[name], atol=1e-3) for name, tensor in one.items())


def test_parts_of_a_batch_are_all_of_it():
    rows = list(range(12))
    for count, parts, tensor in ((1, 1, 1), (2, 3, 1), (3, 2, 1), (6, 2, 2)):
        every = [Ranks(rank, count, tensor) for rank in range(0, count, tensor)]
        shares = [share for ranks in every for share in ranks.shares(parts)]
        assert [row for share in shares for row in share.of(rows)] == rows
        own = [ranks.own_part(share) for ranks in every for share in ranks.shares(parts)]
        assert own == [Share(part, parts) for _ in every for part in range(parts)]
        neighbours = [Ranks(rank, count, tensor).shares(parts) for rank in range(count)]
        assert all(neighbours[rank] == neighbours[rank - rank % tensor] for rank in range(count))
