"""A tiny random Emu3 as transformers makes and saves it: the reference of its language model and of its tokenizer.

Ids: 0 to 49 text, 50 the end of a line, 51 of a latent frame, 55 begin, 57 picture, 58 its tokens, 60 on video tokens.
"""

import functools

import torch

CODES, FIRST = 24, 60
TEXT = {
    "vocab_size": 90, "hidden_size": 32, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 55, "pad_token_id": 54,
    "eos_token_id": 56,
}  # fmt: skip
CODEC = {
    "codebook_size": CODES, "embed_dim": 4, "latent_channels": 4, "base_channels": 32, "channel_multiplier": [1, 2, 2],
    "num_res_blocks": 1, "attn_resolutions": [2], "hidden_size": 64,
}  # fmt: skip
IDS = {f"<|visual token {code:06d}|>": FIRST + code for code in range(CODES)} | {
    "<|extra_200|>": 50, "<|extra_201|>": 51, "<image>": 52, "<|image start|>": 57, "<|image token|>": 58,
    "<|image end|>": 59,
}  # fmt: skip
WORDS = ["[UNK]", "a", "red", "ball", "blue", "2*3", "4*2*3"]


@functools.cache
def reference():
    """The model, whose weights are so large that everything matters."""
    from transformers import Emu3Config, Emu3ForConditionalGeneration

    torch.manual_seed(0)
    model = Emu3ForConditionalGeneration(Emu3Config(text_config=TEXT, vq_config=CODEC, vocabulary_map=IDS)).eval()
    random = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "vqmodel" not in name:
                shape = weight.shape
                weight.copy_(torch.randn(shape, generator=random) * 0.3 + (1.0 if weight.ndim == 1 else 0.0))
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.normal_(std=0.1, generator=random)
            elif "running_var" in name:
                buffer.uniform_(0.5, 1.5, generator=random)
    return model.requires_grad_(False)


def words_file():
    """The content of a tokenizer of text that knows some words."""
    from tokenizers import Tokenizer, models, pre_tokenizers

    tokenizer = Tokenizer(models.WordLevel({word: index for index, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer.to_str()


def publish(folder, *, shard_size="20KB"):
    """Save the model as it is published, in shards."""
    reference().save_pretrained(folder, max_shard_size=shard_size)
    (folder / "tokenizer.json").write_text(words_file())
    return folder


def sequence(prompt_ids, tokens_S, frames, *, rows=2, columns=3):
    """The ids of a prompt and of video tokens between their delimiters, and the places from which each is predicted."""
    ids, places = list(prompt_ids), []
    for index, token in enumerate(tokens_S):
        places.append(len(ids) - 1)
        ids.append(FIRST + int(token))
        if frames == 1 and index % columns == columns - 1:
            ids.append(50)
        if frames > 1 and index % (rows * columns) == rows * columns - 1:
            ids.append(51)
    return ids, places
