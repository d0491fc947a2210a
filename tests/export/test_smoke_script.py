"""One file out of the modules of `scripts/smoke/`: complete, the same every time, nothing twice."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from toolchain.export import smoke_script as module
from toolchain.export.smoke_script import smoke_script

PACKAGE = "scripts/smoke"


def checkout(root: Path, **sources: str) -> Path:
    folder = root / PACKAGE
    folder.mkdir(parents=True)
    for name, text in sources.items():
        (folder / f"{name}.py").write_text(text, "utf-8")
    return root


@pytest.fixture
def of(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # type: ignore[no-untyped-def]
    """The file that is made of given modules."""

    def make(**sources: str) -> str:
        monkeypatch.setattr(module, "_ROOT", checkout(tmp_path, **sources))
        return str(smoke_script.__wrapped__())

    return make


def test_it_is_one_program_that_needs_no_other_module(tmp_path: Path) -> None:
    path = tmp_path / "smoke_test.py"
    path.write_text(smoke_script(), "utf-8")
    command = [sys.executable, "-I", "-S", str(path), "--help"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0 and "exit code: 0 passed" in done.stdout
    for part in (Path(module.__file__).parents[2] / PACKAGE).glob("[!_]*.py"):
        assert f"\n# {part.stem}: " in smoke_script() or part.stem == "main"


def test_the_same_sources_give_the_same_bytes() -> None:
    assert smoke_script.__wrapped__() == smoke_script()


def test_every_name_is_known_once_assembled() -> None:
    command = [sys.executable, "-m", "ruff", "check", "--isolated", "--select", "F", "-"]
    done = subprocess.run(command, input=smoke_script(), capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_modules_come_after_those_that_they_need(of) -> None:  # type: ignore[no-untyped-def]
    made = of(
        main='"""What it is.\n\nMore.\n"""\n\nimport sys\n\nfrom .b import two\n\n\ndef main():\n'
        "    print(two())\n",
        b='"""B."""\n\nimport json\nfrom os import path, sep\n\nfrom .a import ONE\n\n\n'
        "def two():\n    return ONE + 1\n",
        a='"""A."""\n\nfrom os import curdir\n\nONE = 1\n',
        unused='"""Not taken."""\n\nNOTHING = 0\n',
    )
    assert made.index("ONE = 1") < made.index("def two") < made.index("def main")
    assert made.startswith('#!/usr/bin/env python3\n"""What it is.')
    assert "from os import curdir, path, sep\n" in made and "from ." not in made
    assert "NOTHING" not in made
    names: dict[str, object] = {"__name__": "smoke_test"}
    exec(compile(made, "smoke_test.py", "exec"), names)
    assert names["two"]() == 2  # type: ignore[operator]


def test_two_modules_may_not_define_one_name(of) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=r"both define ONE: rename one"):
        of(main="from .a import ONE\n\nTWO = 2\nONE = 3\n", a="ONE = 1\n")


def test_it_is_python_3_8(of) -> None:  # type: ignore[no-untyped-def]
    ast.parse(smoke_script(), feature_version=(3, 8))
    with pytest.raises(SyntaxError):
        of(main="match 1:\n    case _:\n        pass\n")
