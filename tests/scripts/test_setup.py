"""Set-up: its stamp, its steps on a real tiny environment (offline), and its messages."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

import setup as setup_script  # noqa: E402 (scripts/ is no package)
import setup_steps  # noqa: E402
from setup_run import Setup, last_line  # noqa: E402

from common.errors import UserError  # noqa: E402

SOURCES = ("requirements.lock", "pyproject.toml", "scripts", "runtimes", "common")


def run_setup(root: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    clean = {name: value for name, value in os.environ.items() if name != "CMAKE_ARGS"}
    return subprocess.run(
        [sys.executable, str(root / "scripts" / "setup.py"), *arguments],
        env={**clean, **environment},
        capture_output=True,
        text=True,
        timeout=60,
    )


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """What set-up reads of this project, with a finished set-up's marks."""
    root = tmp_path / "a checkout"
    root.mkdir()
    for name in SOURCES:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, root / name)
    setup = Setup(root)
    (setup.venv / "bin").mkdir(parents=True)
    (setup.venv / "bin" / "edgeforge").touch()
    setup.work.mkdir()
    setup_steps.write_stamp(setup.work / setup_steps.RUNTIME_MARK, {"cmake_args": ""})
    key = setup_script.setup_key(setup)
    setup_steps.write_stamp(setup.venv / setup_script.STAMP, {"key": key})
    return root


