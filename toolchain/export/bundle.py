"""Stage `bundle`: what goes to the device, in one folder that explains and proves itself.

    model-Q4_K_M.gguf  Modelfile (or model/ with an ONNX graph and what lies beside it)
    tokenizer/  prompts.jsonl  smoke_test.py  profile.json
    manifest.json  ledger.json  report.md  report.zh-CN.md  LICENSE  artifact.json  SHA256SUMS

The expected answers come from the bundle's own smoke test in a process of its own, so that what is
recorded and what is tested later run the same code with the same settings. Two builds of the same
inputs with the same versions on one machine give the same bytes; what SHA256SUMS covers says
`toolchain.trust.sums`. What depends on time or machine goes into `log/`, which it does not cover.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field

from common.errors import UserError
from common.files import read_json, require_free_bytes, write_json, write_text
from common.resources import lack_of_process
from common.with_parent import with_parent
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.export.manifest import bundle_license, make_manifest
from toolchain.export.payload import payload_of
from toolchain.export.prompts import write_rows
from toolchain.export.smoke_script import smoke_script
from toolchain.ledger.file import FILE as LEDGER_FILE
from toolchain.report.write import LANGUAGES, report_name, write_report
from toolchain.stage import Input, StageConfig
from toolchain.train.result import CURVE
from toolchain.trust.sums import digests, write_sums

NAME = "bundle"
VERSION = 3
TOOLS = ("transformers",)

MANIFEST_FILE, PROFILE_FILE, PROMPTS_FILE = "manifest.json", "profile.json", "prompts.jsonl"
SMOKE_TEST = "smoke_test.py"
TOKENIZER_FOLDER = "tokenizer"
_PROFILE_SCHEMA = 1
_GIB = 1 << 30
_RECORD_TIMEOUT_SEC = 3600
_TOKENIZER_FILES = (
    *("tokenizer.json", "tokenizer_config.json", "tokenizer.model", "special_tokens_map.json"),
    *("added_tokens.json", "vocab.json", "merges.txt", "vocab.txt", "spiece.model"),
    *("chat_template.jinja", "chat_template.json", "generation_config.json"),
)


class Config(StageConfig):
    """What a bundle tells beside its model file.

    `target`, `recipe` and `plan` are plain data (`Target.model_dump(mode="json")`,
    `dataclasses.asdict(Plan)`); `budget` has `max_kld` and `min_task_share`; `tried` are the
    records of the choice (`Tried.as_json()`); `base` is the checkpoint that the user gave,
    `base_files` its files' SHA-256; `steps` are what the recipe's chain made of it, `checkpoint`
    what was exported; `makers` are the export's stages before the model's own; `reference_quality`
    is the quality artifact of the unquantized file; `adapter` is a converted LoRA adapter that
    goes beside the model; `ledger` is what `toolchain.ledger.file.as_json` gives.
    """

    model: str
    target: dict[str, Any]
    recipe: dict[str, Any]
    plan: dict[str, Any]
    budget: dict[str, float] = Field(default_factory=dict)
    tried: tuple[dict[str, Any], ...] = ()
    base: Input
    base_files: dict[str, str] = Field(default_factory=dict)
    checkpoint: Input
    steps: tuple[Input, ...] = ()
    task: Input | None = None
    makers: tuple[Input, ...] = ()
    parity: Input | None = None
    quality: Input | None = None
    reference_quality: Input | None = None
    trust_remote_code: bool = False
    adapter: Input | None = None
    ledger: dict[str, Any] | None = None


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Write the bundle of the exported model in `source` into `out_dir`.

    Raises `UserError` when the disk is too small, no prompt fits the context, or the engine refuses
    the model.
    """
    payload = payload_of(source)
    size_bytes = sum(source.file(name).stat().st_size for name in source.files)
    require_free_bytes(out_dir, size_bytes + (64 << 20), "the bundle")
    model_file = payload.place(source, out_dir)
    _copy_adapter(config, out_dir)
    _copy_tokenizer(config.checkpoint.path, out_dir / TOKENIZER_FOLDER)
    _copy_license(config, out_dir)
    _copy_curve(config, out_dir)
    write_text(out_dir / SMOKE_TEST, smoke_script())
    rows, stop_texts = payload.prompts(config)
    ollama = payload.describe(out_dir, model_file, config, stop_texts)
    write_rows(out_dir / PROMPTS_FILE, rows)
    profile = {**smoke_profile(config, model_file, stop_texts), "kind": payload.KIND}
    write_json(out_dir / PROFILE_FILE, profile)
    write_json(out_dir / PROFILE_FILE, {**profile, "recorded": record_answers(out_dir)})
    if config.ledger is not None:
        write_json(out_dir / LEDGER_FILE, config.ledger)
    manifest = make_manifest(source, model_file, config, ollama, digests(out_dir))
    write_json(out_dir / MANIFEST_FILE, manifest)
    for language in LANGUAGES:
        told = {**manifest, "ledger": config.ledger}
        write_text(out_dir / report_name(language), write_report(told, language))
    described = artifacts.describe(
        out_dir,
        format="bundle",
        stage=NAME,
        config={"model": config.model, "target": config.target["name"]},
        parents=[source.digest, config.base.digest],
        versions=manifest["versions"],
        measurements={"size_bytes": manifest["model_file"]["size_bytes"]},
    )
    write_sums(out_dir)
    return described


