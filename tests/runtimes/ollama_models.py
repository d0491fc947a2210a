"""A tiny Llama as a GGUF for tests with a real Ollama: 256 bytes as vocabulary, 32 hidden units.

It says one given text, or nothing of meaning; loading, rendering, counting and stopping are real.
"""

from __future__ import annotations

from pathlib import Path

HIDDEN, LAYERS, HEADS = 32, 1, 2
SPECIALS = ("<unk>", "<s>", "</s>")
EOS_TOKEN = SPECIALS.index("</s>")


def write_tiny_gguf(
    path: Path,
    *,
    chat_template: str | None = None,
    add_bos: bool = True,
    say: str = "",
    hidden: int = HIDDEN,
    architecture: str = "llama",
) -> Path:
    """A SentencePiece-type model of 256 bytes and three special tokens.

    With `say` (distinct characters) it answers every prompt with exactly this text, then EOS: the
    output row of each next token is the embedding of the one before, and attention adds nothing.
    Rows of 256 `hidden` units can be quantized to every type.
    """
    import gguf
    import numpy as np

    size = len(SPECIALS) + 256
    random = np.random.default_rng(0)
    embedding = random.standard_normal((size, hidden)).astype(np.float32)
    output = np.zeros((size, hidden), np.float32)
    if say:
        # Any token leads to the first byte, weakly; each byte of the text leads to the next.
        steps = [len(SPECIALS) + byte for byte in say.encode()]
        embedding /= np.linalg.norm(embedding, axis=1, keepdims=True)
        for now, following in zip(steps, [*steps[1:], EOS_TOKEN], strict=True):
            output[following] += 8 * embedding[now]
        others = [i for i in range(size) if i not in steps]
        embedding[others] = embedding[others[0]]
        output[steps[0]] += 8 * embedding[others[0]]
    else:
        output = embedding.copy()
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_name("tiny")
    writer.add_context_length(8192)
    writer.add_embedding_length(hidden)
    writer.add_block_count(LAYERS)
    writer.add_feed_forward_length(hidden)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_dimension_count(hidden // HEADS)
    writer.add_vocab_size(size)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([*SPECIALS, *(f"<0x{byte:02X}>" for byte in range(256))])
    writer.add_token_scores([0.0] * size)
    kinds = [gguf.TokenType.UNKNOWN, gguf.TokenType.CONTROL, gguf.TokenType.CONTROL]
    writer.add_token_types([*kinds, *[gguf.TokenType.BYTE] * 256])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(EOS_TOKEN)
    writer.add_unk_token_id(0)
    writer.add_add_bos_token(add_bos)
    writer.add_add_space_prefix(False)
    if chat_template is not None:
        writer.add_chat_template(chat_template)
    writer.add_tensor("token_embd.weight", embedding.astype(np.float16))
    writer.add_tensor("output.weight", output.astype(np.float16))
    writer.add_tensor("output_norm.weight", np.ones(hidden, np.float32))
    for name, shape in _block_shapes(hidden).items():
        writer.add_tensor(f"blk.0.{name}.weight", _block_tensor(name, shape))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _block_shapes(hidden: int) -> dict[str, tuple[int, ...]]:
    square = (hidden, hidden)
    names = ("attn_q", "attn_k", "attn_v", "attn_output")
    return {
        **dict.fromkeys(("attn_norm", "ffn_norm"), (hidden,)),
        **dict.fromkeys(names, square),
        **dict.fromkeys(("ffn_gate", "ffn_up", "ffn_down"), square),
    }


def _block_tensor(name: str, shape: tuple[int, ...]) -> object:
    """Norms of one, all else zero: the block passes its input on unchanged."""
    import numpy as np

    if name.endswith("norm"):
        return np.ones(shape, np.float32)
    return np.zeros(shape, np.float16)
