"""Part 7: every dependency is pinned by digest, its licence listed, its known troubles told."""

from __future__ import annotations

import importlib.util
import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from packaging.version import Version

from runtimes import environment, trouble
from runtimes.lockfile import read_lock
from runtimes.vendored import damaged_files, pinned_files

ROOT = Path(__file__).parents[2]


def script(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, ROOT / "scripts" / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def test_every_pin_has_digests_and_setup_asks_for_them(proven: Callable[..., None]) -> None:
    pins = read_lock()
    assert len(pins) > 100 and all(pin.hashes for pin in pins)
    assert not re.search(r"^\s*(-e|--index-url|--extra-index-url|https?:|git\+)",
                         (ROOT / "requirements.lock").read_text("utf-8"), re.M)  # fmt: skip
    steps = (ROOT / "scripts" / "setup_steps.py").read_text("utf-8")
    # Two ways in: pip's install and the download of llama.cpp's source. Both check digests.
    fetching = re.findall(r"setup\.pip\((?:[^()]|\([^()]*\))*\)", steps)
    named = [call for call in fetching if '"install"' in call or '"download"' in call]
    assert len(named) >= 2
    for call in named:
        local = "sdist" in call  # which was checked when it was downloaded
        assert '"--require-hashes"' in call or local, call
    assert pinned_files() and not damaged_files()
    proven("7 supply chain", "pins with digests", len(pins), "pins")


def test_the_page_of_licences_is_that_of_the_lock(proven: Callable[..., None]) -> None:
    table = script("licence_table")
    page = table.PAGE.read_text("utf-8")
    listed = table.rows_of(page)
    wanted = {(pin.name, pin.version) for pin in read_lock()}
    assert {key for key in listed if key[0] in {name for name, _ in wanted}} == wanted
    rows, unknown = table.table(read_lock(), listed)
    assert not unknown and rows in page
    for readme in ("demo-model", "text"):
        told = (ROOT / "toolchain" / "assets" / readme / "README.md").read_text("utf-8").lower()
        assert "apache-2.0" in told and f"toolchain/assets/{readme}" in page
    proven("7 supply chain", "licences listed", len(wanted), "packages")


def test_a_package_without_a_licence_is_named() -> None:
    table = script("licence_table")
    pin = read_lock()[0].__class__("no-such-package", "1.0", "", frozenset({"0"}), "")
    assert table.table([pin], {})[1] == ["no-such-package"]
    assert table.table([pin], {("no-such-package", "1.0"): "MIT"})[1] == []


def test_no_pin_has_a_known_trouble() -> None:
    pins = {pin.name: pin.version for pin in read_lock()}
    assert list(trouble.troubles(pins.get, ())) == []


@pytest.mark.parametrize(
    "entry", trouble.known(), ids=lambda entry: f"{entry.name}{entry.versions}"
)
def test_doctor_warns_of_a_version_with_known_trouble(
    entry: trouble.Trouble, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = next(version for version in _versions() if entry.holds(version))
    monkeypatch.setattr(
        environment, "_version_here", lambda name: bad if name == entry.name else None
    )
    host = (entry.only_with,) if entry.only_with else ()
    told = environment.known_troubles(host)
    assert any(entry.trouble in problem.what and bad in problem.what for problem in told)
    assert all(problem.mend and not problem.blocks_build for problem in told)


def _versions() -> list[str]:
    return [
        str(Version(f"{major}.{minor}.{patch}"))
        for major in range(20)
        for minor in range(10)
        for patch in (0, 40)
    ]
