"""Cosmos-Predict1's autoregressive models once more, plain and slow, from the names of the published weights.

Written from the description of the models (NVIDIA 2025, arXiv 2501.03575; YaRN: Peng et al. 2023, arXiv 2309.00071) and
of their files, not from reelm's: a token at a time, its heads one by one, angles as complex numbers, in float64.

    weights = published_weights(sizes, seed=0)
    logits_SV = logits(weights, sizes, tokens, context_PX=None)       # entry i: of the token after the first i
"""

import cmath
import math

import torch


def sizes(**changes):
    """Sizes of a tiny model; `context` are the channels of text embeddings, `states` their number."""
    return {"vocab": 40, "rows": 2, "columns": 3, "frames": 5, "dim": 24, "layers": 2, "heads": 4, "kv_heads": 2,
            "head_dim": 16, "hidden": 20, "yarn": 1.0, "context": 0, "states": 7} | changes  # fmt: skip


def published_weights(s, seed):
    """Random weights under the published names."""
    random, found = torch.Generator().manual_seed(seed), {}

    def add(name, *shape):
        scale = 0.3 if len(shape) > 1 else 0.2
        found[name] = torch.randn(shape, generator=random) * scale + (1.0 if len(shape) == 1 else 0.0)

    def attention(name, source):
        add(f"{name}.wq.weight", s["heads"] * s["head_dim"], s["dim"])
        for part in ("wk", "wv"):
            add(f"{name}.{part}.weight", s["kv_heads"] * s["head_dim"], source)
        add(f"{name}.wo.weight", s["dim"], s["heads"] * s["head_dim"])
        add(f"{name}.q_norm.weight", s["head_dim"])
        add(f"{name}.k_norm.weight", s["head_dim"])

    add("tok_embeddings.weight", s["vocab"] + (24 if s["context"] else 0), s["dim"])  # rounded up
    for layer in range(s["layers"]):
        name = f"layers.{layer}"
        attention(f"{name}.attention", s["dim"])
        add(f"{name}.attention_norm.weight", s["dim"])
        if s["context"]:
            attention(f"{name}.cross_attention", s["context"])
            add(f"{name}.cross_attention_norm.weight", s["dim"])
        add(f"{name}.ffn_norm.weight", s["dim"])
        add(f"{name}.feed_forward.w1.weight", s["hidden"], s["dim"])
        add(f"{name}.feed_forward.w3.weight", s["hidden"], s["dim"])
        add(f"{name}.feed_forward.w2.weight", s["dim"], s["hidden"])
    add("norm.weight", s["dim"])
    add("output.weight", s["vocab"], s["dim"])
    return found


def place(s, index):
    size = s["rows"] * s["columns"]
    return index // size, index % size // s["columns"], index % s["columns"]


def axes(channels):
    """The channels of time, rows and columns."""
    third = channels // 6 * 2
    return channels - 2 * third, third, third


