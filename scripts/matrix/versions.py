"""What a finished cell is valid for: versions of the libraries, and of what the matrix does."""

from __future__ import annotations

from importlib.metadata import version

# Raised when cells do another thing than before.
MATRIX = "1"
LIBRARIES = (
    "llama-cpp-python", "onnx", "onnxruntime", "onnxruntime-genai", "peft", "sentencepiece",
    "tokenizers", "torch", "transformers",
)  # fmt: skip


def versions() -> dict[str, str]:
    """Name to version."""
    return {**{name: version(name) for name in LIBRARIES}, "matrix": MATRIX}
