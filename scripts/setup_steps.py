"""What set-up consists of: the steps that `scripts/setup.py` takes.

Standard library only.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from setup_run import Setup

RUNTIME = "llama-cpp-python"
SDIST = "llama_cpp_python-*.tar.gz"
RUNTIME_MARK = "runtime.json"
NEEDED_BYTES = 8 * 10**9  # 5.1 GB with the CUDA build of torch, and what pip unpacks meanwhile
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_ONLY = re.compile(r"^(nvidia-|cuda-|triton$)")
# llama-cpp-python sets LLAMA_BUILD_COMMON ON in the cache; a normal variable hides it. Neither the
# common library nor the multimodal one is used here, and they are half of the compile time.
# GCC 12's `_tile_loadconfig` names 8 of the 64 bytes that it reads; the stores of the others are
# optimized away, and on CPUs with AMX every quantized model ends in an illegal instruction.
BUILD_CMAKE = """\
set(LLAMA_BUILD_COMMON OFF)
if(CMAKE_SYSTEM_PROCESSOR MATCHES "x86_64|AMD64" AND CMAKE_CXX_COMPILER_ID MATCHES "GNU|Clang")
  include(CheckCXXCompilerFlag)
  foreach(part tile int8 bf16)
    check_cxx_compiler_flag(-mno-amx-${part} knows_amx_${part})
    if(knows_amx_${part})
      add_compile_options(-mno-amx-${part})
    endif()
  endforeach()
endif()
"""


def check_machine(setup: Setup) -> None:
    """A C++ compiler, the venv module, and disk for what is still to come."""
    import importlib.util

    from common.errors import UserError
    from common.files import require_free_bytes

    compiler = shlex.split(os.environ.get("CXX", "")) or ["c++", "g++", "clang++"]
    if not any(map(shutil.which, compiler)):
        raise UserError(
            "no C++ compiler, which building llama.cpp needs",
            "install one, for example `sudo apt install g++`, then `make setup`",
        )
    if any(importlib.util.find_spec(name) is None for name in ("venv", "ensurepip")):
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        raise UserError(
            f"Python {version} ({sys.executable}) has no venv module",
            f"`sudo apt install python{version}-venv`, then `make setup`",
        )
    if not installed(setup, "torch"):
        require_free_bytes(setup.venv, NEEDED_BYTES, "set-up (torch and what it needs)")


def create_environment(setup: Setup) -> None:
    """A virtual environment at its own place with this Python and the lock's pip."""
    from runtimes.lockfile import pin_of

    here = f"{sys.version_info[:2]} {setup.venv}"
    place = setup.venv / ".setup" / "environment"
    usable = place.is_file() and place.read_text(encoding="utf-8") == here
    if not (usable and pip_answers(setup)):
        setup.say(f"creating {setup.venv} with Python {sys.version.split()[0]} …")
        import venv

        venv.EnvBuilder(clear=True, symlinks=True, with_pip=True).create(setup.venv)
        setup.work.mkdir(exist_ok=True)
        place.write_text(here, encoding="utf-8")
    pip = pin_of("pip")
    if not installed(setup, "pip", pip.version):
        install_pins(setup, "installing pip", [pip.text])


def pip_answers(setup: Setup) -> bool:
    """Whether the environment's pip works (one killed while it replaced itself may not)."""
    command = [str(setup.python), "-m", "pip", "--version"]
    try:
        return subprocess.run(command, capture_output=True).returncode == 0
    except OSError:
        return False


def install_packages(setup: Setup) -> None:
    """Everything in the lock but the runtime; torch in its CPU build where that can be had."""
    from runtimes.lockfile import pin_of, read_lock

    torch = pin_of("torch")
    pins = [pin for pin in read_lock() if pin.name != RUNTIME]
    if torch_build(setup, torch.text, torch.version) == "cpu":
        pins = [pin for pin in pins if not CUDA_ONLY.match(pin.name)]
    install_pins(setup, "installing everything in the lock", [pin.text for pin in pins])


def torch_build(setup: Setup, pin: str, version: str) -> str:
    """'cpu' when the CPU build is (now) installed, else 'default'.

    It is far smaller. PyPI has it for other systems only, so the index that pip is set to is asked
    first, then PyTorch's; the lock's digests hold for both.
    """
    if installed(setup, "torch", version):
        return "cpu" if installed(setup, "torch", f"{version}+cpu") else "default"
    if not sys.platform.startswith("linux") or has_nvidia():
        return "default"
    from common.errors import UserError

    cpu_pin = pin.replace(f"torch=={version}", f"torch=={version}+cpu", 1)
    patience = ("--timeout", "10", "--retries", "0")
    for index in ((), ("--index-url", TORCH_CPU_INDEX)):
        with contextlib.suppress(UserError):
            where = "PyTorch's index" if index else "pip's index"
            install_pins(
                setup, f"trying torch's CPU build from {where}", [cpu_pin], *index, *patience
            )
            return "cpu"
    setup.say("  no CPU build of torch to be had: taking the default build")
    return "default"


