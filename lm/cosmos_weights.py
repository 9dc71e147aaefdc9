"""The weights of NVIDIA's published Cosmos-Predict1 models by their names there, and the sizes in their config.json.

    archive = CosmosArchive(Path("Cosmos-Predict1-4B"))                 # model.pt, or some, and config.json
    config = archive.config(rows=40, columns=64)
    write_tensors(path, archive.tensors(config), source=archive.source)
    archive.close()

Names, shapes and sizes are those of the published code (github.com/nvidia-cosmos/cosmos-predict1).
"""

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path

import torch

from ..core.checkpoint import read_json
from ..core.errors import CheckpointError, ReelmError
from ..core.streamed_tensors import StreamedTensor
from ..core.torch_archive import TorchArchive
from .conversion import Rows, shapes_of, stream_tensors
from .cosmos_lm_config import CosmosLMConfig
from .cosmos_transformer import CosmosTransformer

# Tables that are computed from the sizes, caches, and marks of a library that the published code is trained with.
COMPUTED = re.compile(r"(_extra_state|causal_mask|(cos|sin)_cached|cache_[kv]|inv_freq|pos_emb(_[thw])?|freqs)$")
# The names in config.json of sizes, and those of CosmosLMConfig.
SIZES = {
    "dim": "width", "n_layers": "depth", "n_heads": "heads", "n_kv_heads": "kv_heads", "ffn_hidden_size": "hidden",
    "norm_eps": "epsilon", "rope_theta": "theta",
}  # fmt: skip
# The model of these sizes uses YaRN, which its own config.json need not say.
YARN_SIZES, YARN_SCALE = (40, 5120), 2.0


class CosmosArchive:
    """The published files of a model in a folder."""

    def __init__(self, folder: Path) -> None:
        """Read the names of the tensors and the config.

        Raises:
            CheckpointError: A file is missing, damaged, or holds code.
        """
        paths = sorted(folder.glob("model*.pt"))
        if not paths:
            raise CheckpointError(f"source: must hold model.pt, got none in {str(folder)!r}")
        self.values = read_json(folder / "config.json")
        self._places: dict[str, tuple[TorchArchive, str]] = {}
        self.left_out: list[str] = []
        with contextlib.ExitStack() as stack:
            for path in paths:
                archive = stack.enter_context(TorchArchive(path))
                for name in archive.names:
                    self._add(archive, name)
            self._stack = stack.pop_all()
        states = [(path.name, path.stat()) for path in [*paths, folder / "config.json"]]
        self.source = str([(name, state.st_size, state.st_mtime_ns) for name, state in states])

    def _add(self, archive: TorchArchive, name: str) -> None:
        own = re.sub(r"^(model\.)+", "", name)  # the part of a file, and of a class, that some have in front
        if COMPUTED.search(own):
            self.left_out.append(f"{archive.path.name}: {name}")
        elif own in self._places:
            raise CheckpointError(f"source: must have each tensor once, got {own} twice")
        else:
            self._places[own] = archive, name

    def close(self) -> None:
        """Close the files."""
        self._stack.close()

    def config(self, *, rows: int, columns: int) -> CosmosLMConfig:
        """Return the sizes of the model for latent frames of so many rows and columns.

        Raises:
            CheckpointError: config.json lacks a size, or says what no such model has.
        """
        values = self.values
        try:
            sizes = {own: values[name] for name, own in SIZES.items() if name != "rope_theta" or name in values}
            text = bool(values.get("apply_abs_pos_emb", False))
            yarn = values.get("apply_yarn", (sizes["depth"], sizes["width"]) == YARN_SIZES)
            sizes["yarn_scale"] = values.get("yarn_scale", YARN_SCALE) if yarn else 1.0
            sizes |= {"context_dim": values["context_dim"]} if text else {}
            sizes["vocab_size"] = self.shape("output.weight")[0]
            sizes["head_dim"] = self.shape("layers.0.attention.wq.weight")[0] // int(str(values["n_heads"]))
            if text and values.get("insert_cross_attn_every_k_layers", 1) != 1:
                raise ReelmError("insert_cross_attn_every_k_layers: must be 1")
            config: CosmosLMConfig = CosmosLMConfig(rows=rows, columns=columns, **sizes)  # type: ignore[arg-type]
        except (LookupError, TypeError, ValueError, ArithmeticError) as error:
            raise CheckpointError(f"source: config.json must be that of a Cosmos-Predict1 model: {error}") from error
        return config

    def tensors(self, config: CosmosLMConfig) -> list[StreamedTensor]:
        """Return the tensors of `CosmosTransformer`, each of which is read when it is written.

        Raises:
            CheckpointError: A tensor is missing, unknown, or has another shape or dtype than the sizes say.
        """
        shapes = shapes_of(CosmosTransformer, config)
        tokens = shapes["token_embedding.weight"][0]
        # The published code rounds the rows of the embedding up; those after the begin token are never read.
        embedding = Rows("tok_embeddings.weight", 0, tokens)
        found = stream_tensors(
            self, shapes, lambda name: (embedding,) if name == "token_embedding.weight" else published(name)
        )
        spare = self.shape(embedding.name)[0] - tokens
        if spare:
            self.left_out.append(f"{embedding.name}: the last {spare} rows, which stand for no token")
        return found

    @property
    def names(self) -> list[str]:
        """The names of the tensors, without what some files and classes have in front."""
        return list(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        if name not in self._places:
            raise CheckpointError(f"source: must have the tensor {name}, got {len(self._places)} others")
        archive, own = self._places[name]
        return archive.shape(own)

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of a tensor."""
        archive, own = self._places[name]
        return archive.dtype(own)

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor."""
        archive, own = self._places[name]
        return archive.tensor(own)


def published(name: str) -> tuple[Rows, ...]:
    """Return the published tensors that make one of `CosmosTransformer`, in the order of their rows."""
    return tuple(map(Rows, _published_names(name)))


def _published_names(name: str) -> tuple[str, ...]:
    first, _, rest = name.partition(".")
    if first not in ("blocks", "cross_norms", "cross_attention"):
        return ({"token_embedding": "tok_embeddings", "head": "output"}.get(first, first) + "." + rest,)
    layer, _, own = rest.partition(".")
    if first == "cross_norms":
        return (f"layers.{layer}.cross_attention_norm.{own}",)
    own = own if first == "blocks" else f"cross_attention.{own}"
    return tuple(f"layers.{layer}.{published}" for published in _in_block(own))


def _in_block(name: str) -> Iterator[str]:
    """Yield the published names in a layer of a tensor of a block or of its cross-attention."""
    module, _, rest = name.partition(".")
    names = {"qkv.weight": ("wq", "wk", "wv"), "kv.weight": ("wk", "wv"), "q.weight": ("wq",), "out.weight": ("wo",)}
    if module in ("attention", "cross_attention"):
        yield from (f"{module}.{own}.weight" for own in names.get(rest, (rest,)))
    elif module in ("gate_up", "down"):
        yield from (f"feed_forward.{own}.weight" for own in (("w1", "w3") if module == "gate_up" else ("w2",)))
    else:
        yield f"{'ffn_norm' if module == 'mlp_norm' else module}.{rest}"
