"""A bundle whose adapter stays separate: built by the command line, proven in a real Ollama."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from command_line import ROOT, edgeforge
from tiny_adapters import trained_adapter
from tiny_bundle import EVALUATION

from runtimes.ollama import Client
from toolchain.data.text import COMPANION_FOLDER
from toolchain.export.ollama.answers import recorded_checks
from toolchain.export.ollama.check import prove
from toolchain.export.ollama.checks import read_facts
from toolchain.export.ollama.modelfile import MODELFILE
from toolchain.export.ollama.shown import files_check
from toolchain.export.ollama.trial import trial

DEMO = ROOT / "toolchain" / "assets" / "demo-model"
# So much of a random adapter changes answers, and leaves them sensible.
ALPHA = 12
RECIPE = """\
stages: [merge, export, bundle, smoke]
merge: {adapter: adapter, separate: true}
export: {quantization: F16}
evaluate: {text: text.txt, task: task.jsonl, max_tokens: 256, context_tokens: 64}
quality: {max_kld: 5.0, min_task_share: 0.0}
"""


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("separate")
    trained_adapter(DEMO, folder / "adapter", lora_alpha=ALPHA)
    rows = (DEMO / COMPANION_FOLDER / "task.jsonl").read_text("utf-8").splitlines(keepends=True)
    (folder / "task.jsonl").write_text("".join(rows[:6]), "utf-8")
    (folder / "text.txt").write_text(EVALUATION, "utf-8")
    (folder / "apart.yaml").write_text(RECIPE)
    given = ("--recipe", folder / "apart.yaml", "--out", folder)
    done = edgeforge("build", "--target", "laptop", *given)
    assert done.returncode == 0, done.stderr
    return folder / "edgeforge-demo-apart" / "laptop"


def test_bundle_names_the_adapter(bundle: Path) -> None:
    manifest = json.loads((bundle / "manifest.json").read_text("utf-8"))
    assert manifest["adapter"]["name"] == "adapter-F32.gguf"
    assert [entry["stage"] for entry in manifest["chain"]][:2] == ["convert", "convert-adapter"]
    assert "\nADAPTER ./adapter-F32.gguf\n" in (bundle / MODELFILE).read_text("utf-8")
    assert "adapter-F32.gguf  " not in (bundle / "SHA256SUMS").read_text()
    assert "  adapter-F32.gguf\n" in (bundle / "SHA256SUMS").read_text()
    assert "adapter-F32.gguf" in (bundle / "report.md").read_text("utf-8")
    assert "--lora adapter-F32.gguf" in (bundle / "report.zh-CN.md").read_text("utf-8")


def test_ollama_answers_as_base_and_adapter(ollama: Client, bundle: Path, tmp_path: Path) -> None:
    facts = read_facts(bundle, bundle / MODELFILE)
    assert facts.adapter == bundle / "adapter-F32.gguf"
    with trial(ollama, "apart", bundle, bundle / MODELFILE) as name:
        checks = {check.name: check for check in prove(ollama, name, facts)}
    assert not [check for check in checks.values() if check.status == "failed"], checks
    assert checks["files"].status == checks["greedy answers"].status == "passed"
    (tmp_path / facts.gguf.name).symlink_to(facts.gguf)
    plain = facts.modelfile.replace("ADAPTER ./adapter-F32.gguf\n", "")
    (tmp_path / MODELFILE).write_text(plain)
    with trial(ollama, "plain", tmp_path, tmp_path / MODELFILE) as name:
        files = files_check(ollama.show(name), facts)
        checks = {check.name: check for check in recorded_checks(ollama, name, facts)}
    assert files.note == "not the bundle's adapter-F32.gguf"
    assert checks["greedy answers"].status != "passed"


def test_bundle_is_opened_with_its_adapter(bundle: Path) -> None:
    row = json.loads((bundle / "prompts.jsonl").read_text("utf-8").splitlines()[0])
    asked = row["messages"][0]["content"]
    done = edgeforge("generate", bundle, asked, "--max-tokens", 8, "--json")
    assert done.returncode == 0, done.stderr
    assert row["expected"].startswith(json.loads(done.stdout)["answer"])
