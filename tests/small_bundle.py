"""A folder that copying sees as a bundle, made in a moment."""

from __future__ import annotations

from pathlib import Path

from toolchain.export.bundle import write_sums


def small_bundle(folder: Path, test: str = "print('fine')", size: int = 3_000_000) -> Path:
    """A folder with SHA256SUMS, as copying sees a bundle; `test` is its smoke_test.py."""
    (folder / "tokenizer").mkdir(parents=True)
    (folder / "model.gguf").write_bytes(bytes(range(256)) * (size // 256))
    (folder / "tokenizer" / "two words 中.json").write_text("{}")
    (folder / "smoke_test.py").write_text(test)
    write_sums(folder)
    return folder
