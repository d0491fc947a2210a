"""Part 6: what ships is the same bytes, wherever, whenever and on however many threads it is built.

(tests/export/test_bundle.py does the same with stages alone, in every run of the tests.)

Every build here has a folder, a moment and (the last) a thread count of its own; compared is every
file of the bundle but `log/`, where a build notes what it measured.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from command_line import edgeforge
from tiny_models import tiny_bert, tiny_llama

from common.files import sha256_file
from toolchain.trust.sums import LOG_FOLDER, SIGNATURE_FILE, SUMS_FILE, read_sums

SMALL = """\
export: {calibration_tokens: 512}
evaluate: {max_tokens: 256, context_tokens: 64}
quality: {max_kld: 5.0}
"""
LEARN = """\
stages: [evaluate, finetune, merge, evaluate, export, bundle, smoke]
data: {files: [rows.csv], split: [0.7, 0.1, 0.2]}
finetune: {epochs: 1, rank: 4, learning_rate: 0.002, batch_size: 4}
export: {calibration_tokens: 512, quantization: Q8_0}
evaluate: {max_tokens: 256, context_tokens: 64, task_examples: 6}
quality: {max_kld: 5.0, min_task_share: 0.0}
"""
# What is built: the target, the recipe, and what else the build is told.
BUILDS: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "GGUF": ("laptop", SMALL, ("--quantization", "Q4_K_M")),
    "a finetune recipe": ("laptop", LEARN, ()),
    "ONNX INT8 of a decoder": ("cpu-server", SMALL, ("--quantization", "int8-mixed")),
    "ONNX INT8 of a classifier": ("cpu-server", SMALL, ("--quantization", "int8-block")),
}
# Sums of a training come in another order on other threads, and round otherwise (docs/faults.md).
THREADS_MAY_DIFFER = ("a finetune recipe",)


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tiny models, and rows to learn from."""
    folder = tmp_path_factory.mktemp("inputs")
    tiny_llama(folder / "llama", hidden=64, heads=4, kv_heads=2, ffn=96)
    tiny_bert(folder / "bert")
    (folder / "bert" / "edgeforge").mkdir()
    rows = [
        {"text": f"{word} number {number}", "label": label}
        for number in range(40)
        for word, label in (("a fine lamp", 1), ("a broken fan", 0))
    ]
    task = folder / "bert" / "edgeforge" / "task.jsonl"
    task.write_text("".join(json.dumps(row) + "\n" for row in rows))
    made = folder / "rows.csv"
    done = edgeforge("data", "sample", "--format", "qa", "--count", 60, "--out", made)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.parametrize("what", BUILDS)
@pytest.mark.timeout(3600)
def test_two_builds_ship_the_same_bytes(
    what: str,
    inputs: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    whole: bool,
    proven: Callable[..., None],
) -> None:
    if not whole:
        pytest.skip("in the whole suite")
    start = time.monotonic()
    monkeypatch.setenv("EDGEFORGE_THREADS", "1")
    one = build(what, inputs, tmp_path / "one")
    two = build(what, inputs, tmp_path / "deep" / "er" / "two")
    assert shipped(two) == shipped(one)
    assert len(shipped(one)) > 8
    monkeypatch.setenv("EDGEFORGE_THREADS", "2")
    other = shipped(build(what, inputs, tmp_path / "threads"))
    if what not in THREADS_MAY_DIFFER:
        assert other == shipped(one)
    for bundle in (one, two):
        assert_covered(bundle)
        assert_no_trace(bundle, tmp_path, inputs)
    kind = "builds alike" if what not in THREADS_MAY_DIFFER else "builds alike, of one thread count"
    count = 3 if what not in THREADS_MAY_DIFFER else 2
    proven("6 reproducible", what, count, kind, time.monotonic() - start)


def build(what: str, inputs: Path, place: Path) -> Path:
    """The bundle, built from a copy of the inputs in `place`."""
    target, recipe, more = BUILDS[what]
    model = place / "models" / ("bert" if "classifier" in what else "llama")
    shutil.copytree(inputs / model.name, model)
    shutil.copyfile(inputs / "rows.csv", place / "rows.csv")
    (place / "own.yaml").write_text(recipe)
    done = edgeforge(
        *("build", "--target", target, "--model", model, "--recipe", place / "own.yaml"),
        *("--out", place / "out", *more),
    )
    assert done.returncode == 0, done.stderr
    (sums,) = (place / "out").glob(f"*/{target}/{SUMS_FILE}")
    return sums.parent


def shipped(bundle: Path) -> dict[str, str]:
    """Digest of every file that ships."""
    files = {path.relative_to(bundle).as_posix(): path for path in bundle.rglob("*")}
    return {
        name: sha256_file(path)
        for name, path in sorted(files.items())
        if path.is_file() and not name.startswith(f"{LOG_FOLDER}/")
    }


def assert_covered(bundle: Path) -> None:
    """SHA256SUMS names every file of the bundle but itself, the signature and the log."""
    names = set(shipped(bundle)) - {SUMS_FILE, SIGNATURE_FILE}
    assert set(read_sums(bundle)) == names
    verified = edgeforge("verify", bundle)
    assert verified.returncode == 0, verified.stdout


def assert_no_trace(bundle: Path, *places: Path) -> None:
    """No shipped file tells where or for whom it was built."""
    words = [str(place).encode() for place in (*places, Path.home(), Path.cwd())]
    for name in shipped(bundle):
        data = (bundle / name).read_bytes()
        assert not any(word in data for word in words if len(word) > 6), name
