"""The memory plan: what it counts, what it refuses, and (slow) whether a process really takes that much."""

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from reelm.bench.presets import preset_config, preset_plan
from reelm.core.checkpoint import find_checkpoint
from reelm.core.errors import ReelmError
from reelm.core.memory import available_memory
from reelm.generation.memory_plan import MIB, fit_memory, plan_memory, require_memory, show_bytes
from reelm.generation.pretrained import ModelConfig, load_pretrained, read_config, save_pretrained
from reelm.lm.lm_config import OPENVINO_BYTES
from reelm.lm.quantization import Int8Linear, check_machine
from reelm.lm.text import TextEncoder
from reelm.lm.transformer import VideoTransformer
from reelm.sampling.plan import NoiseKey, SamplingConfig
from reelm.sampling.sampler import NoiseBuffer
from reelm.tokenizer.codecs import tokenizer_bytes
from reelm.tokenizer.quantizer import QuantizerConfig
from reelm.tokenizer.video_tokenizer import TokenizerConfig, VideoTokenizer

CPU = torch.device("cpu")


def config_of(name: str | Path) -> ModelConfig:
    return read_config(find_checkpoint(name))


@pytest.fixture(scope="module")
def config() -> ModelConfig:
    """The bundled model's, with two rows under guidance and the noise of the whole vocabulary."""
    config = config_of("world")
    sampling = dataclasses.replace(config.sampling, top_k=None)
    return dataclasses.replace(config, lm=dataclasses.replace(config.lm, guidance=None), sampling=sampling)


# ---- what is counted


def test_openvino_is_planned_where_it_is_used(config, monkeypatch):
    pytest.importorskip("openvino")
    without, half = plan_memory(config), plan_memory(config, dtype="bfloat16")
    monkeypatch.setenv("REELM_KERNELS", "openvino")
    plan = plan_memory(config)
    assert half == plan_memory(config, dtype="bfloat16")
    assert plan.runtime - without.runtime == OPENVINO_BYTES and plan.weights > without.weights


def test_weights_and_cache_are_those_of_the_loaded_model(debug_generator):
    parts = debug_generator.parts
    for batch, scale in ((1, 3.0), (3, 1.0)):
        sampling = SamplingConfig(guidance_scale=scale)
        plan = plan_memory(parts.config, batch=batch, sampling=sampling)
        cache = parts.lm.make_cache(batch * (1 if scale == 1 else 2))
        assert plan.cache == cache.nbytes + cache.tokens_BQ.nbytes
    lm = sum(parameter.numel() for parameter in VideoTransformer(parts.config.lm).parameters())
    assert plan.weights == 4 * lm + tokenizer_bytes(parts.config.tokenizer)
    half = plan_memory(parts.config, dtype="bfloat16")
    assert half.weights == plan.weights - 2 * lm
    assert half.loading == plan.loading // 2


@pytest.mark.parametrize("name", ["cosmos-4b", "emu3-8b"])  # of a small model, the head is most of the loading
def test_int8_weights_on_a_gpu_take_half(name):
    config = preset_config(name)
    full, small = (plan_memory(config, device="cuda", weights=weights) for weights in ("full", "int8"))
    assert 0.5 < small.weights / full.weights < 0.55
    assert full.loading == preset_plan(name, device="cuda").loading == 0
    assert small.weights + small.loading < full.weights, "from a file, one matrix after the other"
    assert small.weights + preset_plan(name, device="cuda", weights="int8").loading > full.weights


def test_int8_weights_and_cache_are_those_of_the_loaded_model(debug_checkpoint):
    try:
        check_machine("int8", "cpu")
    except ReelmError as error:
        pytest.skip(str(error))
    parts = load_pretrained(debug_checkpoint, device="cpu", weights="int8", cache="int8")
    plan = plan_memory(parts.config, batch=2, weights="int8", cache="int8")
    cache = parts.lm.make_cache(4)
    assert plan.cache == cache.nbytes + cache.tokens_BQ.nbytes
    held = sum(parameter.numel() * parameter.element_size() for parameter in parts.lm.parameters())
    held += sum(m.scales_O.nbytes + m.zeros_O.nbytes for m in parts.lm.modules() if isinstance(m, Int8Linear))
    assert plan.weights == held + tokenizer_bytes(parts.config.tokenizer)


