"""What engines would tell their makers of models and runs is neither sent nor kept.

onnxruntime's packages report from the moment they are imported. Their C++ goes past Python's audit
hooks, so the traces are looked for: a number of the machine and a queue of reports in the home, a
session among the temporary files.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from command_line import ROOT
from fuzz_onnx import tiny_classifier, tiny_decoder
from journeys import Proven
from watched import OF_TORCH

# These turn reports off as well.
_NOT_OURS = {"ORT_DISABLE_TELEMETRY", "ORT_RUNNING_UNIT_TESTS", "CI", "GITHUB_ACTIONS", "TF_BUILD"}
_WAYS = {
    "a session": "from runtimes.ort import SessionSettings, session_options\n"
    "session_options(SessionSettings())",
    "genai": "import runtimes.genai, onnxruntime_genai",
    "quantizers": "import toolchain.export.onnx.encoder_graph\n"
    "from onnxruntime.quantization import quantize_dynamic",
    "smoke test, decoder": "from scripts.smoke.onnx_decoder import OnnxDecoder\nOnnxDecoder()",
    "smoke test, encoder": "from scripts.smoke.onnx_encoder import OnnxEncoder\n"
    "OnnxEncoder(Path('classifier/model.onnx'), 1)",
    "command generate": "run('generate', 'decoder', 'on', '--raw', '--max-tokens', '2')",
    "command classify": "run('classify', 'classifier', 'on')",
}
_QUICK = ("a session", "smoke test, decoder")
_HEAD = """\
import sys
from pathlib import Path

def run(*words):
    from toolchain.cli import main
    sys.argv = ["edgeforge", *words]
    assert main() == 0

"""


@pytest.mark.timeout(600)
def test_engines_report_nothing(tmp_path: Path, whole: bool, proven: Proven) -> None:
    start = time.monotonic()
    tiny_decoder(tmp_path / "decoder")
    tiny_classifier(tmp_path / "classifier")
    ways = list(_WAYS) if whole else _QUICK
    for name in ways:
        assert traces(_HEAD + _WAYS[name], tmp_path, tmp_path / name) == [], name
    seconds = time.monotonic() - start
    proven("5 no code from data", "engines report nothing", len(ways), "ways in", seconds)


def test_they_would(tmp_path: Path) -> None:
    """The traces are those of the engine that is installed."""
    assert traces("import onnxruntime", tmp_path, tmp_path / "plain") != []


def traces(code: str, cwd: Path, place: Path) -> list[str]:
    """What a process leaves in its home and among its temporary files."""
    place.mkdir()
    own = {"HOME": str(place), "TMPDIR": str(place), "PYTHONPATH": str(ROOT)}
    kept = {name: value for name, value in os.environ.items() if name not in _NOT_OURS}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env={**kept, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    left = (path for path in place.rglob("*") if not path.name.startswith(OF_TORCH))
    return sorted(path.relative_to(place).as_posix() for path in left)