def test_an_unchanged_checkout_needs_nothing(checkout: Path) -> None:
    assert run_setup(checkout, "--check").returncode == 0
    done = run_setup(checkout)
    assert done.returncode == 0
    assert "up to date" in done.stderr and done.stdout == ""
    quiet = run_setup(checkout, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.parametrize("change", ["lock", "steps", "command", "stamp", "damaged stamp", "moved"])
def test_a_change_needs_a_setup(checkout: Path, change: str) -> None:
    stamp = checkout / ".venv" / setup_script.STAMP
    if change == "lock":
        with (checkout / "requirements.lock").open("a") as lock:
            lock.write("# changed\n")
    elif change == "steps":
        with (checkout / "scripts" / "setup_steps.py").open("a") as steps:
            steps.write("# changed\n")
    elif change == "command":
        (checkout / ".venv" / "bin" / "edgeforge").unlink()
    elif change == "stamp":
        stamp.unlink()
    elif change == "damaged stamp":
        stamp.write_text(stamp.read_text()[:9])
    else:
        checkout = checkout.rename(checkout.with_name("elsewhere"))
    assert run_setup(checkout, "--check").returncode == 1


def test_other_cmake_args_need_a_build(checkout: Path) -> None:
    assert run_setup(checkout, "--check", CMAKE_ARGS="-DGGML_CUDA=ON").returncode == 1
    assert run_setup(checkout, "--check", CMAKE_ARGS="").returncode == 0


def test_no_compiler_is_told_first(checkout: Path, tmp_path: Path) -> None:
    (checkout / ".venv" / setup_script.STAMP).unlink()
    done = run_setup(checkout, PATH=str(tmp_path), CXX="")
    assert done.returncode == 2
    assert "no C++ compiler" in done.stderr and "hint:" in done.stderr
    assert "Traceback" not in done.stderr


def test_too_little_disk_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(setup_steps, "NEEDED_BYTES", 10**18)
    monkeypatch.setenv("CXX", sys.executable)
    with pytest.raises(UserError, match="not enough disk"):
        setup_steps.check_machine(Setup(tmp_path))


def test_no_fitting_python(tmp_path: Path) -> None:
    code = "import setup, sys; sys.exit(setup.use_another_python())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "scripts",
        env={"PATH": str(tmp_path)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "does not fit" in done.stderr and "hint:" in done.stderr


def test_pythons_are_those_of_the_project() -> None:
    assert 'requires-python = ">=3.11,<3.14"' in (ROOT / "pyproject.toml").read_text()
    assert setup_script.PYTHONS == ("3.11", "3.12", "3.13")


@pytest.mark.parametrize(
    "script", ["scripts/setup.py", "scripts/setup_run.py", "scripts/setup_steps.py"]
)
def test_an_old_python_can_read_the_scripts(script: str) -> None:
    """Python 3.8 must get as far as the message that it is too old."""
    ast.parse((ROOT / script).read_text(), feature_version=(3, 8))


# --- the steps, with pip offline, in one real environment ---


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Setup:
    """A real virtual environment with pip."""
    import venv

    setup = Setup(tmp_path_factory.mktemp("it's a setup"))
    venv.EnvBuilder(symlinks=True, with_pip=True).create(setup.venv)
    setup.work.mkdir()
    return setup


@pytest.fixture
def wheels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of wheels, the only place where pip may look."""
    folder = tmp_path / "wheels"
    folder.mkdir()
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    yield folder


def make_wheel(folder: Path, name: str, version: str) -> str:
    """A wheel with one module; returns its part of a lock."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = {version!r}\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},,\n" for path in [*files, f"{info}/RECORD"])
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for member, text in {**files, f"{info}/RECORD": record}.items():
            wheel.writestr(member, text)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return f"{name}=={version} \\\n    --hash=sha256:{digest}"


def version_in(setup: Setup, module: str) -> str:
    code = f"import {module}; print({module}.VERSION)"
    return subprocess.check_output([str(setup.python), "-c", code], text=True).strip()


def test_a_pin_is_installed_and_its_digest_checked(environment: Setup, wheels: Path) -> None:
    pin = make_wheel(wheels, "pinned", "1.0")
    setup_steps.install_pins(environment, "installing", [pin])
    assert version_in(environment, "pinned") == "1.0"
    assert setup_steps.installed(environment, "pinned", "1.0")
    make_wheel(wheels, "changed", "1.0")
    wrong = f"changed==1.0 \\\n    --hash=sha256:{'0' * 64}"
    with pytest.raises(UserError, match="set-up failed while installing") as caught:
        setup_steps.install_pins(environment, "installing", [wrong])
    assert "DO NOT MATCH THE HASHES" in str(caught.value)
    assert str(environment.log) in str(caught.value)
    assert not setup_steps.installed(environment, "changed")


def test_a_half_installed_package_is_installed_again(environment: Setup, wheels: Path) -> None:
    pin = make_wheel(wheels, "halfway", "1.0")
    setup_steps.install_pins(environment, "installing", [pin])
    (record,) = environment.venv.glob("lib/python*/site-packages/halfway-*.dist-info/RECORD")
    record.unlink()
    (module,) = environment.venv.glob("lib/python*/site-packages/halfway.py")
    module.unlink()
    assert not setup_steps.installed(environment, "halfway")
    setup_steps.install_pins(environment, "installing", [pin])
    assert version_in(environment, "halfway") == "1.0"


def test_a_broken_pip_is_noticed(environment: Setup, tmp_path: Path) -> None:
    assert setup_steps.pip_answers(environment)
    assert not setup_steps.pip_answers(Setup(tmp_path))
    import venv

    bare = Setup(tmp_path / "bare")
    venv.EnvBuilder(symlinks=True, with_pip=False).create(bare.venv)
    assert not setup_steps.pip_answers(bare)


def test_cpu_build_of_torch_is_preferred_without_a_gpu(
    environment: Setup, wheels: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "platform", "linux")
    default = make_wheel(wheels, "torch", "9.0")
    monkeypatch.setattr(setup_steps, "has_nvidia", lambda: True)
    assert setup_steps.torch_build(environment, default, "9.0") == "default"
    monkeypatch.setattr(setup_steps, "has_nvidia", lambda: False)
    assert setup_steps.torch_build(environment, default, "9.0") == "default"  # none to be had
    cpu_digest = make_wheel(wheels, "torch", "9.0+cpu").split("--hash")[1]
    both = f"{default} \\\n    --hash{cpu_digest}"
    assert setup_steps.torch_build(environment, both, "9.0") == "cpu"
    assert version_in(environment, "torch") == "9.0+cpu"
    # now that it lies there, the plain pin is content with it and nothing is asked
    monkeypatch.setenv("PIP_FIND_LINKS", "/nonexistent")
    assert setup_steps.torch_build(environment, both, "9.0") == "cpu"
    setup_steps.install_pins(environment, "installing", [both])
    assert version_in(environment, "torch") == "9.0+cpu"


def test_no_network_is_named(environment: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PIP_FIND_LINKS", raising=False)
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")  # discard: nobody answers
    monkeypatch.setenv("PIP_RETRIES", "0")
    pin = f"absent==1.0 \\\n    --hash=sha256:{'0' * 64}"
    with pytest.raises(UserError, match="check the network"):
        setup_steps.install_pins(environment, "installing", [pin])


def test_a_left_sdist_is_used_only_when_whole(environment: Setup, wheels: Path) -> None:
    left = environment.work / "llama_cpp_python-0.0.tar.gz"
    left.write_bytes(b"whole")
    digest = hashlib.sha256(b"whole").hexdigest()
    pin = f"llama-cpp-python==0.0 \\\n    --hash=sha256:{digest}"
    assert setup_steps.fetch_sdist(environment, pin, frozenset({digest})) == left
    left.write_bytes(b"who")
    with pytest.raises(UserError):  # downloads anew, which fails offline
        setup_steps.fetch_sdist(environment, pin, frozenset({digest}))
    assert not left.exists()


def test_every_pin_but_the_runtimes_is_handed_to_pip(
    environment: Setup, monkeypatch: pytest.MonkeyPatch
) -> None:
    from runtimes.lockfile import read_lock

    handed: list[str] = []
    monkeypatch.setattr(setup_steps, "torch_build", lambda *_: "default")
    monkeypatch.setattr(setup_steps, "install_pins", lambda _s, _t, pins: handed.extend(pins))
    setup_steps.install_packages(environment)
    assert handed == [pin.text for pin in read_lock() if pin.name != "llama-cpp-python"]


def test_cuda_packages_are_only_torchs() -> None:
    from runtimes.lockfile import read_lock

    left_out = [p.name for p in read_lock() if setup_steps.CUDA_ONLY.match(p.name)]
    assert {"triton", "cuda-toolkit", "nvidia-cublas"} <= set(left_out)
    needed = {"torch", "numpy", "transformers", "llama-cpp-python", "cmake"}
    assert not needed & set(left_out)


@pytest.mark.parametrize(("name", "inside"), [("plain name", True), ("it's", False)])
def test_cmake_gets_a_folder_that_it_can_read(tmp_path: Path, name: str, inside: bool) -> None:
    setup = Setup(tmp_path / name)
    setup.work.mkdir(parents=True)
    with setup_steps.build_folder(setup) as folder:
        assert folder.is_dir()
        assert folder.is_relative_to(setup.work) == inside
        assert inside or "'" not in str(folder)


def test_progress_of_a_build(tmp_path: Path) -> None:
    log = tmp_path / "setup.log"
    log.write_text("  [1/83] c++ a\n  [17/83] c++ b\n  warning: long text\n")
    assert last_line(log) == "[17/83]"
    assert last_line(log, begin=len("  [1/83] c++ a\n  [17/83] c++ b\n")) == "warning: long text"
    log.write_text("Collecting torch\n  Downloading torch\n\n")
    assert last_line(log) == "Downloading torch"


def test_stamps_survive_damage(tmp_path: Path) -> None:
    stamp = tmp_path / "stamp"
    assert setup_steps.read_stamp(stamp) == {}
    stamp.write_text(json.dumps([1]))
    assert setup_steps.read_stamp(stamp) == {}