def test_loading_takes_the_largest_matrix_beside_the_weights(config):
    lm = VideoTransformer(config.lm)
    largest = max(parameter.numel() for parameter in lm.parameters())
    for options, each in (({}, 4), ({"dtype": "bfloat16"}, 2), ({"weights": "int8"}, 9)):
        assert plan_memory(config, **options).loading == each * largest


@pytest.mark.parametrize("kind", ["fsq", "vq", "lfq"])
def test_a_tokenizer_s_bytes_are_those_of_its_weights_and_codes(kind):
    tokenizer = TokenizerConfig(quantizer=QuantizerConfig(kind=kind))
    model = VideoTokenizer(tokenizer)
    bytes_of_it = sum(tensor.nbytes for tensor in [*model.parameters(), *model.buffers()])
    assert abs(tokenizer_bytes(tokenizer) - bytes_of_it) < 200  # a few numbers of the quantizer's own


def test_frames_and_state_are_those_of_the_clips(debug_generator):
    video = debug_generator.generate("a red ball moves left", seconds=2.0, seed=1)
    plan = plan_memory(debug_generator.parts.config, seconds=2.0)
    assert plan.frames == video.frames.nbytes + video.tokens.nbytes
    assert plan.state == video.state.cache["keys"].nbytes + video.state.cache["values"].nbytes


def test_the_noise_that_is_held_is_a_block_of_each_clip(config):
    ahead, keys = NoiseBuffer(config.lm.vocab_size, CPU), [NoiseKey(1), NoiseKey(2)]
    ahead.take(keys, [0, 3], 2)
    plan, together = plan_memory(config, batch=2), plan_memory(config, batch=2, block_size=1)
    assert plan.noise_held == together.noise_held == sum(noise_LV.nbytes for noise_LV in ahead._blocks.values())
    assert together.noise - plan.noise == plan.noise_held // 2  # less where clips drift apart


@pytest.mark.parametrize(
    ("options", "changed"),
    [
        ({"seconds": 9.0}, {"seconds", "frames"}),
        ({"batch": 2}, {"batch", "clips", "cache", "noise", "noise_held", "pixels", "frames",
                        "state", "block_size"}),
        ({"clips": 4}, {"clips", "pixels", "frames", "state"}),
        ({"sampling": SamplingConfig(guidance_scale=1.0)}, {"cache", "state", "step"}),
        ({"sampling": SamplingConfig(temperature=0.0)}, {"noise", "noise_held"}),
        ({"sampling": SamplingConfig(top_p=0.9)}, {"step"}),
        ({"sampling": SamplingConfig(top_k=50)}, {"noise", "noise_held"}),
        ({"block_size": 1}, {"block_size", "step"}),
        ({"batch": 2, "block_size": 1}, {"batch", "clips", "cache", "noise", "noise_held", "pixels", "frames",
                                         "state", "block_size", "step"}),
        ({"dtype": "bfloat16"}, {"dtype", "weights", "loading", "cache", "state", "step"}),
        ({"device": "cuda"}, {"device", "dtype", "runtime", "weights", "loading", "cache", "noise", "noise_held",
                              "block_size", "step", "frames", "state", "host"}),
        ({"weights": "int8"}, {"weights", "loading"}),
        ({"cache": "int8"}, {"cache", "state", "step"}),
        ({"keep_state": False}, {"state"}),
        ({"continuing": True}, {"joining", "step", "state"}),
    ],
)  # fmt: skip
def test_every_argument_changes_what_it_should_and_nothing_else(options, changed, config):
    before = dataclasses.asdict(plan_memory(config))
    after = dataclasses.asdict(plan_memory(config, **options))
    assert {name for name in before if before[name] != after[name]} == changed


def test_the_total_is_the_largest_phase(config):
    short, long = plan_memory(config), plan_memory(config, seconds=600.0)
    assert max(short.phases, key=short.phases.get) == "sampling"
    assert max(long.phases, key=long.phases.get) == "decoding"
    wide = dataclasses.replace(config, lm=dataclasses.replace(config.lm, depth=1, width=8192))
    wide = plan_memory(wide, weights="int8", seconds=0.1)
    assert max(wide.phases, key=wide.phases.get) == "loading"
    assert long.total == long.phases["decoding"] == long.values()["total"] == long.values()["peak_decoding"]