def angles(s, index, frame=None):
    """The angles of a token's pairs of channels; `frame` stands in place of its latent frame."""
    found = []
    where = place(s, index)
    where = (where[0] if frame is None else frame, *where[1:])
    for at, channels, length in zip(where, axes(s["head_dim"]), (3, 40, 40), strict=True):
        for pair in range(channels // 2):
            frequency = 500000.0 ** (-2 * pair / channels)
            low, high = 2 * math.pi * 1 / length, 2 * math.pi * 4 / length
            kept = min(1.0, max(0.0, (frequency - low) / (high - low)))
            frequency *= (1 - kept) / s["yarn"] + kept
            found.append(at * frequency)
    return found


def turned(head_E, token_angles):
    half = len(token_angles)
    pairs = [complex(head_E[i], head_E[i + half]) * cmath.exp(1j * angle) for i, angle in enumerate(token_angles)]
    return torch.tensor([pair.real for pair in pairs] + [pair.imag for pair in pairs], dtype=torch.float64)


def added(s, index):
    """The sines and cosines that are added to a token's state."""
    found = []
    for at, channels in zip(place(s, index), axes(s["dim"]), strict=True):
        waves = [at * 10000.0 ** (-pair / (channels / 2)) for pair in range(channels // 2)]
        found += [math.sin(wave) for wave in waves] + [math.cos(wave) for wave in waves]
    return torch.tensor(found, dtype=torch.float64)


def norm(x, weight):
    return x / (x.square().mean(-1, keepdim=True) + 1e-5).sqrt() * weight


def heads_of(x, weight, head_dim):
    return (x @ weight.T).view(len(x), -1, head_dim)


def mixed(scores, values):
    return torch.softmax(torch.stack(scores) / math.sqrt(len(values[0])), 0) @ torch.stack(values)


def attention(w, name, s, x, tokens):
    """Attention of each token to those before it; `tokens` are their indices in the clip, -1 the begin token."""
    E, group, window = s["head_dim"], s["heads"] // s["kv_heads"], s["frames"] - 1
    q, k, v = (heads_of(x, w[f"{name}.{part}.weight"], E) for part in ("wq", "wk", "wv"))
    q, k = norm(q, w[f"{name}.q_norm.weight"]), norm(k, w[f"{name}.k_norm.weight"])
    nothing = [0.0] * (E // 2)
    rows = []
    for i, index in enumerate(tokens):
        heads = []
        for head in range(s["heads"]):
            scores, values = [], []
            for j, other in enumerate(tokens[: i + 1]):
                here, there = place(s, index)[0], place(s, other)[0]
                frame = None  # the latent frame of training in which the query stands for this key
                if not s["context"] and here - there >= window:
                    if there > 0:
                        continue
                    frame = s["frames"] - 1
                query = turned(q[i, head], nothing if index < 0 else angles(s, index, frame))
                key = turned(k[j, head // group], nothing if other < 0 else angles(s, other))
                scores.append(query @ key)
                values.append(v[j, head // group])
            heads.append(mixed(scores, values))
        rows.append(torch.cat(heads))
    return torch.stack(rows) @ w[f"{name}.wo.weight"].T


def cross_attention(w, name, s, x, context):
    E, group = s["head_dim"], s["heads"] // s["kv_heads"]
    q = norm(heads_of(x, w[f"{name}.wq.weight"], E), w[f"{name}.q_norm.weight"])
    k = norm(heads_of(context, w[f"{name}.wk.weight"], E), w[f"{name}.k_norm.weight"])
    v = heads_of(context, w[f"{name}.wv.weight"], E)
    rows = [
        torch.cat([
            mixed([q[i, head] @ k[j, head // group] for j in range(len(context))], list(v[:, head // group]))
            for head in range(s["heads"])
        ])
        for i in range(len(x))
    ]  # fmt: skip
    return torch.stack(rows) @ w[f"{name}.wo.weight"].T


def logits(weights, s, tokens, context_PX=None):
    """The logits that follow the begin token (of models with text) and each of the tokens, in float64."""
    w = {name: tensor.double() for name, tensor in weights.items()}
    begin = [-1] if s["context"] else []
    indices = [*begin, *range(len(tokens))]
    x = w["tok_embeddings.weight"][[*(s["vocab"] for _ in begin), *tokens]]
    for layer in range(s["layers"]):
        name = f"layers.{layer}"
        if s["context"]:
            x = x + torch.stack(
                [added(s, index) if index >= 0 else torch.zeros(s["dim"]).double() for index in indices]
            )
        x = x + attention(w, f"{name}.attention", s, norm(x, w[f"{name}.attention_norm.weight"]), indices)
        if s["context"]:
            context = torch.zeros(s["states"], s["context"], dtype=torch.float64)
            context[: len(context_PX)] = context_PX
            normed = norm(x, w[f"{name}.cross_attention_norm.weight"])
            x = x + cross_attention(w, f"{name}.cross_attention", s, normed, context)
        h = norm(x, w[f"{name}.ffn_norm.weight"])
        gate = h @ w[f"{name}.feed_forward.w1.weight"].T
        up = h @ w[f"{name}.feed_forward.w3.weight"].T
        x = x + (gate / (1 + (-gate).exp()) * up) @ w[f"{name}.feed_forward.w2.weight"].T
    return norm(x, w["norm.weight"]) @ w["output.weight"].T
