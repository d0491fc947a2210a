"""A child ends with its parent, however that ends."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import pytest

from common.with_parent import with_parent

ROOT = Path(__file__).parents[2]
PARENT = """\
import subprocess, sys
from common.with_parent import with_parent
child = subprocess.Popen(with_parent([sys.executable, "-c", "import time; time.sleep(600)"]))
print(child.pid, flush=True)
child.wait()
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the kernel does it on Linux")
def test_the_child_of_a_killed_process_ends() -> None:
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT], cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    child = Path("/proc", parent.stdout.readline().strip())
    assert child.is_dir()
    parent.kill()
    parent.wait()
    until = time.monotonic() + 60
    while child.is_dir() and time.monotonic() < until:
        time.sleep(0.01)
    assert not child.is_dir()


def test_a_command_is_run_as_it_is() -> None:
    words = ["a b", "$HOME", "--", "*"]
    command = [sys.executable, "-c", "import sys; print(sys.argv[1:]); sys.exit(7)", *words]
    done = subprocess.run(with_parent(command), capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (7, f"{words}\n")