def test_a_plan_prints_as_a_table(config):
    rows = dict(line.split(maxsplit=1) for line in str(plan_memory(config, batch=3)).splitlines() if " " in line)
    assert rows["batch"] == "3"
    assert rows["runtime"] == "42 MiB"
    assert rows["total"].endswith(" MiB")
    assert [show_bytes(size) for size in (0, 1023, 1536, 3 * MIB, 2**40)] == [
        "0 bytes", "1023 bytes", "1.5 KiB", "3 MiB", "1024 GiB"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"seconds": 0.0}, "seconds: must be above 0"),
        ({"seconds": float("nan")}, "seconds: must be above 0"),
        ({"batch": 0}, "batch: must be from 1 to 4096, got 0"),
        ({"batch": 4, "clips": 3}, r"clips: must be from 4 \(batch\) to 4096, got 3"),
        ({"block_size": 129}, "block_size: must be a whole number from 1 to 128, got 129"),
        ({"device": "abacus"}, "device: must be 'cpu' or 'cuda', got 'abacus'"),
        ({"dtype": "int8"}, "dtype: must be"),
    ],
)
def test_a_bad_argument_is_refused(options, message, config):
    with pytest.raises(ReelmError, match=message):
        plan_memory(config, **options)


# ---- what fits


def test_the_largest_batch_fits_and_one_more_does_not(config):
    for available in (300 * MIB, 1024 * MIB):
        plan = fit_memory(config, available, seconds=5.0)
        assert plan.total <= available < plan_memory(config, seconds=5.0, batch=plan.batch + 1).total
        assert plan.seconds == 5.0
    one = plan_memory(config).total
    assert fit_memory(config, one).batch == 1
    assert fit_memory(config, one - 1) is None
    assert fit_memory(config, 2**50).batch == 4096


def test_what_does_not_fit_is_refused_and_what_fits_is_not(config):
    plan = plan_memory(config, seconds=20.0, batch=16)
    require_memory(plan, plan.total)
    require_memory(plan, None)
    with pytest.raises(ReelmError) as refusal:
        require_memory(plan, plan.total - 1)
    wanted, there = show_bytes(plan.total), show_bytes(plan.total - 1)
    assert str(refusal.value) == (
        f"memory: must be at least {wanted} for 16 clips of 20 s, 16 at a time, in float32 on cpu "
        f"(most while decoding), got {there}"
    )


