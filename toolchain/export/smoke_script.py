"""One file of many: `smoke_test.py`, as a bundle holds it, made of the modules in `scripts/smoke/`.

    python -m toolchain.export.smoke_script > smoke_test.py

A device gets one file that needs nothing beside it, people get modules. From `main` on each module
that another one imports (of this folder, or of `runtimes`) comes before it, without docstring and
imports; the standard library's imports are gathered on top. The same sources give the same bytes.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from common.errors import UserError

_ROOT = Path(__file__).resolve().parents[2]
_SOURCES, _ENTRY = "scripts.smoke", "main"
_SHARED = "runtimes."  # modules there may be taken along: those of the standard library alone
_RULE = "# " + "-" * 80


@dataclass(frozen=True)
class _Part:
    """A module: its docstring, local modules and other imports that it needs, its body."""

    name: str
    doc: str
    needs: tuple[str, ...]
    imports: tuple[str, ...]
    body: str
    defines: tuple[str, ...]


@cache
def smoke_script() -> str:
    """The text of `smoke_test.py`. Raises `UserError` where this is no source checkout."""
    parts: dict[str, _Part] = {}
    _collect(f"{_SOURCES}.{_ENTRY}", parts)
    _refuse_twins(list(parts.values()))
    entry = parts[f"{_SOURCES}.{_ENTRY}"]
    imports = _joined({line for part in parts.values() for line in part.imports})
    head = [
        "#!/usr/bin/env python3",
        f'"""{entry.doc}"""\n',
        "from __future__ import annotations\n",
        *imports,
    ]
    sections = [_section(part) for part in parts.values()]
    ending = '\n\nif __name__ == "__main__":\n    sys.exit(main())\n'
    return "\n".join(head) + "\n\n" + "\n\n\n".join(sections) + "\n" + ending


def _collect(module: str, parts: dict[str, _Part]) -> None:
    if module in parts:
        return
    part = _read(module)
    for needed in part.needs:
        _collect(needed, parts)
    parts[module] = part


def _read(module: str) -> _Part:
    path = _ROOT / f"{module.replace('.', '/')}.py"
    try:
        source = path.read_text(encoding="utf-8")
    except OSError:
        raise UserError(
            f"{path} is missing", "run edgeforge from its source checkout: make setup"
        ) from None
    tree = ast.parse(source, feature_version=(3, 8))
    needs, imports, last = [], [], 1
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and _is_local(node):
            assert not any(alias.asname for alias in node.names), f"{module}: no `as` here"
            package = module.rpartition(".")[0]
            needs.append(f"{package}.{node.module}" if node.level else str(node.module))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            if getattr(node, "module", "") != "__future__":
                imports += _single(node)
        elif isinstance(node, ast.Expr) and node is tree.body[0]:
            pass
        else:
            continue
        last = node.end_lineno or last
    body = "\n".join(source.splitlines()[last:]).strip("\n")
    doc = ast.get_docstring(tree, clean=False) or ""
    return _Part(module, doc, tuple(needs), tuple(imports), body, _defined(tree))


def _is_local(node: ast.ImportFrom) -> bool:
    return node.level > 0 or str(node.module).startswith(_SHARED)


def _single(node: ast.Import | ast.ImportFrom) -> list[str]:
    """The statement as one line for each name, so that modules' imports can be joined."""
    names = [f"{a.name} as {a.asname}" if a.asname else a.name for a in node.names]
    start = f"from {node.module} import " if isinstance(node, ast.ImportFrom) else "import "
    return [start + name for name in names]


def _joined(lines: set[str]) -> list[str]:
    """Single imports as one statement for each module, plain imports first."""
    names: dict[str, list[str]] = {}
    for line in sorted(lines):
        start, _, name = line.rpartition("import ")
        names.setdefault(start, []).append(name)
    plain = [f"import {name}" for name in names.pop("", [])]
    return plain + [f"{start}import {', '.join(found)}" for start, found in sorted(names.items())]


def _defined(tree: ast.Module) -> tuple[str, ...]:
    names: list[str] = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names.append(node.name)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names += [n.id for t in targets for n in ast.walk(t) if isinstance(n, ast.Name)]
    return tuple(names)


def _refuse_twins(parts: list[_Part]) -> None:
    """In one file a name means one thing: two modules must not both define it."""
    owners: dict[str, str] = {}
    for part in parts:
        for name in part.defines:
            other = owners.setdefault(name, part.name)
            if other != part.name:
                raise ValueError(f"{part.name} and {other} both define {name}: rename one")


def _section(part: _Part) -> str:
    title = part.name.removeprefix(f"{_SOURCES}.")
    said = (
        part.doc.strip().splitlines()[0] if part.name != f"{_SOURCES}.{_ENTRY}" else "The command."
    )
    return f"{_RULE}\n# {title}: {said}\n\n{part.body}"


if __name__ == "__main__":
    print(smoke_script(), end="")
