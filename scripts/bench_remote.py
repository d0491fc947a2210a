"""What a remote smoke test costs beside the transfer and the test itself.

    python scripts/bench_remote.py --bundle build/MODEL/TARGET --host user@orin [--rounds 5]

Each round, interleaved: the bare transfer (one ssh that unpacks a tar stream of the bundle into a
new folder), then a smoke test with everything to copy, then one with nothing to copy. Overhead: a
whole `edgeforge smoke` process, less the test's own time on the device, less the bare transfer.
Medians.
Exit code 1 when the overhead is above --limit seconds (default 2).
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from common.files import read_json  # noqa: E402

REMOTE_DIR = ".cache/edgeforge/bench"


def parse_arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--bundle", type=Path, required=True, help="OUT/<model>/<target>")
    parser.add_argument("--host", required=True, help="USER@HOST")
    parser.add_argument("--ssh-config", type=Path, metavar="FILE", help="ssh's config (ssh -F)")
    parser.add_argument("--remote-python", default="python3", metavar="PATH")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--limit", type=float, default=2.0, help="seconds of overhead")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write every figure there")
    return parser.parse_args(arguments)


def ssh(options: argparse.Namespace) -> list[str]:
    config = [] if options.ssh_config is None else ["-F", str(options.ssh_config)]
    return ["ssh", "-o", "BatchMode=yes", *config, options.host]


def bare_transfer_sec(options: argparse.Namespace) -> float:
    """One ssh, one stream of bytes into files: the least that any copy needs."""
    clear = f"cd && rm -rf {REMOTE_DIR} && mkdir -p {REMOTE_DIR}/bare"
    subprocess.run([*ssh(options), clear], check=True)
    start = time.monotonic()
    words = ["tar", "-C", str(options.bundle), "--exclude=./log", "-cf", "-", "."]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as tar:
        unpack = f"cd && tar -C {REMOTE_DIR}/bare -xf -"
        subprocess.run([*ssh(options), unpack], stdin=tar.stdout, check=True)
    return time.monotonic() - start


def smoke_sec(options: argparse.Namespace) -> tuple[float, float, dict[str, Any]]:
    """A whole process; its time without the test's own, and what `device.json` says."""
    target = read_json(options.bundle / "profile.json")["target"]
    command = [sys.executable, "-m", "toolchain", "smoke", "--fleet", "FILE", "--quick", "--json"]
    row: dict[str, Any] = {
        "host": options.host,
        "target": target,
        "bundle": str(options.bundle.resolve()),
        "python": options.remote_python,
        "remote_dir": REMOTE_DIR,
    }
    if options.ssh_config is not None:
        row["ssh_config"] = str(options.ssh_config.resolve())
    with tempfile.NamedTemporaryFile("w", suffix=".yaml") as fleet:
        json.dump({"devices": [row]}, fleet)  # JSON is YAML
        fleet.flush()
        command[5] = fleet.name
        start = time.monotonic()
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
        wall = time.monotonic() - start
    if done.returncode == 2 or not done.stdout:
        raise SystemExit(done.stderr)
    record = json.loads(done.stdout)[0]
    if record["verdict"] == "not tested":
        raise SystemExit(record["error"]["problem"])
    return wall, wall - record["test_sec"], record


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print, judge."""
    options = parse_arguments(arguments)
    rows = []
    for number in range(options.rounds):
        bare = bare_transfer_sec(options)
        _, full, first = smoke_sec(options)
        _, again, second = smoke_sec(options)
        row = {
            "bare_transfer_sec": bare,
            "overhead_full_copy_sec": full - bare,
            "overhead_nothing_to_copy_sec": again,
            "copied_bytes": first["copied"]["copied_bytes"],
            "copied_bytes_again": second["copied"]["copied_bytes"],
        }
        rows.append(row)
        print(f"round {number + 1}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    medians = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    print("median:  " + ", ".join(f"{key} {value:.3f}" for key, value in medians.items()))
    if options.json:
        text = json.dumps({"median": medians, "rounds": rows}, indent=2)
        options.json.write_text(text + "\n", encoding="utf-8")
    worst = max(medians["overhead_full_copy_sec"], medians["overhead_nothing_to_copy_sec"])
    return 0 if worst <= options.limit and not medians["copied_bytes_again"] else 1


if __name__ == "__main__":
    sys.exit(main())
