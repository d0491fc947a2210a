"""Stage `convert`: a Hugging Face checkpoint to an unquantized GGUF, by llama.cpp's own converter.

The converter runs in a process of its own with its own gguf package, of the same revision as the
runtime that will load the file.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

from common.errors import UserError
from common.files import read_json, require_free_bytes
from common.progress import progress_bar
from common.scratch import ScratchFolder
from runtimes.vendored import llama_cpp_folder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.config_facts import text_config
from toolchain.checkpoint.weights import find_weights
from toolchain.child import Outcome, run_to_end
from toolchain.encoder_kinds.pooling import text_limit
from toolchain.export.gguf import converter_errors
from toolchain.export.gguf.obstacles import named_for_tokens, require_computed
from toolchain.export.gguf.tokenizer_map import pre_tokenizer_name, scores_from_merges
from toolchain.export.gguf.window import lost_window
from toolchain.layer_widths import layer_widths
from toolchain.stage import StageConfig

NAME = "convert"
VERSION = 2
TOOLS = ("llama-cpp-python", "torch", "transformers")

Intermediate = Literal["auto", "f32", "f16", "bf16"]
# Up to here F32 costs little, and its logits equal torch's to 1e-5; above it F16 halves disk and
# time, and what it loses (1e-3) lies far below what quantization loses.
_F32_LIMIT_BYTES = 2_000_000_000
_HEADER_BYTES = 20_000_000
_DRIVER = Path(__file__).with_name("convert_driver.py")


class Config(StageConfig):
    """`intermediate` auto is F32 where the weights take at most 2 GB in it, else F16 (BF16 keeps
    a bfloat16 checkpoint to the bit, but few CPUs compute it fast)."""

    intermediate: Intermediate = "auto"
    model_name: str
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Convert the checkpoint at `source.path` into `out_dir/model-<TYPE>.gguf`.

    Raises `UserError` for an architecture or tokenizer that llama.cpp does not know, for too little
    disk and for whatever else the converter refuses, with its own last words.
    """
    own = text_config(read_json(source.path / "config.json"))
    require_computed(own, source.path)
    elements = sum(tensor.elements for tensor in find_weights(source.path).tensors)
    kind = chosen_intermediate(config.intermediate, elements)
    expected_bytes = elements * (4 if kind == "f32" else 2)
    require_free_bytes(out_dir, expected_bytes + _HEADER_BYTES, "the converted model")
    target = out_dir / f"model-{kind.upper()}.gguf"
    request, complaint = _driver_request(source.path)
    request["trust_remote_code"] = config.trust_remote_code
    arguments = [str(source.path), "--outtype", kind, "--outfile", str(target)]
    arguments += ["--model-name", named_for_tokens(config.model_name, own, source.path)]
    outcome, note = _run_converter(arguments, request, target, expected_bytes)
    if outcome.code != 0 or not target.is_file():
        raise converter_errors.explain(source.path, outcome.code, outcome.said, complaint)
    return artifacts.describe(
        out_dir,
        format="gguf",
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest],
        versions={name: version(name) for name in TOOLS},
        measurements=_measurements(outcome, note, target, kind),
    )


def chosen_intermediate(intermediate: Intermediate, elements: int) -> str:
    """The type that `auto` means for a checkpoint of so many weights."""
    if intermediate != "auto":
        return intermediate
    return "f32" if elements * 4 <= _F32_LIMIT_BYTES else "f16"


def _driver_request(checkpoint: Path) -> tuple[dict[str, Any], UserError | None]:
    """What the driver is to do otherwise than the converter, and our complaint about the
    tokenizer's structure, which counts only if the converter does not know it either."""
    config = read_json(checkpoint / "config.json")
    request: dict[str, Any] = {
        "pre": None,
        "merge_scores": scores_from_merges(checkpoint),
        "as_llama": _becomes_llama(config),
        "layer_widths": layer_widths(config),
        "head_dim": config.get("head_dim"),
        # An embedding model may read less of a text than it has positions.
        "context_tokens": lost_window(text_config(config)) or text_limit(checkpoint),
    }
    try:
        request["pre"] = pre_tokenizer_name(checkpoint)
    except UserError as error:
        return request, error
    return request, None


def _becomes_llama(config: Mapping[str, Any]) -> bool:
    """Widths per layer are for Llamas; and llama.cpp's Qwen2, which is a Llama with biases, wants
    heads as wide as the hidden width, which its Llama does not."""
    if layer_widths(config):
        return True
    head_dim, heads = config.get("head_dim"), config.get("num_attention_heads")
    if config.get("architectures") != ["Qwen2ForCausalLM"] or head_dim is None or heads is None:
        return False
    return bool(head_dim * heads != config.get("hidden_size"))


def _measurements(
    outcome: Outcome, note: Mapping[str, Any], target: Path, kind: str
) -> dict[str, Any]:
    return {
        "intermediate": kind.upper(),
        "size_bytes": target.stat().st_size,
        "wall_sec": round(outcome.wall_sec, 3),
        "peak_rss_bytes": outcome.peak_rss_bytes,
        "pretokenizer": {"name": note.get("pre_name"), "how": note.get("pre_how")},
        "scores_from_merges": bool(note.get("merge_scores_used")),
    }


def _run_converter(
    arguments: list[str], request: dict[str, Any], target: Path, expected_bytes: int
) -> tuple[Outcome, dict[str, Any]]:
    """Run the driver, with a bar of the bytes written so far: how it ended, and its notes."""
    with ScratchFolder("convert") as folder:
        request_file = Path(folder, "request.json")
        request_file.write_text(json.dumps(request), encoding="utf-8")
        command = [sys.executable, "-P", _DRIVER, llama_cpp_folder(), request_file, "--"]
        # Offline: what is missing in the folder is an error, never fetched silently.
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
        with progress_bar("convert", unit="B", total=expected_bytes) as bar:

            def advance() -> None:
                written = target.stat().st_size if target.is_file() else 0
                bar.update(min(written, expected_bytes) - bar.n)

            outcome = run_to_end([*command, *arguments], environment, advance)
        return outcome, json.loads(request_file.read_text(encoding="utf-8"))
