"""Set-up: what `requirements.lock` pins into `.venv`, the runtime built, the converter beside it.

Every download is checked by the digests in the lock. llama-cpp-python is built once, on this
machine, from its sdist; llama.cpp's converter comes from the same sdist, so both are of one
revision. A run that was stopped goes on where it stopped; one with nothing to do ends at once.

    python3 scripts/setup.py            # or: make setup
    python3 scripts/setup.py --check    # exit code 1 when a set-up is needed

Standard library only. CMAKE_ARGS is added to the build of llama.cpp, for example -DGGML_CUDA=ON.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(1, str(ROOT / "scripts"))

from setup_run import Setup  # noqa: E402 (found only after the path is set)
from setup_steps import (  # noqa: E402
    RUNTIME_MARK,
    build_runtime,
    check_machine,
    create_environment,
    install_packages,
    read_stamp,
    write_stamp,
)

PYTHONS = ("3.11", "3.12", "3.13")  # as pyproject.toml's requires-python
STAMP = ".edgeforge-setup"


def main(argv: Sequence[str] | None = None) -> int:
    """Exit code 0: ready; 1 (`--check`): a set-up is needed; 2: a fault that the user can mend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--check", action="store_true", help="exit 1 when a set-up is needed")
    parser.add_argument("--quiet", action="store_true", help="say nothing when nothing is to do")
    args = parser.parse_args(argv)
    if not python_fits(sys.version_info[:2]):
        return use_another_python()
    from common.errors import EXIT_BAD_INPUT, UserError

    setup = Setup(ROOT)
    try:
        if args.check:
            return 0 if up_to_date(setup) else 1
        with only_one_run():
            return ensure(setup, quiet=args.quiet)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; `make setup` goes on from here", file=sys.stderr)
        return 130


def ensure(setup: Setup, *, quiet: bool = False) -> int:
    """Do whatever is missing, in order; the stamp comes last."""
    if up_to_date(setup):
        if not quiet:
            setup.say("set-up is up to date")
        return 0
    key = setup_key(setup)  # before the lock is read: one that changes meanwhile is not done
    check_machine(setup)
    create_environment(setup)
    install_packages(setup)
    build_runtime(setup)
    setup.pip(
        "installing edgeforge", "install", "--no-deps", "--no-build-isolation", "-e", setup.root
    )
    setup.run("trying torch", [setup.python, "-c", "import torch, transformers"])
    shutil.rmtree(setup.work / "tmp", ignore_errors=True)
    write_stamp(setup.venv / STAMP, {"key": key})
    setup.say("set-up finished")
    return 0


def up_to_date(setup: Setup) -> bool:
    """Whether the environment is what the lock, this script and this Python would make."""
    cmake_args = read_stamp(setup.work / RUNTIME_MARK).get("cmake_args")
    return (
        read_stamp(setup.venv / STAMP).get("key") == setup_key(setup)
        and cmake_args == os.environ.get("CMAKE_ARGS", cmake_args)
        and (setup.venv / "bin" / "edgeforge").is_file()
    )


def setup_key(setup: Setup) -> str:
    """Digest of all that decides the environment, its own place included (it cannot be moved)."""
    parts = ["requirements.lock", "pyproject.toml"]
    parts += [f"scripts/{name}.py" for name in ("setup", "setup_run", "setup_steps")]
    parts += ["runtimes/lockfile.py", "runtimes/vendored.py", "runtimes/llama_cpp_files.sha256"]
    digest = hashlib.sha256(f"{sys.version_info[:2]} {setup.venv}".encode())
    for part in parts:
        digest.update(hashlib.sha256((setup.root / part).read_bytes()).digest())
    return digest.hexdigest()


def python_fits(version: tuple[int, int]) -> bool:
    """Whether this Python is one of those that the lock was made for."""
    return f"{version[0]}.{version[1]}" in PYTHONS


def use_another_python() -> int:
    """Go on with a fitting Python of this machine; a clear error when there is none."""
    for version in PYTHONS:
        found = shutil.which(f"python{version}")
        if found and not subprocess.call([found, "-c", ""], stderr=subprocess.DEVNULL):
            os.execv(found, [found, __file__, *sys.argv[1:]])
    print(
        f"error: Python {sys.version.split()[0]} ({sys.executable}) does not fit: one of "
        f"{', '.join(PYTHONS)} is needed and none is on the PATH\n"
        "hint: `sudo apt install python3.11 python3.11-venv`, then `make setup`",
        file=sys.stderr,
    )
    return 2


@contextlib.contextmanager
def only_one_run() -> Iterator[None]:
    """Two set-ups of one checkout wait for each other (the lock is on this very file)."""
    with Path(__file__).open("rb") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


if __name__ == "__main__":
    sys.exit(main())