def write_tree(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


INFO = {"proc/meminfo": "MemTotal:       16000 kB\nMemAvailable:    8000 kB\n"}
TWO, ONE = "sys/fs/cgroup", "sys/fs/cgroup/memory"
JOB = {f"{TWO}/memory.max": "max", f"{TWO}/memory.current": "0", "proc/self/cgroup": "0::/job/step\n"}
OLD = {"proc/self/cgroup": "5:cpu:/\n4:memory,hugetlb:/job\n0::/\n"}


@pytest.mark.parametrize(
    ("files", "free"),
    [
        ({}, None),
        ({"proc/meminfo": "MemTotal: 5 kB\n"}, None),
        (INFO, 8000 * 1024),
        # Version 2: no limit, a limit of this group, a tighter one of the group around it, one above what there is.
        (INFO | JOB, 8000 * 1024),
        (INFO | JOB | {f"{TWO}/job/step/memory.max": "5000", f"{TWO}/job/step/memory.current": "2000"}, 3000),
        (INFO | JOB | {f"{TWO}/job/memory.max": "4000\n", f"{TWO}/job/memory.current": "3000\n",
                       f"{TWO}/job/step/memory.max": "5000", f"{TWO}/job/step/memory.current": "2000"}, 1000),
        (INFO | JOB | {f"{TWO}/job/memory.max": "9" * 12, f"{TWO}/job/memory.current": "3000"}, 8000 * 1024),
        # The cache of files is given up when it is needed; more in use than the limit leaves nothing.
        (JOB | {f"{TWO}/job/memory.max": "4000", f"{TWO}/job/memory.current": "3000",
                f"{TWO}/job/memory.stat": "anon 7\ninactive_file 600\n"}, 1600),
        (JOB | {f"{TWO}/job/memory.max": "4000", f"{TWO}/job/memory.current": "4001"}, 0),
        # Version 1, by its own path; within a container it is not there, but its top is.
        (INFO | OLD | {f"{ONE}/job/memory.limit_in_bytes": "5000", f"{ONE}/job/memory.usage_in_bytes": "2000",
                       f"{ONE}/job/memory.stat": "inactive_file 1\ntotal_inactive_file 500\n"}, 3500),
        (INFO | OLD | {f"{ONE}/memory.limit_in_bytes": "5000", f"{ONE}/memory.usage_in_bytes": "4000"}, 1000),
        (INFO | OLD | {f"{ONE}/job/memory.limit_in_bytes": "9223372036854771712",
                       f"{ONE}/job/memory.usage_in_bytes": "2000"}, 8000 * 1024),
    ],
)  # fmt: skip
def test_available_memory_is_the_least_that_anyone_leaves(files, free, tmp_path):
    write_tree(tmp_path, files)
    assert available_memory(CPU, tmp_path) == free


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not tell")
def test_there_is_memory_here():
    assert available_memory(CPU) > MIB


# ---- measured

RUN = """
import json, sys
from pathlib import Path
import torch, reelm

def now(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

def forget_the_peak():
    Path("/proc/self/clear_refs").write_text("5")

model, batch, options, load = json.loads(sys.argv[1])
torch.set_num_threads(1)
forget_the_peak()
base = now("VmRSS")
generator = reelm.VideoGenerator.from_pretrained(model, device="cpu", **load)
loading = now("VmHWM") - base
forget_the_peak()
seeds = list(range(batch))  # clips of one seed share their noise
generator.generate(["a red ball"] * batch if batch > 1 else "a red ball", seed=seeds if batch > 1 else 1, **options)
print(json.dumps([loading, now("VmHWM") - base]))
"""


def measure(model, batch, seconds, block_size=None, **load) -> tuple[float, float, float]:
    """Of loading, of all that follows, and of both together: what the process grew by, in terms of the plan."""
    decoder = "sequential" if block_size == 1 else "auto"
    case = json.dumps([str(model), batch, {"seconds": seconds, "decoder": decoder}, load])
    done = subprocess.run([sys.executable, "-c", RUN, case], capture_output=True, text=True, check=True)
    loading, after = json.loads(done.stdout)
    plan = plan_memory(config_of(model), batch=batch, seconds=seconds, block_size=block_size, **load)
    planned = max(plan.phases["sampling"], plan.phases["decoding"])
    ratios = loading / plan.phases["loading"], after / planned, max(loading, after) / plan.total
    without = (max(loading, after) - plan.runtime) / (plan.total - plan.runtime)
    sizes = [f"{size / MIB:.0f}" for size in (loading, after, plan.total)]
    print(f"\n{Path(model).name} batch {batch} {seconds:g} s {decoder} {load or ''}: {sizes[0]}, then {sizes[1]}")
    print(f"  plan {sizes[2]} MiB; ratios {', '.join(f'{r:.3f}' for r in ratios)}; without runtime {without:.3f}")
    return ratios


@pytest.fixture(scope="module")
def large_checkpoint(tmp_path_factory, config) -> Path:
    """The bundled model with a language model of 304 million random weights."""
    folder, lm = tmp_path_factory.mktemp("large"), config.lm
    lm = dataclasses.replace(lm, width=1024, depth=27, heads=16, kv_heads=4, head_dim=64, hidden=2752)
    model = VideoTransformer(lm)
    model.text = TextEncoder((find_checkpoint("world") / "text.model").read_bytes())
    save_pretrained(folder, dataclasses.replace(config, lm=lm), VideoTokenizer(config.tokenizer), model)
    return folder


linux = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="the peak cannot be reset here")


def are_planned(ratios: tuple[float, float, float]) -> bool:
    """Whether ratios of `measure` are near 1; loading may take less, as a part of the runtime comes with a pass."""
    return max(ratios) < 1.15 and min(ratios[1:]) > 0.85


