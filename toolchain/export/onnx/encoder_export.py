"""Stage `onnx-encoder-export`: a checkpoint with a head (or an embedding model) to FP32 ONNX.

hf → onnx-encoder: model.onnx (past 1.5 GB with model.onnx.data), encoder.json, tokenizer.json and
config.json. Batch and sequence are dynamic; pooling is part of an embedding model's graph. The
result is proven against torch before it is kept.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from common.errors import Told, UserError, told
from common.files import require_free_bytes
from common.scratch import ScratchFolder
from runtimes.ort import model_bytes
from runtimes.ort_encoder import MODEL
from runtimes.pooling import PoolingMode
from toolchain import artifact as artifacts
from toolchain import child
from toolchain.artifact import Artifact
from toolchain.checkpoint.intake import require_checkpoint
from toolchain.checkpoint.weights import find_weights
from toolchain.evaluate.gate import Gate, require
from toolchain.export.onnx.encoder_driver import ANSWER
from toolchain.export.onnx.encoder_facts import Task, checkpoint_facts
from toolchain.stage import StageConfig

NAME = "onnx-encoder-export"
VERSION = 1
TOOLS = ("onnx", "onnxruntime", "tokenizers", "torch", "transformers")
FORMAT = "onnx-encoder"
_DRIVER = "toolchain.export.onnx.encoder_driver"
_COPIED = ("config.json", "tokenizer_config.json", "special_tokens_map.json")
_MARGIN_BYTES = 50_000_000


class Config(StageConfig):
    """`pooling` and `normalize` count for embeddings alone. `config_for` finds all of it in a
    checkpoint: sentence-transformers' files lie beside what a checkpoint's digest covers."""

    task: Task
    pooling: PoolingMode | None = None
    normalize: bool = False
    max_tokens: int
    trust_remote_code: bool = False


def config_for(
    checkpoint: Path,
    *,
    task: Task | Literal["auto"] = "auto",
    pooling: PoolingMode | Literal["auto"] = "auto",
    trust_remote_code: bool = False,
) -> Config:
    """The stage's config for a checkpoint. Raises `UserError` when it lacks the task's head."""
    facts = checkpoint_facts(checkpoint, task=task, pooling=pooling)
    return Config(
        task=facts.task,
        pooling=facts.pooling,
        normalize=facts.normalize,
        max_tokens=facts.max_tokens,
        trust_remote_code=trust_remote_code,
    )


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Export into `out_dir`. Raises `UserError` when the checkpoint lacks the head, torch cannot
    export it, or the result differs from torch."""
    require_checkpoint(source, NAME)
    elements = sum(tensor.elements for tensor in find_weights(source.path).tensors)
    # The graph is written twice: as torch exports it, and tidied.
    require_free_bytes(out_dir, 4 * elements + _MARGIN_BYTES, "the exported model")
    outcome, answer = _run_driver(source, config, out_dir)
    gates = [Gate(**gate) for gate in answer["gates"]]
    require(f"{source.path.name} as ONNX", gates)
    for name in _COPIED:
        if (source.path / name).is_file():
            shutil.copyfile(source.path / name, out_dir / name)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            "variant": "fp32",
            "size_bytes": model_bytes(out_dir / MODEL),
            "exporter": answer["exporter"],
            "weight_matmuls": answer["weight_matmuls"],
            "gates": answer["gates"],
            "wall_sec": round(outcome.wall_sec, 3),
            "peak_rss_bytes": outcome.peak_rss_bytes,
        },
    )


def _run_driver(
    source: Artifact, config: Config, out_dir: Path
) -> tuple[child.Outcome, dict[str, Any]]:
    """How the export ended, and what it answered."""
    with ScratchFolder("export") as folder:
        request = Path(folder, "request.json")
        settings = config.model_dump(mode="json")
        places = {"source": str(source.path), "out_dir": str(out_dir)}
        request.write_text(json.dumps({**settings, **places}), "utf-8")
        outcome = child.run_to_end(child.module_command(_DRIVER, request), child.environment())
        if not (request.with_name(ANSWER)).is_file():
            raise _crashed(source, outcome)
        answer = json.loads(request.with_name(ANSWER).read_text("utf-8"))
    if "problem" in answer:
        raise told(answer)
    return outcome, answer


def _crashed(source: Artifact, outcome: child.Outcome) -> Told:
    if lack := outcome.lack(f"exporting {source.path.name} to ONNX"):
        return lack
    last = (outcome.said.strip().splitlines() or [f"exit code {outcome.code}"])[-1][:300]
    return UserError(
        f"{source.path.name} cannot be exported to ONNX: {last}",
        "please report this model's config.json",
    )