def smoke_profile(config: Config, model_file: str, stop_texts: Sequence[str]) -> dict[str, Any]:
    """`profile.json`: what the smoke test needs of the target and the plan."""
    target = config.target
    smoke, memory, accelerator = target["smoke"], target["memory"], target["accelerator"]
    own = accelerator.get("bandwidth_gb_per_sec") if target["gpu_layers"] != 0 else None
    thresholds = {name: value for name, value in smoke.items() if not name.endswith("_gib")}
    thresholds["max_peak_rss_bytes"] = int(smoke["max_peak_rss_gib"] * _GIB)
    if slowest := config.budget.get("min_decode_tokens_per_sec"):
        thresholds["min_decode_tokens_per_sec"] = slowest
    return {
        "schema": _PROFILE_SCHEMA,
        "model": config.model,
        "target": target["name"],
        "model_file": model_file,
        **({"adapter_file": adapter_file(config)} if config.adapter else {}),
        "threads": target["threads"] if isinstance(target["threads"], int) else None,
        "cores": target["processor"]["cores"],
        "context_length": config.plan["context_tokens"],
        "kv_cache_type": config.plan["kv_cache_type"],
        "gpu_layers": target["gpu_layers"],
        "memory_bandwidth_bytes_per_sec": (own or memory["bandwidth_gb_per_sec"]) * 1e9,
        "stop_texts": list(stop_texts),
        "thresholds": thresholds,
    }


def record_answers(bundle: Path) -> dict[str, Any]:
    """Let the bundle's smoke test answer its prompts and write the answers down; which engine did.

    Runs in a fresh process. Raises `UserError` with the engine's own reason.
    """
    result = bundle / f".{SMOKE_TEST}.json"
    command = [sys.executable, "-B", str(bundle / SMOKE_TEST), "--record", "--json", str(result)]
    done = subprocess.run(
        with_parent(command), capture_output=True, text=True, timeout=_RECORD_TIMEOUT_SEC
    )
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        doing = "recording the bundle's answers"
        if lack := lack_of_process(done.returncode, done.stderr, doing):
            raise lack
        raise UserError(
            f"the bundle's answers cannot be recorded: {reason}",
            "edgeforge doctor tells whether the engine works",
        )
    recorded: dict[str, Any] = read_json(result)
    result.unlink()
    return recorded


def adapter_file(config: Config) -> str | None:
    """The name of the adapter that goes beside the model, unmerged."""
    if config.adapter is None:
        return None
    return artifacts.load(config.adapter.path).only(".gguf").name


def _copy_adapter(config: Config, folder: Path) -> None:
    name = adapter_file(config)
    if config.adapter and name:
        shutil.copyfile(config.adapter.path / name, folder / name)


def _copy_tokenizer(checkpoint: Path, folder: Path) -> None:
    folder.mkdir()
    for name in _TOKENIZER_FILES:
        if (checkpoint / name).is_file():
            shutil.copyfile(checkpoint / name, folder / name)


def _copy_curve(config: Config, folder: Path) -> None:
    """The loss curve of the last training, which the report shows."""
    for step in reversed(config.steps):
        if (step.path / CURVE).is_file():
            shutil.copyfile(step.path / CURVE, folder / CURVE)
            return


def _copy_license(config: Config, folder: Path) -> None:
    _, file = bundle_license(config)
    if file is not None:
        shutil.copyfile(file, folder / "LICENSE")