@linux
@pytest.mark.slow
@pytest.mark.parametrize(
    ("batch", "seconds", "block_size"),
    [(1, 2.0, None), (1, 20.0, None), (16, 2.0, None), (16, 20.0, None), (64, 2.0, None), (64, 2.0, 1)],
)
def test_the_bundled_model_takes_what_is_planned(batch, seconds, block_size):
    assert are_planned(measure("world", batch, seconds, block_size))


@linux
@pytest.mark.slow
@pytest.mark.parametrize(("batch", "seconds", "load"), [(1, 2.0, {}), (4, 0.1, {}), (1, 0.1, {"dtype": "bfloat16"})])
def test_a_large_model_takes_what_is_planned(batch, seconds, load, large_checkpoint):
    assert are_planned(measure(large_checkpoint, batch, seconds, **load))


@linux
@pytest.mark.slow
def test_a_large_model_of_int8_takes_what_is_planned(large_checkpoint):
    try:
        check_machine("int8", "cpu")
    except ReelmError as error:
        pytest.skip(str(error))
    ratios = measure(large_checkpoint, 4, 2.0, weights="int8", cache="int8")
    assert all(abs(ratio - 1) < 0.15 for ratio in ratios)


LOAD = """
import sys, time
from pathlib import Path
import torch
from safetensors import safe_open
from reelm.lm.blocks import PackedLinear
from reelm.generation.pretrained import load_pretrained

def now(name):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name + ":"))

def read():
    with safe_open(folder / "lm.safetensors", framework="pt") as file:
        return {name: file.get_tensor(name).float() for name in file.keys()}

def read_and_pack():
    tensors = read()
    for name in list(tensors):
        if name in packed:
            tensors[name] = torch.ops.mkldnn._reorder_linear_weight(tensors[name], None)
    return tensors

what, folder = sys.argv[1], Path(sys.argv[2])
torch.set_num_threads(1)
world = load_pretrained("world", device="cpu").lm  # so that all libraries are in memory, and their code has run
names = [name for name, layer in world.named_modules() if isinstance(layer, PackedLinear)]
packed = {f"{name}.weight" for name in names}
packed |= {name.replace(".0.", f".{block}.") for name in packed for block in range(64)}
run = {"read": read, "read and pack": read_and_pack, "load": lambda: load_pretrained(folder, device="cpu")}[what]
Path("/proc/self/clear_refs").write_text("5")
base, start = now("VmRSS"), time.perf_counter()
result = run()
print(time.perf_counter() - start, now("VmHWM") - base)
"""


@linux
@pytest.mark.slow
def test_a_large_model_is_loaded_in_the_memory_and_twice_the_time_of_its_weights(large_checkpoint):
    """The time of reading: from safetensors to float32, laid out as the model reads them, without checks or a hash."""
    best, peaks = {}, []
    for what in ["read", "read and pack", "load"] * 5:  # others may be at work on this machine: the least of each
        done = subprocess.run([sys.executable, "-c", LOAD, what, str(large_checkpoint)], capture_output=True, text=True)
        seconds, peak = map(float, done.stdout.split())
        best[what] = min(seconds, best.get(what, seconds))
        peaks += [peak] * (what == "load")
    memory = max(peaks) / plan_memory(config_of(large_checkpoint)).weights
    times = {what: best["load"] / best[what] for what in ("read", "read and pack")}
    print(f"\npeak {memory:.3f} of the weights; {best}; the time of loading over that of the others: {times}")
    assert memory < 1.15
    assert times["read and pack"] < 2


@linux
@pytest.mark.slow
def test_the_runtime_is_what_the_smallest_model_takes(debug_checkpoint):
    plan = plan_memory(config_of(debug_checkpoint), seconds=0.1)
    assert plan.total - plan.runtime < 0.1 * plan.runtime
    assert are_planned(measure(debug_checkpoint, 1, 0.1))


def test_what_does_not_fit_is_refused_before_it_is_loaded(debug_checkpoint, monkeypatch):
    from reelm import VideoGenerator

    monkeypatch.setattr("reelm.generation.admission.available_memory", lambda place: 30 * MIB)
    monkeypatch.setattr("reelm.generation.admission.load_pretrained", lambda *_, **__: pytest.fail("loaded"))
    with pytest.raises(ReelmError, match=r"^memory: must be at least .* got 30 MiB"):
        VideoGenerator.from_pretrained(debug_checkpoint, device="cpu")
