"""`edgeforge smoke --host` and `--fleet` against real OpenSSH servers on loopback."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from command_line import ROOT, edgeforge
from loopback_sshd import Server, loopback_sshd, needs_sshd
from tiny_bundle import make_bundle
from tiny_models import tiny_llama

from runtimes.ollama_server import free_port
from targets.registry import load_target
from toolchain.export.bundle import write_sums

pytestmark = needs_sshd


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def out(checkpoint: Path) -> Path:
    """The same model for a target of this machine's kind, and for one of the other."""
    out = checkpoint.parent / "build"
    laptop = make_bundle(checkpoint, out, proof=False)
    jetson = laptop.with_name("jetson-orin-nano")
    shutil.copytree(laptop, jetson)
    for name in ("manifest.json", "profile.json"):
        data = json.loads((jetson / name).read_text("utf-8"))
        other = load_target("jetson-orin-nano").model_dump(mode="json")
        data["target"] = other if name == "manifest.json" else other["name"]
        (jetson / name).write_text(json.dumps(data), "utf-8")
    write_sums(jetson)
    return out


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    with loopback_sshd(tmp_path_factory.mktemp("device")) as running:
        yield running


@pytest.fixture
def given(checkpoint: Path, out: Path, server: Server) -> list[object]:
    if os.uname().machine != "x86_64":
        pytest.skip("the bundle's target is x86_64")
    host = ["--host", "device", "--ssh-config", server.config, "--remote-python", sys.executable]
    return ["smoke", "--target", "laptop", "--model", checkpoint, "--out", out, *host, "--quick"]


def log_of(out: Path) -> Path:
    return out / "tiny" / "laptop" / "log"


def test_it_copies_proves_and_brings_the_figures_back(
    given: list[object], out: Path, server: Server
) -> None:
    first = edgeforge(*given)
    assert first.returncode == 0, first.stderr
    assert "smoke test passed" in first.stdout and "copied" in first.stderr
    there = server.home / ".cache" / "edgeforge" / "bundles" / "tiny-laptop"
    assert (there / "SHA256SUMS").is_file()
    again = edgeforge(*given, "--json")
    assert again.returncode == 0, again.stderr
    record = json.loads(again.stdout)
    assert record["verdict"] == "passed" and record["copied"]["copied_bytes"] == 0
    assert record["facts"]["arch"] == "x86_64" and set(record["sec"]) == {
        *("connect", "check", "copy", "run")
    }
    log = log_of(out)
    names = {path.name for path in (log / "devices" / "device").iterdir()}
    assert names == {"device.json", "smoke.json", "smoke.md", "smoke.zh-CN.md"}
    assert "| device | laptop | passed |" in (log / "devices.md").read_text("utf-8")
    assert "已测试的设备" in (log / "devices.zh-CN.md").read_text("utf-8")
    assert edgeforge(*given[:7], "--quick").returncode == 0  # the log does not spoil the bundle


def test_one_flipped_bit_over_there_is_refused(given: list[object], server: Server) -> None:
    assert edgeforge(*given).returncode == 0
    folder = server.home / ".cache" / "edgeforge" / "bundles" / "tiny-laptop"
    model = next(folder.glob("*.gguf"))
    flip_a_bit(model)
    refused = edgeforge(*given, "--no-copy", "--json")
    assert refused.returncode == 1
    checks = {check["name"]: check["status"] for check in json.loads(refused.stdout)["checks"]}
    assert checks["digests"] == "failed" and checks["equal_answers"] == "not measured"


@pytest.mark.parametrize(
    ("options", "problem", "hint"),
    [
        (["--target", "jetson"], "is x86_64, but the target jetson-orin-nano is", "targets list"),
        (["--ssh-option", "Port=1"], "cannot be reached", "ssh device"),
        (["--remote-python", "no-python"], "no working Python 3", "--remote-python"),
        (["--remote-python", "/usr/bin/python3"], "no engine for this GGUF", "llama-cpp-python"),
        (["--remote-dir", "/proc/x"], "", "--remote-dir"),
        (["--host", "-oX"], "", ""),
        (["--no-copy", "--remote-dir", "elsewhere"], "there is no bundle in", "--no-copy"),
    ],
)
def test_what_is_refused(
    given: list[object], out: Path, options: list[str], problem: str, hint: str
) -> None:
    if options[-1] == "/usr/bin/python3" and not Path(options[-1]).is_file():
        pytest.skip("no system Python")
    refused = edgeforge(*given, *options)
    assert refused.returncode == 2 and "Traceback" not in refused.stderr, refused.stderr
    assert problem in refused.stderr and hint in refused.stderr


def test_a_failure_leaves_no_old_figures(given: list[object], out: Path) -> None:
    assert edgeforge(*given[:7], "--quick").returncode == 0
    assert edgeforge(*given).returncode == 0
    refused = edgeforge(*given, "--ssh-option", "Port=1")
    assert "not measured on device: digests, load_sec" in refused.stderr
    folder = log_of(out) / "devices" / "device"
    assert [path.name for path in folder.iterdir()] == ["device.json"]
    record = json.loads((folder / "device.json").read_text("utf-8"))
    assert record["verdict"] == "not tested" and "equal_answers" in record["not_measured"]
    assert "cannot be reached" in (log_of(out) / "devices.md").read_text("utf-8")


