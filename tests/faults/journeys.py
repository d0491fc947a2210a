"""Commands that the fault suite disturbs: each with what it is given, and what must come out.

given = Given(folder)
journey = JOURNEYS["gguf"](given)
started(*journey.words(out))
contents(journey.result(out))
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from small_bundle import small_bundle
from tiny_models import tiny_bert, tiny_llama
from train_runs import chat_rows, write_data

from common.files import sha256_file
from toolchain.export.bundle import write_sums

Proven = Callable[..., None]
"""The fixture `proven`; there are several modules `conftest`, so none is imported."""
_LASTING_LOCKS = {".lock", ".search-making.lock", ".search-timing.lock"}
_SMALL = """\
evaluate: {max_tokens: 256, context_tokens: 64, task_examples: 4}
quality: {max_kld: 50.0, min_task_share: 0.0}
"""
_EXPORT = "export: {calibration_tokens: 512, quantization: Q4_0}\n"
_RECIPES = {
    "gguf": _EXPORT,
    "mixed": "export: {calibration_tokens: 512, quantization: mixed}\n",
    "onnx": "export: {calibration_tokens: 512, quantization: int8-mixed}\n",
    "encoder": "export: {quantization: int8-block}\n",
    "train": _EXPORT
    + """\
stages: [prune, evaluate, finetune, merge, evaluate, export, bundle, smoke]
data: {files: [rows]}
prune: {ratio: 0.12, axes: [ffn], recover: false}
finetune: {epochs: 2, rank: 4, learning_rate: 0.002, batch_size: 4, saves_per_epoch: 4}
""",
    "distill": _EXPORT
    + """\
stages: [distill, export, bundle, smoke]
data: {files: [rows]}
distill: {student: {ratio: 0.5}, cache: true, epochs: 2, batch_size: 4, saves_per_epoch: 4}
""",
}


@dataclass(frozen=True)
class Journey:
    """A command, and the file or folder that it makes."""

    words: Callable[[Path], list[object]]
    result: Callable[[Path], Path]


class Given:
    """Models, data and recipes in a folder, each made when it is asked for."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    @functools.cached_property
    def llama(self) -> Path:
        return tiny_llama(self.folder / "tiny", hidden=64, ffn=96, layers=2)

    @functools.cached_property
    def bert(self) -> Path:
        model = tiny_bert(self.folder / "bert")
        rows = [
            {"text": f"{word} number {n}", "label": label}
            for n in range(40)
            for word, label in (("a fine lamp", 1), ("a broken fan", 0))
        ]
        (model / "edgeforge").mkdir()
        text = "".join(json.dumps(row) + "\n" for row in rows)
        (model / "edgeforge" / "task.jsonl").write_text(text, encoding="utf-8")
        return model

    @functools.cached_property
    def rows(self) -> Path:
        write_data(self.folder, rows=chat_rows(40))
        return self.folder / "rows.jsonl"

    @functools.cached_property
    def bundle(self) -> Path:
        folder = small_bundle(self.folder / "parcel", size=60_000_000)
        (folder / "profile.json").write_text(json.dumps({"model": "it", "target": "laptop"}))
        write_sums(folder)
        return folder

    @functools.cached_property
    def packed(self) -> Path:
        from toolchain.trust.pack import pack

        return pack(self.bundle, self.folder / "parcel.tar")

    def recipe(self, name: str) -> Path:
        path = self.folder / f"{name}.yaml"
        path.write_text(_RECIPES[name].replace("[rows]", f"[{self.rows}]") + _SMALL)
        return path


def _build(name: str, given: Given, target: str = "laptop") -> Journey:
    model = given.bert if name == "encoder" else given.llama
    recipe = given.recipe(name)
    words = ["build", "--target", target, "--model", model, "--recipe", recipe]
    folder = model.name if name in ("gguf", "mixed", "onnx", "encoder") else f"{model.name}-{name}"
    return Journey(lambda out: [*words, "--out", out], lambda out: out / folder / target)


def _search(given: Given) -> Journey:
    words = ["search", "--target", "laptop", "--model", given.llama, "--prune", "0"]
    words += ["--quantization", "Q4_0,Q5_0,Q8_0", "--max-kld", "50", "--trials", "3"]
    words += ["--kld-tokens", "256", "--objective", "size"]
    found = Path("tiny", "laptop-search", "recipe.yaml")
    return Journey(lambda out: [*words, "--out", out], lambda out: out / found)


def _cache(given: Given) -> Journey:
    words = ["teacher-cache", "--model", given.llama, "--data", given.rows, "--part-rows", "8"]
    return Journey(lambda out: [*words, "--out", out / "cache"], lambda out: out / "cache")


def _pack(given: Given) -> Journey:
    words = ["bundle", "pack", given.bundle, "--to"]
    return Journey(lambda out: [*words, out / "it.tar"], lambda out: out / "it.tar")


def _unpack(given: Given) -> Journey:
    words = ["bundle", "unpack", given.packed, "--to"]
    return Journey(lambda out: [*words, out / "it"], lambda out: out / "it")


JOURNEYS: dict[str, Callable[[Given], Journey]] = {
    "gguf": functools.partial(_build, "gguf"),
    "train": functools.partial(_build, "train"),
    "distill": functools.partial(_build, "distill"),
    "mixed": functools.partial(_build, "mixed"),
    "onnx": functools.partial(_build, "onnx", target="cpu-server"),
    "encoder": functools.partial(_build, "encoder", target="cpu-server"),
    "search": _search,
    "teacher-cache": _cache,
    "pack": _pack,
    "unpack": _unpack,
}


def contents(result: Path) -> dict[str, str]:
    """What is shipped of a result: digests by name. Times and places lie in `log/` and in the
    descriptions of artifacts that are no bundle."""
    if result.suffix == ".yaml":  # its comments name trials by number, and given up ones count
        lines = result.read_text("utf-8").splitlines()
        return {result.name: "\n".join(line for line in lines if not line.startswith("#"))}
    if result.is_file():
        return {result.name: sha256_file(result)}
    names = (path.relative_to(result) for path in sorted(result.rglob("*")) if path.is_file())
    bundle = (result / "SHA256SUMS").is_file()
    return {
        name.as_posix(): sha256_file(result / name)
        for name in names
        if name.parts[0] != "log" and (bundle or name.name != "artifact.json")
    }


def left_behind(out: Path) -> list[str]:
    """Temporary files and folders under `out`; locks that stay are no such."""
    endings = {".partial", ".old", ".resume", ".lock", ".tmp"}
    return sorted(
        str(path.relative_to(out))
        for path in out.rglob(".*")
        if path.suffix in endings and path.name not in _LASTING_LOCKS
    )
