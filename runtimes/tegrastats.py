"""Power of a Jetson as `tegrastats` prints it, for systems whose sensors are not in sysfs.

    TegrastatsMeter(program).start()   # ... .stop() gives joules

Lines hold `VDD_IN 4952mW/4952mW` (JetPack 5 and newer) or `POM_5V_IN 2532/2532` (JetPack 4): now
and mean, in milliwatts. The smoke test carries this module to devices: standard library and syntax
of Python 3.8 alone.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import threading
import time

from runtimes.energy import INPUT_RAILS

INTERVAL_MS = 100
# Memory is in such pairs too, but with MB at their end.
_RAIL = re.compile(r"\b([A-Z][A-Z0-9_]*) (\d+)(?:mW)?/\d+(?:mW)?(?=\s|$)")


def find_tegrastats() -> str | None:
    """The program, where there is one."""
    return shutil.which("tegrastats")


def watts_of(line: str) -> float | None:
    """The board's input in a line, else the sum of the rails that it names; None without any."""
    rails = {name: int(now) / 1000 for name, now in _RAIL.findall(line)}
    for name in INPUT_RAILS:
        if name in rails:
            return rails[name]
    return sum(rails.values()) if rails else None


class TegrastatsMeter:
    """Runs `tegrastats` for the time of a measurement."""

    source = "tegrastats"

    def __init__(self, program: str) -> None:
        self._program = program
        self._watts: list[float] = []
        self._process: subprocess.Popen[str] | None = None
        self._thread: threading.Thread | None = None
        self._begin = 0.0

    def start(self) -> None:
        command = [self._program, "--interval", str(INTERVAL_MS)]
        self._watts, self._begin = [], time.perf_counter()
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def stop(self) -> float:
        """Joules: mean power times time. Raises `ValueError` when no line told any power."""
        assert self._process is not None and self._thread is not None
        sec = time.perf_counter() - self._begin
        self._process.terminate()
        self._process.wait()
        self._thread.join()
        if not self._watts:
            raise ValueError("tegrastats told no power")
        return sum(self._watts) / len(self._watts) * sec

    def _read(self) -> None:
        assert self._process is not None and self._process.stdout is not None
        with self._process.stdout as stream:
            for line in stream:
                watts = watts_of(line)
                if watts is not None:
                    self._watts.append(watts)
