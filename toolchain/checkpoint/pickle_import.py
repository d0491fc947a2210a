"""Stage `import-pickle`: a checkpoint with pickled weights becomes one with safetensors.

Runs only for what `--allow-pickle` let in. Each file is loaded in a child process with
`weights_only=True`, so no code in it is run; all other files are copied.
"""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import version
from pathlib import Path

from common.errors import UserError
from common.files import require_free_bytes, write_json
from common.resources import lack_of_process
from common.with_parent import with_parent
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.digests import FileScans
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, PICKLE_FORMAT, measurements
from toolchain.checkpoint.safetensors_header import read_header
from toolchain.checkpoint.validate import faults_of, raise_faults
from toolchain.checkpoint.weights import INDEX, PICKLE_INDEX
from toolchain.child import environment, module_command
from toolchain.stage import StageConfig

NAME = "import-pickle"
VERSION = 1
TOOLS = ("torch", "safetensors")


class Config(StageConfig):
    """Nothing to choose."""


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """hf-pickle → hf. Raises `UserError` for a pickle that holds more than tensors and for every
    fault that only shows once the tensors are known."""
    if source.format != PICKLE_FORMAT:
        raise UserError(f"{NAME} takes pickled weights, {source.path} has format {source.format}")
    pickles = sorted(name for name in source.files if _is_pickle(name))
    total_bytes = sum((source.path / name).stat().st_size for name in pickles)
    require_free_bytes(out_dir, total_bytes, "safetensors made from pickles")
    for name in source.files:
        if name not in pickles and name != PICKLE_INDEX:
            (out_dir / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(source.path / name, out_dir / name)
    for name in pickles:
        _convert(source.path / name, out_dir / _new_name(name))
    if len(pickles) > 1:
        _write_index(out_dir)
    info = inspect(out_dir)
    raise_faults(source.path, faults_of(info, trust_remote_code=True, scans=FileScans(None)))
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements=measurements(info),
    )


def _is_pickle(name: str) -> bool:
    return name.startswith("pytorch_model") and name.endswith(".bin")


def _new_name(name: str) -> str:
    """pytorch_model-00001-of-00002.bin → model-00001-of-00002.safetensors"""
    return name.removeprefix("pytorch_").removesuffix(".bin") + ".safetensors"


def _convert(source: Path, target: Path) -> None:
    done = subprocess.run(
        with_parent(module_command(f"{__package__}.pickle_process", source, target)),
        stderr=subprocess.PIPE,
        text=True,
        check=False,
        env=environment(),
    )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        if lack := lack_of_process(done.returncode, done.stderr, f"converting {source}"):
            raise lack
        raise UserError(
            f"checkpoint {source.parent}: {lines[-1]}", "use a version with safetensors weights"
        )


def _write_index(folder: Path) -> None:
    """The index that names each tensor's shard, as transformers writes it."""
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for shard in sorted(folder.glob("model-*.safetensors")):
        for tensor in read_header(shard):
            weight_map[tensor.name] = shard.name
            total_bytes += tensor.size_bytes
    write_json(folder / INDEX, {"metadata": {"total_size": total_bytes}, "weight_map": weight_map})
