"""Names of quantizations: llama.cpp's file types as `llama-quantize` spells them (source:
`tools/quantize/quantize.cpp` of the pinned revision), and this project's ONNX variants."""

from __future__ import annotations

QUANTIZATIONS = (
    *("F32", "F16", "BF16", "Q8_0", "Q6_K"),
    *("Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M"),
    *("Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M"),
    *("Q3_K_S", "Q3_K_M", "Q3_K_L", "Q2_K", "Q2_K_S", "Q2_0", "Q1_0"),
    *("IQ4_NL", "IQ4_XS", "IQ3_M", "IQ3_S", "IQ3_XS", "IQ3_XXS"),
    *("IQ2_M", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S"),
    *("TQ1_0", "TQ2_0", "MXFP4_MOE"),
)

# A GGUF with a type of its own for each tensor: docs/mixed.md.
MIXED = "mixed"

# ONNX: docs/onnx.md says what each is.
ONNX_INT8_DECODER_VARIANTS = ("int8-mixed", "int8-fast", "int8-block", "int8-dynamic")
# Those whose weights in the layers are the very values of a GGUF's blocks, by the blocks' type.
INT4_BLOCK = "int4-block"
ONNX_OF_BLOCKS = {"Q4_0": INT4_BLOCK, "Q8_0": "int8-block32"}
ONNX_DECODER_VARIANTS = (*ONNX_INT8_DECODER_VARIANTS, *ONNX_OF_BLOCKS.values())
ONNX_ENCODER_VARIANTS = ("int8-dynamic", "int8-block", "int8-static")
# The others keep the embedding in float32.
INT8_EMBEDDING = frozenset({"int8-mixed", "int8-fast", "int8-block", *ONNX_OF_BLOCKS.values()})
ONNX_VARIANTS = tuple(dict.fromkeys((*ONNX_DECODER_VARIANTS, *ONNX_ENCODER_VARIANTS)))

# llama-quantize takes these short names too.
_ALIASES = {"Q3_K": "Q3_K_M", "Q4_K": "Q4_K_M", "Q5_K": "Q5_K_M"}


def canonical_quantization(name: str) -> str | None:
    """The type's name in llama.cpp's spelling (`q4_k` → `Q4_K_M`); None when there is none."""
    upper = name.upper()
    full = _ALIASES.get(upper, upper)
    return full if full in QUANTIZATIONS else None


def block_values(name: str) -> int:
    """Values that share a scale: rows of a tensor must be whole blocks (ggml-common.h, QK_K and
    QK4_0 …; ONNX's 8-bit blocks have 32)."""
    upper = name.upper()
    wide = "_K" in upper or upper.startswith(("IQ", "TQ"))
    return 256 if wide and upper != "IQ4_NL" else 32
