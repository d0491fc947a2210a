"""Stage `convert-adapter`: a LoRA adapter that is not merged becomes a GGUF beside its base.

By llama.cpp's own `convert_lora_to_gguf.py`, in a process of its own. llama.cpp computes
W + (alpha / rank) B A with one alpha for the file; what that cannot say is refused here.

    run_stage(convert_adapter, adapter, Config(checkpoint=Input.of_artifact(base)), workspace)
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

from common.errors import UserError
from common.files import read_object, require_free_bytes, sha256_file, write_json
from common.scratch import ScratchFolder
from common.with_parent import with_parent
from runtimes.vendored import llama_cpp_folder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.compress.adapter import WEIGHTS, Adapter, read_adapter
from toolchain.compress.adapter_config import CONFIG
from toolchain.compress.base_record import RECORD
from toolchain.export.gguf import converter_errors
from toolchain.stage import Input, StageConfig

NAME = "convert-adapter"
VERSION = 1
TOOLS = ("llama-cpp-python", "torch", "transformers")
FILE = "adapter-F32.gguf"
_SCRIPT = "convert_lora_to_gguf.py"
_TIMEOUT_SEC = 3600
_MERGE = "merge it instead: take `separate: true` out of the recipe's merge"


class Config(StageConfig):
    """`checkpoint` is the base that the adapter was trained on."""

    checkpoint: Input


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Convert the adapter in `source` into `out_dir/adapter-F32.gguf`.

    Raises `UserError` for an adapter that only a merge can carry, and with the converter's own last
    words for whatever else it refuses.
    """
    adapter = read_adapter(source.path)
    alpha = require_separable(adapter)
    size_bytes = 2 * (source.path / WEIGHTS).stat().st_size
    require_free_bytes(out_dir, size_bytes, "the converted adapter")
    target = out_dir / FILE
    with ScratchFolder("adapter") as name:
        folder = Path(name)
        settings = {**read_object(adapter.path / CONFIG), "lora_alpha": alpha}
        write_json(folder / CONFIG, settings)
        (folder / WEIGHTS).symlink_to(adapter.path / WEIGHTS)
        _convert(folder, config.checkpoint.path, target)
    return artifacts.describe(
        out_dir,
        format="gguf-adapter",
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.checkpoint.digest],
        versions={name: version(name) for name in TOOLS},
        measurements={
            "size_bytes": target.stat().st_size,
            "layers": len(adapter.modules),
            "rank": adapter.settings.rank,
            "alpha": alpha,
        },
    )


def adapter_artifact(folder: Path) -> tuple[Artifact, Adapter]:
    """A peft folder as the source of this stage. Raises `UserError` for one that cannot stay
    separate."""
    adapter = read_adapter(folder)
    require_separable(adapter)
    names = [name for name in (CONFIG, WEIGHTS, RECORD) if (adapter.path / name).is_file()]
    files = {name: sha256_file(adapter.path / name) for name in names}
    return Artifact(adapter.path, "adapter", files, "adapter"), adapter


def require_separable(adapter: Adapter) -> float:
    """The alpha that llama.cpp is to be told. `UserError` for an adapter that only a merge can
    carry: it lists all reasons."""
    kind = read_object(adapter.path / CONFIG).get("task_type")
    alphas = {
        round(m.scaling * adapter.settings.rank_of(m.name), 6) for m in adapter.modules.values()
    }
    faults = []
    if kind not in (None, "CAUSAL_LM"):
        faults.append(f"it is trained for {kind}, and llama.cpp's adapters change a decoder's text")
    if adapter.settings.use_dora:
        faults.append("DoRA: llama.cpp adds B·A and knows no magnitudes")
    if adapter.replaced:
        names = ", ".join(sorted(adapter.replaced)[:3])
        faults.append(f"it brings whole trained tensors (modules_to_save or biases): {names}")
    if any(module.bias is not None for module in adapter.modules.values()):
        faults.append("it has trained biases of lora_B")
    if len(alphas) != 1:
        faults.append("its layers are scaled differently (alpha_pattern, or rslora with ranks)")
    if faults:
        raise UserError(
            f"the adapter {adapter.path} cannot stay separate from its base", _MERGE, details=faults
        )
    return alphas.pop()


def _convert(folder: Path, base: Path, target: Path) -> None:
    script = llama_cpp_folder() / _SCRIPT
    arguments = [str(folder), "--base", str(base), "--outtype", "f32", "--outfile", str(target)]
    done = subprocess.run(
        with_parent([sys.executable, script, *arguments]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=_TIMEOUT_SEC,
        check=False,
        # Offline: what is missing in the folder is an error, never fetched silently.
        env={**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"},
    )
    if done.returncode != 0 or not target.is_file():
        told = converter_errors.explain(base, done.returncode, done.stdout, None)
        kind = type(told)  # what the machine lacks is no fault of the adapter
        raise kind(f"the adapter cannot be converted: {told.problem}", told.mend or _MERGE)
