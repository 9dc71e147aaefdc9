"""The weights of Emu3 in the layout of transformers by their names there, and the sizes in its config.json.

    folder = Emu3Folder(Path("Emu3-Gen-hf"))                        # safetensors shards, config.json, tokenizer.json
    config = folder.config(rows=90, columns=90, frames=1)
    write_tensors(path, folder.tensors(config), source=folder.source)

The folder also holds the tokenizer of its tokens (tokenizer/emu3_weights.py), whose tensors are none of the language
model's.
"""

import re
from collections.abc import Mapping
from pathlib import Path

from ..core.checkpoint import read_json
from ..core.errors import CheckpointError
from ..core.safetensors_shards import SafetensorsShards
from ..core.streamed_tensors import StreamedTensor
from .conversion import PrefixedSource, Rows, shapes_of, stream_tensors
from .emu3_lm_config import Emu3LMConfig
from .emu3_transformer import Emu3Transformer

TEXT_MODEL, CODEC = r"^(model\.)?text_model\.(model\.)?", r"^(model\.)?vqmodel\."
SIZES = {
    "hidden_size": "width", "num_hidden_layers": "depth", "num_attention_heads": "heads",
    "num_key_value_heads": "kv_heads", "intermediate_size": "hidden", "rms_norm_eps": "epsilon",
    "vocab_size": "text_vocab_size",
}  # fmt: skip
# The delimiters: their names in the tokenizer, and in Emu3LMConfig.
DELIMITERS = {
    "<|image start|>": "picture_id", "<|image token|>": "tokens_id", "<|extra_200|>": "line_id",
    "<|extra_201|>": "frame_id",
}  # fmt: skip
VIDEO_TOKEN = re.compile(r"<\|visual token (\d+)\|>")
_IN_BLOCK = {
    "attention.qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "attention.out": ("self_attn.o_proj",), "attention_norm": ("input_layernorm",),
    "mlp_norm": ("post_attention_layernorm",), "gate_up": ("mlp.gate_proj", "mlp.up_proj"), "down": ("mlp.down_proj",),
}  # fmt: skip


class Emu3Folder:
    """The published files of a model.

    Attributes:
        values: The contents of config.json.
        text: The content of tokenizer.json.
        shards: All tensors.
        source: A name of the files' states, which differs when one of them changes.
    """

    def __init__(self, folder: Path) -> None:
        """Read the names of the tensors, the config and the tokenizer of text.

        Raises:
            CheckpointError: A file is missing or damaged.
        """
        self.values = read_json(folder / "config.json")
        self.shards = SafetensorsShards(folder)
        try:
            self.text = (folder / "tokenizer.json").read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise CheckpointError(f"source: must hold tokenizer.json, the tokenizer of text: {error}") from error
        states = [(name, (folder / name).stat()) for name in [*self.shards.files, "config.json", "tokenizer.json"]]
        self.source = str([(name, state.st_size, state.st_mtime_ns) for name, state in states])

    def _ids(self) -> dict[str, int]:
        """Return the ids of tokens by name, which are in config.json."""
        ids: dict[str, int] = {}
        for name, value in self._table("vocabulary_map").items():
            if not isinstance(value, int):
                raise CheckpointError(f"source: vocabulary_map must give {name} an id, got {value!r}")
            ids[name] = value
        return ids

    def _table(self, name: str) -> Mapping[str, object]:
        table = self.values.get(name)
        if not isinstance(table, dict):
            raise CheckpointError(f"source: config.json must be that of Emu3: it must have {name}")
        return table

    def config(self, *, rows: int, columns: int, frames: int) -> Emu3LMConfig:
        """Return the sizes of the language model for clips of so many latent frames, rows and columns.

        Raises:
            CheckpointError: config.json lacks a size or an id, or says what no such model has.
        """
        values, ids = self._table("text_config"), self._ids()
        try:
            video = {int(match[1]): ids[name] for name in ids if (match := VIDEO_TOKEN.fullmatch(name))}
            sizes = {own: values[name] for name, own in SIZES.items()}
            sizes |= {own: ids[name] for name, own in DELIMITERS.items()}
            sizes |= {"vocab_size": len(video), "first_video_id": video[0]}
            begin = values.get("bos_token_id")  # left out where it is the usual one
            sizes["begin_id"] = Emu3LMConfig.begin_id if begin is None else begin
            rope = values.get("rope_parameters") or {}
            assert isinstance(rope, dict)
            sizes["theta"] = rope.get("rope_theta", values.get("rope_theta", Emu3LMConfig.theta))
            if rope.get("rope_type", "default") != "default":
                raise ValueError(f"rope_type must be 'default', got {rope['rope_type']!r}")
            if any(video[code] != video[0] + code for code in range(len(video))):
                raise ValueError("vocabulary_map must have the video tokens one after the other")
            query = self._model().shape("layers.0.self_attn.q_proj.weight")
            sizes["head_dim"] = query[0] // int(str(values["num_attention_heads"]))
            return Emu3LMConfig(rows=rows, columns=columns, frames=frames, **sizes)  # type: ignore[arg-type]
        except CheckpointError:
            raise
        except (AssertionError, LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(f"source: config.json must be that of Emu3: {error}") from error

    def _model(self) -> PrefixedSource:
        return PrefixedSource(self.shards, TEXT_MODEL, without=CODEC)

    def tensors(self, config: Emu3LMConfig) -> list[StreamedTensor]:
        """Return the tensors of `Emu3Transformer`, each of which is read when it is written.

        Raises:
            CheckpointError: A tensor is missing, unknown, or has another shape or dtype than the sizes say.
        """
        shapes = shapes_of(Emu3Transformer, config)
        head = Rows("lm_head.weight", config.first_video_id, config.first_video_id + config.vocab_size)
        model = self._model()
        if head.name in model.names and model.shape(head.name)[:1] != (config.text_vocab_size,):
            found = model.shape(head.name)
            raise CheckpointError(f"source: {head.name} must have {config.text_vocab_size} rows, got {found}")

        def published(name: str) -> tuple[Rows, ...]:
            if name == "head.weight":
                return (head,)
            if not name.startswith("blocks."):
                return (Rows(name.replace("token_embedding", "embed_tokens")),)
            _, layer, own = name.split(".", 2)
            module, _, kind = own.rpartition(".")
            return tuple(Rows(f"layers.{layer}.{each}.{kind}") for each in _IN_BLOCK[module])

        return stream_tensors(model, shapes, published)
