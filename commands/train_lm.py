"""The command that makes a model of clips: train lm."""

import dataclasses
import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import tyro

from ..core.errors import require
from .base import RunCommand, config_options
from .data import prepared

# What the data and the tokenizer say about a language model, so that nobody has to.
DERIVED = ("vocab_size", "rows", "columns", "text_vocab_size")

STRIDE = 4  # frames between windows of clips, which are few where they are one's own


def _windows_options() -> type:
    from ..data.encode import Windows

    return config_options(Windows, default=Windows(stride=STRIDE), leave_out=("seed",))


def _lm_options() -> type:
    from ..training.lm_training import LMTraining

    return config_options(LMTraining, leave_out=DERIVED)


def _sampling_options() -> type:
    from ..sampling.rules import SamplingConfig

    return config_options(SamplingConfig)


@dataclass(frozen=True, kw_only=True)
class TrainLM(RunCommand):
    """Train a language model, and put the checkpoint together that --model loads.

    Of prepared clips, or a folder of clips, it makes tokens first, keeps the checkpoint that the held-out ends of the
    clips cost least, and continues these: continuations.png and .mp4 show them beside the truth. The model has a card,
    README.md, of how it was made and what was measured.

    Attributes:
        data: a folder of token shards, of clips that reelm prepare made, or of any clips.
        tokenizer: the folder of the training of the tokenizer that makes, or made, the tokens.
        text: the text model; without one it is trained on the captions.
        init: start from the weights of this model (a bundled name, a folder) instead of from nothing.
        windows: what is cut out of clips, where the data are clips.
        sampling: what the model will sample by; without guidance where no clip has a caption.
    """

    example = "reelm train lm --data my_clips --tokenizer runs/tokenizer --out runs/lm"
    data: Path
    tokenizer: Path
    text: Path | None = None
    init: str | None = None
    windows: Annotated[Any, tyro.conf.arg(constructor_factory=_windows_options)]
    sampling: Annotated[Any, tyro.conf.arg(constructor_factory=_sampling_options)]
    recipe: Annotated[Any, tyro.conf.arg(name="", constructor_factory=_lm_options)]

    def run(self) -> int:
        from ..core.checkpoint import find_checkpoint
        from ..core.config import from_dict
        from ..core.files import atomic_write
        from ..data.token_shards import read_shards
        from ..generation.pretrained import FORMAT, ModelConfig, Pretrained, save_pretrained
        from ..lm.transformer import VideoTransformer
        from ..sampling.rules import SamplingConfig
        from ..tokenizer.video_tokenizer import VideoTokenizer, load_tokenizer
        from ..training.lm_training import LMTraining, train_lm
        from ..training.loop import check_run
        from ..training.model_card import model_card
        from ..training.samples import write_samples

        # What is refused is refused before clips are encoded: the sizes that are not known yet are left at 1.
        check_run(self.out, self.resume)
        options = dataclasses.asdict(self.recipe)
        from_dict(LMTraining, {**options, "model": options["model"] | dict.fromkeys(DERIVED, 1)}, "options")
        sampling = from_dict(SamplingConfig, dataclasses.asdict(self.sampling), "options")
        tokenizer: VideoTokenizer = load_tokenizer(self.tokenizer, device=self.device)
        tokens, held_out, clips = self._tokens(tokenizer)
        sets = read_shards(tokens)
        captions = [text for shards in sets for texts in shards.captions for text in texts]
        text, (rows, columns) = self._text_encoder(captions), sets[0].tokens_Nthw.shape[2:]
        derived = (tokenizer.vocab_size, rows, columns, text.vocab_size)
        options["model"] |= dict(zip(DERIVED, derived, strict=True))
        recipe = from_dict(LMTraining, options, "options")
        if not any(captions):
            sampling = dataclasses.replace(sampling, guidance_scale=1.0)
        side = tokenizer.config.spatial
        config = ModelConfig(
            format=FORMAT, fps=sets[0].fps, height=rows * side, width=columns * side,
            tokenizer=tokenizer.config, lm=recipe.model, sampling=sampling,
        )  # fmt: skip

        quantizer = tokenizer.config.quantizer
        levels = quantizer.levels if quantizer.kind == "fsq" else ()

        def parts(lm: VideoTransformer) -> Pretrained:
            return Pretrained("training", "", "", config, tokenizer, lm)

        lm = train_lm(
            recipe, tokens, text, self.out, held_out=held_out, levels=levels, device=self.device, resume=self.resume,
            init=None if self.init is None else find_checkpoint(self.init),
            on_checkpoint=lambda lm: write_samples(parts(lm), captions, self.out / "samples.png"),
        )  # fmt: skip
        save_pretrained(self.out / "model", config, tokenizer, lm)
        code = self.report(f"a model for --model {shlex.quote(str(self.out / 'model'))},")
        if held_out is not None:
            self._tell_best()
        if clips is not None:
            self._continue(clips, parts(lm))
        atomic_write(self.out / "model" / "README.md", model_card(self.out, self.tokenizer, parts(lm)).encode())
        return code

    def _tell_best(self) -> None:
        from ..training.validation import best_of, read_entries

        entries = read_entries(self.out)
        best, last = best_of(entries), entries[-1]
        print(
            f"the model is that of step {best['step']}: {best['nats_per_token']:.3f} nats a held-out token "
            f"(step {last['step']}: {last['nats_per_token']:.3f})"
        )

    def _tokens(self, tokenizer: Any) -> tuple[Path, Path | None, Path | None]:
        """The folders of token shards, of held-out ones and of the clips that they were made of, where there are any.

        A run that goes on has its tokens; which clips and windows they are of is kept in data.json.
        """
        from ..core.checkpoint import read_json, save_json
        from ..core.config import check_same, from_dict
        from ..data.clip_shards import ClipShards
        from ..data.encode import Windows, encode_shards

        options = dataclasses.asdict(self.windows)
        windows = from_dict(Windows, {**options, "seed": self.recipe.seed}, "options")
        if any(self.data.glob("*.safetensors")):
            usual = dataclasses.asdict(_windows_options()())
            given = {f"windows.{name}": value for name, value in options.items() if value != usual[name]}
            rule = "must not be given where the data are tokens, which are windows already"
            require(not given, ", ".join(given), rule, given)
            return self.data, None, None
        tokens, held_out, record = self.out / "tokens", self.out / "held-out-tokens", self.out / "data.json"
        if self.resume:
            made = read_json(record)
            check_same({"windows": windows.told()}, {"windows": made.get("windows")})
            return tokens, held_out if held_out.exists() else None, Path(made["clips"])
        clips = prepared(self.data, self.out, known=self.tokenizer / "shards")
        for old in [*tokens.glob("*.safetensors"), *held_out.glob("*.safetensors")]:
            if not old.stem.endswith(f"-{windows.num_frames}"):  # of a run that never began
                old.unlink()
        encode_shards(tokenizer, ClipShards(clips), tokens, windows)
        ends = ClipShards(clips, "held-out")
        judges = any(sample.frames >= windows.num_frames for sample in ends.samples)
        if judges:
            encode_shards(tokenizer, ends, held_out, dataclasses.replace(windows, crops=1, mirror=False, motion=0.0))
        save_json(record, {"clips": str(clips), "windows": windows.told()})
        return tokens, held_out if judges else None, clips

    def _text_encoder(self, captions: list[str]) -> Any:
        from ..core.files import atomic_write
        from ..lm.text import TextEncoder, train_text, words_of

        if self.text is not None:
            return TextEncoder(self.text.read_bytes())
        path = self.out / "text.model"
        if not (self.resume and path.exists()):
            path.parent.mkdir(parents=True, exist_ok=True)
            # A model of clips without captions knows one word, since none cannot be.
            atomic_write(path, train_text([text for text in captions if words_of(text)] or ["clip"]))
        return TextEncoder(path.read_bytes())

    def _continue(self, clips: Path, parts: Any) -> None:
        from ..core.checkpoint import save_json
        from ..data.clip_shards import ClipShards
        from ..evaluation.continuations import continue_held_out, least_frames
        from ..generation.generator import VideoGenerator

        held_out = ClipShards(clips, "held-out")
        generator = VideoGenerator(parts)
        least = least_frames(parts.tokenizer.compression.t)
        if all(sample.frames < least for sample in held_out.samples):
            print(f"no held-out sample has {least} frames: nothing to continue (reelm prepare --held-out-seconds)")
            return
        report = continue_held_out(generator, held_out, self.out)
        save_json(self.out / "continuations.json", report)
        print(
            f"continued {report['n']} held-out clips by {report['predicted_frames']} frames: {report['psnr']:.2f} dB, "
            f"the last frame repeated {report['psnr_of_the_last_frame_repeated']:.2f} dB; "
            f"see {self.out / 'continuations.png'}"
        )