def build_runtime(setup: Setup) -> None:
    """llama-cpp-python from its sdist, and llama.cpp's converter out of the same file."""
    from runtimes.lockfile import pin_of
    from runtimes.vendored import damaged_files, unpack_llama_cpp

    pin = pin_of(RUNTIME)
    built = read_stamp(setup.work / RUNTIME_MARK)
    cmake_args = os.environ.get("CMAKE_ARGS", str(built.get("cmake_args", "")))
    done = {"digest": sorted(pin.hashes), "cmake_args": cmake_args, "cmake": BUILD_CMAKE}
    is_built = built == done and installed(setup, "llama_cpp_python", pin.version)
    if is_built and not damaged_files(setup.venv):
        for left in setup.work.glob(SDIST):
            left.unlink()
        return
    sdist = fetch_sdist(setup, pin.text, pin.hashes)
    if not is_built:
        compile_runtime(setup, sdist, cmake_args)
        write_stamp(setup.work / RUNTIME_MARK, done)
    setup.say("taking llama.cpp's converter out of the sdist …")
    unpack_llama_cpp(sdist, setup.venv)
    sdist.unlink()


def compile_runtime(setup: Setup, sdist: Path, cmake_args: str) -> None:
    """Build and install the runtime for this machine's CPU, without what is not used here
    and what a compiler gets wrong."""
    own = setup.work / "llama_cpp.cmake"
    own.write_text(BUILD_CMAKE, encoding="utf-8")
    include = shlex.quote(f"-DCMAKE_PROJECT_llama_cpp_INCLUDE={own}")
    with build_folder(setup) as scratch:
        setup.pip(
            "building llama.cpp for this machine",
            *("install", "-v", "--no-deps", "--no-build-isolation", "--no-cache-dir"),
            *("--force-reinstall", sdist),
            CMAKE_ARGS=f"-DLLAVA_BUILD=OFF {include} {cmake_args}",
            TMPDIR=str(scratch),
        )
    probe = "import llama_cpp; llama_cpp.llama_print_system_info()"
    setup.run("trying the runtime", [setup.python, "-c", probe])


@contextlib.contextmanager
def build_folder(setup: Setup) -> Iterator[Path]:
    """Where to compile. CMake misreads the compiler's answers below a folder with an apostrophe in
    its name (it then finds OpenMP and links nothing of it); such a checkout is built in /tmp."""
    scratch = setup.work / "tmp"
    if re.fullmatch(r"[\w /.+-]*", str(scratch)):
        scratch.mkdir(exist_ok=True)
        yield scratch
    else:
        with tempfile.TemporaryDirectory(prefix="edgeforge-") as folder:
            yield Path(folder)


def fetch_sdist(setup: Setup, pin: str, hashes: frozenset[str]) -> Path:
    """The runtime's sdist with the lock's digest, downloaded unless a stopped run left it."""
    from common.files import sha256_file

    for left in setup.work.glob(SDIST):
        if sha256_file(left) in hashes:
            return left
        left.unlink()
    wanted = setup.work / "runtime.txt"
    wanted.write_text(pin + "\n", encoding="utf-8")
    setup.pip(
        "downloading llama.cpp's source",
        *("download", "--no-deps", "--no-build-isolation", "--require-hashes"),
        *("--no-binary", RUNTIME, "-d", setup.work, "-r", wanted),
    )
    return next(setup.work.glob(SDIST))


def install_pins(setup: Setup, title: str, pins: Sequence[str], *options: str) -> None:
    """Install exactly these parts of the lock, digests checked.

    A package that a killed pip left half installed has no RECORD; pip would take it as installed.
    """
    for info in setup.venv.glob("lib/python*/site-packages/*.dist-info"):
        if not (info / "RECORD").is_file():
            shutil.rmtree(info)
    wanted = setup.work / "wanted.txt"
    wanted.write_text("\n".join(pins) + "\n", encoding="utf-8")
    setup.pip(title, "install", "--require-hashes", "--no-deps", *options, "-r", wanted)


def installed(setup: Setup, name: str, version: str = "") -> bool:
    """Whether a package (its name as in its .dist-info) lies in the environment, whole."""
    records = setup.venv.glob(f"lib/python*/site-packages/{name}-{version}*.dist-info/RECORD")
    return any(records)


def has_nvidia() -> bool:
    """Whether an NVIDIA driver is here: a PC's or a Jetson's."""
    signs = ("/proc/driver/nvidia/version", "/etc/nv_tegra_release")
    return any(Path(sign).exists() for sign in signs) or shutil.which("nvidia-smi") is not None


def read_stamp(path: Path) -> dict[str, object]:
    """A stamp's content; empty when absent or damaged."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def write_stamp(path: Path, content: Mapping[str, object]) -> None:
    """Write a stamp durably: it is there in full or not at all."""
    from common.files import write_json

    write_json(path, content)
