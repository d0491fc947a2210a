"""A folder has one writer; a dead one holds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from common.errors import UserError
from common.locks import only_writer

HOLD = (
    "import sys, time; from pathlib import Path; from common.locks import only_writer\n"
    "with only_writer(Path(sys.argv[1])): print('held', flush=True); time.sleep(60)\n"
)


def test_the_second_writer_learns_who_holds_it(tmp_path: Path) -> None:
    root = Path(__file__).parents[2]
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)], stdout=subprocess.PIPE, text=True, cwd=root
    )
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"process {holder.pid}"), only_writer(tmp_path):
            pass
    finally:
        holder.kill()
        holder.wait()
    with only_writer(tmp_path):  # the killed process left no stale lock
        pass
