"""The Makefile: verbs and variables reach the command line exactly as typed."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.cli import VERBS
from toolchain.options import MAKE_VARIABLES

ROOT = Path(__file__).resolve().parents[2]
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
VARIABLES = re.findall(r"^#= (\w+)", MAKEFILE, re.MULTILINE)
HOSTILE = [
    "two words",
    'it\'s "quoted"',
    "$(shell touch made-by-make)",
    "$HOME ${PATH} $$",
    "`touch made-by-shell`; touch made-by-shell & #",
    "back\\slash * ? ~ %",
    "中文 模型",
    "--out=elsewhere",
]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="no make on this machine")


def make(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # an outer make (`make test target=...`) must not hand its own variables down
    inherited = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("MAKE") and name not in ("MFLAGS", "args", *VARIABLES)
    }
    return subprocess.run(
        ["make", *arguments],
        cwd=folder,
        env={**inherited, "LC_ALL": "C.UTF-8", **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The Makefile with a command in edgeforge's place that prints its arguments as JSON."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    (tmp_path / "scripts").mkdir()
    (tmp_path / "scripts" / "setup.py").write_text("")
    command = tmp_path / ".venv" / "bin" / "edgeforge"
    command.parent.mkdir(parents=True)
    command.write_text(
        f"#!{sys.executable}\n"
        "import json, os, sys\n"
        "print(json.dumps(sys.argv[1:]))\n"
        "sys.exit(int(os.environ.get('CODE', '0')))\n"
    )
    command.chmod(0o755)
    return tmp_path


def arguments_seen(result: subprocess.CompletedProcess[str]) -> list[str]:
    assert result.returncode == 0, result.stderr
    seen = json.loads(result.stdout)
    assert isinstance(seen, list)
    return seen


def test_target_alone_builds(checkout: Path) -> None:
    assert arguments_seen(make(checkout, "target=laptop")) == ["build", "--target=laptop"]


@pytest.mark.parametrize("verb", ["build", "plan", "search", "smoke", "ollama"])
def test_a_verb_passes_all_variables_and_only_those_set(checkout: Path, verb: str) -> None:
    values = [f"{name}=a {name}" for name in VARIABLES]
    expected = [f"--{name}=a {name}" for name in VARIABLES]
    assert arguments_seen(make(checkout, verb, *values)) == [verb, *expected]
    assert arguments_seen(make(checkout, verb)) == [verb]


@pytest.mark.parametrize("value", HOSTILE)
def test_values_arrive_as_typed(checkout: Path, value: str) -> None:
    seen = arguments_seen(make(checkout, "plan", "target=laptop", f"model={value}"))
    assert seen == ["plan", "--target=laptop", f"--model={value}"]
    assert not list(checkout.glob("made-by-*"))


@pytest.mark.parametrize("value", HOSTILE)
def test_values_from_the_environment_arrive_as_they_are(checkout: Path, value: str) -> None:
    seen = arguments_seen(make(checkout, "plan", model=value))
    assert seen == ["plan", f"--model={value}"]
    assert not list(checkout.glob("made-by-*"))


def test_a_failing_verb_fails_make(checkout: Path) -> None:
    result = make(checkout, "target=laptop", CODE="2")
    assert result.returncode != 0
    assert "Error 2" in result.stderr


def test_a_failing_setup_stops_the_verb(checkout: Path) -> None:
    (checkout / "scripts" / "setup.py").write_text("raise SystemExit(2)")
    result = make(checkout, "target=laptop")
    assert result.returncode != 0
    assert result.stdout == ""


def test_a_folder_named_like_a_verb_is_no_result(checkout: Path) -> None:
    (checkout / "build").mkdir()
    assert arguments_seen(make(checkout, "build", "target=laptop"))[0] == "build"


def test_make_alone_prints_help() -> None:
    result = make(ROOT)
    assert result.returncode == 0
    assert result.stdout == make(ROOT, "help").stdout
    listed = re.findall(r"^  ([\w-]+) {2,}\S", result.stdout, re.MULTILINE)
    phony = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE)
    assert phony
    assert set(listed) == set(phony[1].split()) - {"ready"} | set(VARIABLES)


def test_verbs_and_variables_are_those_of_the_command_line() -> None:
    called = set(re.findall(r"\$\(EDGEFORGE\) (\w+)", MAKEFILE))
    # Verbs with words of their own (a model, files, sub-verbs) are for the command alone.
    own = {"targets", "evaluate", "chat", "generate", "classify", "data", "finetune", "merge"}
    own |= {"verify", "sign", "bundle", "serve", "prune", "prune-vocab", "sparsify", "report"}
    own |= {"advise", "check", "distill", "teacher-cache", "embed-gguf"}
    assert called == set(VERBS) - own
    declared = re.search(r"^VARIABLES := (.*)$", MAKEFILE, re.MULTILINE)
    assert declared and declared[1].split() == VARIABLES
    assert tuple(VARIABLES) == MAKE_VARIABLES


def test_test_verb_passes_words_to_pytest() -> None:
    result = make(ROOT, "-n", "test", "args=-k 'plan or host'")
    assert "-m pytest -n 2 --dist loadfile -k 'plan or host'" in result.stdout