def flip_a_bit(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def fleet_file(folder: Path, server: Server, checkpoint: Path, count: int = 2) -> Path:
    common = f"ssh_config: {server.config}\n    python: {sys.executable}\n    model: {checkpoint}"
    rows = [
        f"  - host: device\n    name: box-{number}\n    target: laptop\n    tags: [good]\n"
        f"    remote_dir: fleet/{number}\n    {common}\n"
        for number in range(count)
    ]
    rows.append(
        f"  - host: device\n    name: gone\n    target: laptop\n    tags: [bad]\n    {common}\n"
        f"    ssh_options: [Port={free_port()}]\n"
    )
    path = folder / "fleet.yaml"
    path.write_text("devices:\n" + "".join(rows))
    return path


def test_a_fleet_goes_on_without_the_one_that_fails(
    given: list[object], out: Path, server: Server, checkpoint: Path, tmp_path: Path
) -> None:
    path = fleet_file(tmp_path, server, checkpoint)
    done = edgeforge("smoke", "--fleet", path, "--out", out, "--quick", "--jobs", "2")
    assert done.returncode == 1, done.stderr
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert "passed" in rows["box-0"] and "passed" in rows["box-1"]
    assert "not tested" in rows["gone"] and "gone: device cannot be reached" in done.stderr
    tagged = edgeforge("smoke", "--fleet", path, "--out", out, "--quick", "--tag", "good", "--json")
    assert tagged.returncode == 0, tagged.stderr
    records = json.loads(tagged.stdout)
    assert [(r["device"], r["copied"]["copied_bytes"]) for r in records] == [
        ("box-0", 0),
        ("box-1", 0),
    ]
    flip_a_bit(next((server.home / "fleet" / "1").glob("*/*.gguf")))
    last = edgeforge(
        "smoke", "--fleet", path, "--out", out, "--quick", "--tag", "good", "--no-copy"
    )
    assert last.returncode == 1 and "[box-1] failed: digests" in last.stderr, last.stderr


def test_faults_of_a_fleet_file(out: Path, checkpoint: Path, tmp_path: Path) -> None:
    path = tmp_path / "fleet.yaml"
    for text, words in (
        ("devices:\n  - host: a\n    taget: laptop\n", "did you mean 'target'?"),
        ("devices: []\n", "devices"),
        ("devices:\n" + "  - {host: a, target: laptop}\n" * 2, "named twice: a"),
        ("devices:\n  - {host: a, target: laptop, model: x, bundle: y}\n", "not both"),
        ("devices:\n  - {host: a:22, target: laptop}\n", "Port=22"),
        ("devices:\n  - {host: a, target: latop}\n", "did you mean 'laptop'?"),
        (f"devices:\n  - {{host: a, target: pi5, model: {checkpoint}}}\n", "unknown target"),
    ):
        path.write_text(text)
        refused = edgeforge("smoke", "--fleet", path, "--out", out)
        assert refused.returncode == 2 and words in refused.stderr, refused.stderr
    path.write_text(f"devices:\n  - {{host: a, target: laptop, model: {checkpoint}, tags: [x]}}\n")
    refused = edgeforge("smoke", "--fleet", path, "--tag", "y", "--out", out)
    assert refused.returncode == 2 and "no device" in refused.stderr
    dry = edgeforge("smoke", "--fleet", path, "--out", out, "--dry-run")
    assert dry.returncode == 0 and "would copy" in dry.stdout
    refused = edgeforge("smoke", "--fleet", path, "--target", "laptop")
    assert refused.returncode == 2 and "--target and --fleet" in refused.stderr
    refused = edgeforge("smoke")
    assert refused.returncode == 2 and "no target is named" in refused.stderr


def test_ctrl_c_ends_a_fleet_everywhere(
    given: list[object], out: Path, server: Server, checkpoint: Path, tmp_path: Path
) -> None:
    bundle = tmp_path / "build" / "tiny" / "laptop"
    shutil.copytree(out / "tiny" / "laptop", bundle)
    (bundle / "smoke_test.py").write_text("import time\ntime.sleep(123.25)\n")
    write_sums(bundle)
    path = fleet_file(tmp_path, server, checkpoint)
    words = [sys.executable, "-m", "toolchain", "smoke", "--fleet", path, "--tag", "good"]
    process = subprocess.Popen(
        [*map(str, words), "--out", str(tmp_path / "build")],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 30
    while running(server) < 2 and time.monotonic() < deadline:
        time.sleep(0.1)
    assert running(server) == 2
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=20)
    assert process.returncode == 130 and "Traceback" not in said, said
    assert running(server) == 0


def running(server: Server) -> int:
    """Smoke tests at work under this server's home."""
    said = subprocess.run(["ps", "-ewwo", "args="], capture_output=True, text=True).stdout
    place = f"{server.home}/fleet/"
    return sum(place in line and "smoke_test.py" in line for line in said.splitlines())
