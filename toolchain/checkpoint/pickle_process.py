"""Turn one pickled weight file into safetensors, in a process of its own.

    python -m toolchain.checkpoint.pickle_process pytorch_model.bin model.safetensors

`torch.load(weights_only=True)` refuses every object that is no plain tensor data, so nothing in the
file is run. Exit code 2 with one line on stderr when the file is not that.
"""

from __future__ import annotations

import pickle
import sys
from pathlib import Path
from typing import Any


def convert(source: Path, target: Path) -> None:
    """Write the tensors of `source` to `target`; SystemExit with a message when it holds others."""
    import torch
    from safetensors.torch import save_file

    try:
        state = torch.load(source, map_location="cpu", weights_only=True, mmap=_is_zip(source))
    except pickle.UnpicklingError as error:
        reason = str(error).strip().splitlines()[0][:300]
        raise SystemExit(
            f"{source.name} holds more than tensors and is refused: {reason}"
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise SystemExit(f"{source.name} cannot be read: {str(error).strip()[:300]}") from None
    if not isinstance(state, dict) or not state:
        raise SystemExit(f"{source.name} holds no tensors by name")
    odd = [name for name, value in state.items() if not isinstance(value, torch.Tensor)]
    if odd:
        raise SystemExit(f"{source.name}: {odd[0]!r} is no tensor: this is no plain checkpoint")
    save_file(_unshared(state), target, metadata={"format": "pt"})


def _unshared(state: dict[str, Any]) -> dict[str, Any]:
    """Contiguous tensors that share no memory: safetensors stores each on its own."""
    seen: set[int] = set()
    result = {}
    for name, tensor in state.items():
        pointer = tensor.untyped_storage().data_ptr()
        whole = tensor.numel() * tensor.element_size() == tensor.untyped_storage().nbytes()
        plain = tensor.is_contiguous() and whole and pointer not in seen
        result[name] = tensor if plain else tensor.contiguous().clone()
        seen.add(pointer)
    return result


def _is_zip(source: Path) -> bool:
    """Whether the file has torch's newer format, which can be mapped instead of read."""
    with source.open("rb") as stream:
        return stream.read(4) == b"PK\x03\x04"


if __name__ == "__main__":
    try:
        convert(Path(sys.argv[1]), Path(sys.argv[2]))
    except SystemExit as refusal:
        print(refusal.code, file=sys.stderr)
        sys.exit(2)
