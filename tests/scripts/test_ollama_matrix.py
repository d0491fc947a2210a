"""The page of proven templates is the script's, whole and without a failure."""

from __future__ import annotations

import re
from pathlib import Path

import ollama_matrix
import pytest
from ollama_programs import every_version, version_of

from toolchain.export.ollama.families import load_families


def test_page_names_every_template_and_type_and_no_failure() -> None:
    text = ollama_matrix.OUT.read_text("utf-8")
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    versions = rows[0][1:]
    assert versions == rows[-len(ollama_matrix.TYPES) - 1][1:] and len(versions) >= 2
    named = {row[0]: row[1:] for row in rows}
    titles = {family.name: family.title for family in load_families()}
    for name, family, _ in ollama_matrix.TEMPLATES:
        assert f"{titles[family]} ({name})" in named, "run scripts/ollama_matrix.py"
    assert set(ollama_matrix.TYPES) <= set(named)
    for row, cells in named.items():
        if row in ("template", "type"):
            continue
        for cell in cells:
            found = re.fullmatch(r"(\d+) of (\d+)|equal|needs 0\.30", cell)
            assert found and found[1] == found[2], (row, cell)


@pytest.mark.parametrize("program", every_version())
def test_script_tries_templates_and_types(program: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ollama_matrix, "TYPES", ("Q8_0",))
    unknown = "{% for m in messages %}[{{ loop.index }}] {{ m.content }}{% endfor %}"
    templates = [*ollama_matrix.templates_of([])[:1], ("unknown", unknown)]
    version, cells = ollama_matrix.try_all(program, templates)
    assert version == version_of(program)
    assert list(cells.values()) == ["16 of 16", "needs 0.30", "equal"]
    page = ollama_matrix.page(
        [version], {(row, version): cell for row, cell in cells.items()}, [n for n, _ in templates]
    )
    assert "| unknown | needs 0.30 |\n" in page and "| Q8_0 | equal |" in page
