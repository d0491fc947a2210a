"""One pass over a file: digest as hashlib's, NaN and Inf as torch counts them, memory bounded."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from toolchain.checkpoint import scan as scan_module
from toolchain.checkpoint.safetensors_header import read_header
from toolchain.checkpoint.scan import scan_file

ROOT = Path(__file__).resolve().parents[2]
DTYPES = ("float16", "bfloat16", "float32", "float64", "float8_e4m3fn", "float8_e5m2", "complex64")


@pytest.mark.parametrize("dtype", DTYPES)
def test_counts_are_those_of_torch(
    dtype: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch
    from safetensors.torch import save_file

    monkeypatch.setattr(scan_module, "BLOCK_BYTES", 4096)  # several blocks per tensor
    generator = torch.Generator().manual_seed(3)
    raw = torch.randint(0, 256, (3, 40_960), generator=generator, dtype=torch.uint8)
    raw[1, :] = 0x3C  # a tensor in which all is finite
    kind = getattr(torch, dtype)
    tensors = {f"t{n}": row.view(kind).clone() for n, row in enumerate(raw)}
    limits = torch.tensor([float("inf"), float("-inf"), float("nan"), 1.0], dtype=torch.float32)
    tensors["limits"] = limits.to(kind)
    file = tmp_path / "model.safetensors"
    save_file(tensors, file)
    seen: list[int] = []
    scan = scan_file(file, read_header(file), seen.append)
    assert scan.sha256 == hashlib.sha256(file.read_bytes()).hexdigest()
    assert sum(seen) == file.stat().st_size
    assert max(seen) <= 4096
    expected = {}
    for name, tensor in tensors.items():
        flat = torch.view_as_real(tensor) if tensor.is_complex() else tensor
        flat = flat if flat.dtype.itemsize > 1 else flat.float()
        counts = (int(flat.isnan().sum()), int(flat.isinf().sum()))
        if any(counts):
            expected[name] = counts
    assert {entry.tensor: (entry.nan, entry.inf) for entry in scan.non_finite} == expected
    assert "t0" in expected and "limits" in expected and "t1" not in expected


def test_integers_are_never_called_nan(tmp_path: Path) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    file = tmp_path / "model.safetensors"
    save_file({"ids": np.full((64,), -1, dtype="int32"), "on": np.ones(9, dtype=bool)}, file)
    assert scan_file(file, read_header(file)).non_finite == ()


def test_file_that_changes_meanwhile_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(100))

    def grow(_: int) -> None:
        with file.open("ab") as stream:
            stream.write(b"more")

    with pytest.raises(UserError, match="changed while it was read"):
        scan_file(file, (), grow)


def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    """256 MB of weights take less than 60 MB above the imports."""
    file = tmp_path / "model.safetensors"
    code = f"""
import json, resource, struct, sys
from pathlib import Path
import numpy
from toolchain.checkpoint.safetensors_header import read_header
from toolchain.checkpoint.scan import scan_file
file, size = Path({str(file)!r}), 256 << 20
header = json.dumps({{"w": {{"dtype": "BF16", "shape": [size // 2], "data_offsets": [0, size]}}}})
with file.open("wb") as stream:
    stream.write(struct.pack("<Q", len(header)) + header.encode())
    stream.truncate(8 + len(header) + size)
tensors = read_header(file)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
scan = scan_file(file, tensors)
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(grown)
sys.exit(0 if grown < 60_000 and scan.tensors == 1 else 1)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
