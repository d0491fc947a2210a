from __future__ import annotations

from pathlib import Path

import pytest

from runtimes.lockfile import pin_of, read_lock


def test_every_pin_has_a_digest() -> None:
    pins = read_lock()
    assert len(pins) > 50
    assert all(pin.hashes and pin.version for pin in pins)
    names = {pin.name for pin in pins}
    assert {"pip", "cmake", "ninja", "scikit-build-core", "setuptools"} <= names  # the build
    assert {"pytest", "ruff", "mypy"} <= names


@pytest.mark.parametrize("python", ["3.11", "3.12", "3.13"])
def test_each_python_gets_one_version_of_each_package(python: str) -> None:
    """numpy, for one, is pinned twice: its newest version asks for a newer Python."""
    from packaging.markers import Marker

    machine = {"python_full_version": f"{python}.1", "python_version": python}
    machine |= {"sys_platform": "linux", "platform_machine": "x86_64"}
    chosen = [
        pin.name
        for pin in read_lock()
        if not pin.marker or Marker(pin.marker).evaluate(dict(machine))
    ]
    assert len(chosen) == len(set(chosen))
    assert {"numpy", "torch", "transformers", "triton"} <= set(chosen)


def test_the_runtime_comes_as_source_only() -> None:
    assert len(pin_of("llama-cpp-python").hashes) == 1


def test_torch_has_the_digests_of_its_cpu_builds_too() -> None:
    """A newly compiled lock lacks them: they lie on another index (see the lock's head)."""
    cpu_x86_64_cp312 = "4ca4a9394b0c771238a4f73590fdbbc4debad85ed0fa63d026ae1b085da7d6e2"
    torch = pin_of("torch")
    assert torch.version == "2.13.0"
    assert cpu_x86_64_cp312 in torch.hashes


def test_a_marker_is_kept(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    digest = "a" * 64
    lock.write_text(
        "# head\n"
        f"one==1.0 ; sys_platform == 'win32' \\\n    --hash=sha256:{digest}\n"
        f"two==2.0+x \\\n    --hash=sha256:{digest} \\\n    --hash=sha256:{'b' * 64}\n"
    )
    one, two = read_lock(lock)
    assert (one.name, one.version, one.marker) == ("one", "1.0", "sys_platform == 'win32'")
    assert (two.version, two.marker, len(two.hashes)) == ("2.0+x", "", 2)
    assert two.text.splitlines()[0] == "two==2.0+x \\"


@pytest.mark.parametrize("line", ["numpy>=2", "numpy", "-e .", "numpy==2.0"])
def test_a_line_that_pins_nothing_is_refused(tmp_path: Path, line: str) -> None:
    lock = tmp_path / "lock"
    lock.write_text(f"{line}\n")
    with pytest.raises(ValueError, match="no pinned version"):
        read_lock(lock)
