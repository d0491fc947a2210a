"""What a device tells about itself, what is refused for, what is advised."""

from __future__ import annotations

import dataclasses
import shutil
import subprocess
from pathlib import Path

import pytest
from loopback_sshd import needs_sshd

from runtimes.remote.faults import DeviceError
from runtimes.remote.preflight import DeviceFacts, Needs, advice, preflight, read_facts, refuse
from runtimes.remote.ssh import Connection

SCRIPT = Path(__file__).parents[3] / "runtimes" / "remote" / "preflight.sh"
ORIN = {
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super\0",
    "etc/nv_tegra_release": "# R36 (release), REVISION: 4.7, GCID: 42132812, BOARD: generic, "
    "EABI: aarch64, DATE: Thu Sep 18 22:54:44 UTC 2025\n# KERNEL_VARIANT: oot\n",
    "etc/os-release": 'NAME="Ubuntu"\nPRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
    "proc/meminfo": "MemTotal:        7802056 kB\nMemFree: 1 kB\nMemAvailable:    5802056 kB\n"
    "SwapTotal:       3901024 kB\nSwapFree:        3901024 kB\n",
    "proc/swaps": "Filename Type Size Used Priority\n"
    + "".join(f"/dev/zram{n} partition 650170 0 5\n" for n in range(6)),
    "usr/local/cuda/version.json": '{\n "cuda" : {\n  "name" : "CUDA SDK",\n'
    '  "version" : "12.6.11"\n },\n "cuda_cccl" : { "version" : "12.6.37" }\n}\n',
    "sys/class/devfreq/17000000.gpu/min_freq": "306000000\n",
    "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
}
NVPMODEL = '#!/bin/sh\n[ "$1" = -q ] && printf "NV Power Mode: 15W\\n0\\n"\n'
NEEDS = Needs(target="jetson-orin-nano", arch="aarch64", format="gguf", memory_bytes=1_000_000)


def faked(root: Path, path: str = "", **settings: str) -> DeviceFacts:
    """The script's answer on a made-up device."""
    for name, text in ORIN.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    values = {"FOLDER": "bundles", "PYTHON": "python3", "ROOT": str(root), **settings}
    lines = "".join(f"{name}='{value}'\n" for name, value in values.items())
    done = subprocess.run(
        ["sh", "-s"],
        input=lines + SCRIPT.read_text(),
        env={"PATH": f"{path}:/usr/bin:/bin", "HOME": str(root)},
        capture_output=True,
        text=True,
        check=True,
    )
    return read_facts("orin", "Welcome!\n" + done.stdout)


@pytest.fixture
def orin(tmp_path: Path) -> DeviceFacts:
    programs = tmp_path / "bin"
    programs.mkdir()
    for name, text in {
        "nvpmodel": NVPMODEL,
        "llama-server": "#!/bin/sh\necho version: 1\n",
    }.items():
        (programs / name).write_text(text)
        (programs / name).chmod(0o755)
    return dataclasses.replace(faked(tmp_path, str(programs)), arch="aarch64")


def test_a_jetson(orin: DeviceFacts) -> None:
    jetson = orin.jetson
    assert jetson is not None
    assert jetson.board.startswith("NVIDIA Jetson Orin Nano") and jetson.board.endswith("Super")
    assert (jetson.l4t, jetson.cuda, jetson.cuda_architecture) == ("36.4.7", "12.6.11", 87)
    assert (jetson.power_mode, jetson.clocks) == ("15W", "free")
    assert orin.system == "Ubuntu 22.04.5 LTS" and not orin.clean_shell
    assert orin.memory_total_bytes == 7802056 * 1024
    assert orin.zram_bytes == 6 * 650170 * 1024
    assert orin.engines["llama-server"] == "1"
    refuse(orin, NEEDS)


def test_a_jetsons_advice(orin: DeviceFacts) -> None:
    said = "\n".join(advice(orin))
    for words in ("sudo nvpmodel -m 0", "sudo jetson_clocks", "NvMapMemAlloc", "36.4.7"):
        assert words in said
    assert orin.jetson is not None
    best = dataclasses.replace(
        orin.jetson, power_mode="MAXN_SUPER", clocks="locked", l4t="36.4.3", cuda="12.6"
    )
    assert best.advice() == []
    none = dataclasses.replace(orin, swap_total_bytes=0, zram_bytes=0)
    assert any("no swap on disk" in line for line in advice(none))


@pytest.mark.parametrize(
    ("change", "needs", "problem"),
    [
        ({"arch": "x86_64"}, {}, r"orin is x86_64, but the target jetson-orin-nano is aarch64"),
        ({"arch": ""}, {}, "of an unknown kind"),
        ({"python_bits": 32}, {}, "32-bit system"),
        ({"python_version": ""}, {}, "no working Python 3"),
        ({"python_version": "3.6.9"}, {}, "Python 3.6.9, too old"),
        ({"engines": {}}, {}, "no engine for this GGUF bundle"),
        ({"engines": {"llama-server": "1"}}, {"format": "onnx"}, "no engine for this ONNX bundle"),
        ({}, {"memory_bytes": 7_000_000_000}, "needs 7.00 GB, 5.94 GB are available"),
        ({"disk_writable": False}, {}, "cannot be written to"),
    ],
)
def test_refusals(
    orin: DeviceFacts, change: dict[str, object], needs: dict[str, object], problem: str
) -> None:
    facts = dataclasses.replace(orin, **change)  # type: ignore[arg-type]
    with pytest.raises(DeviceError, match=problem) as caught:
        refuse(facts, dataclasses.replace(NEEDS, **needs))  # type: ignore[arg-type]
    assert caught.value.mend and caught.value.place == "check"


def test_python_3_8_is_enough(orin: DeviceFacts) -> None:
    refuse(dataclasses.replace(orin, python_version="3.8.0"), NEEDS)


def test_a_device_without_python_and_with_nothing_to_tell(tmp_path: Path) -> None:
    facts = faked(tmp_path, PYTHON="no-such-python")
    assert facts.python_version == "" and facts.python_bits is None


@needs_sshd
def test_this_machine(device: Connection) -> None:
    facts = preflight(device, folder="~/a b/it's", python=shutil.which("python3") or "python3")
    assert facts.arch in ("x86_64", "aarch64") and facts.cores and facts.clean_shell
    assert facts.memory_total_bytes and facts.disk_free_bytes and facts.disk_writable
    assert facts.python_version.startswith("3.") and facts.python_bits == 64
    assert facts.rsync == (shutil.which("rsync") is not None)


@pytest.mark.skipif(shutil.which("shellcheck") is None, reason="no shellcheck on this machine")
def test_the_script_is_clean() -> None:
    subprocess.run(["shellcheck", "-s", "sh", str(SCRIPT)], check=True)
