"""Facts of a bundle for tests of reports: a folder as a build leaves it, without its model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from toolchain.ledger.entry import Entry, Planned
from toolchain.ledger.file import as_json
from toolchain.ledger.keep import Ledger

NAME = "demo <script>alert(1)</script>"
TARGET = {"name": "jetson", "title": "Orin", "title_zh": "英伟达", "gpu_layers": -1}


def entries() -> tuple[Entry, ...]:
    """An original, its pruned form and the exported file."""
    rows = (
        ("original", 5_000_000, 10_000_000, 16.0, 900.0, 0.0, 0.98),
        ("prune", 4_000_000, 8_000_000, 16.0, 1100.0, 0.02, 0.96),
        ("Q4_K_M", 4_000_000, 2_500_000, 5.0, 2800.0, 0.09, 0.95),
    )
    return tuple(
        Entry(
            stage=stage,
            result=f"{stage}-1",
            parameters=parameters,
            size_bytes=size_bytes,
            bits_per_weight=bits,
            planned=Planned(2048, size_bytes + 20_000_000, speed),
            perplexity=1.6 + kld,
            kld_mean=kld,
            top1_agreement=1 - kld,
            positions=1024,
            tasks={"data": {"exact_match": score}},
        )
        for stage, parameters, size_bytes, bits, speed, kld, score in rows
    )


def smoke() -> dict[str, Any]:
    """A smoke test with a check of each kind."""
    checks = [
        ("decode_tokens_per_sec", 209.0, 8.0, "tokens/s", "passed", "48 tokens"),
        ("peak_rss_bytes", 82_000_000, 9_000_000_000, "bytes", "passed", ""),
        ("task_score", 0.9, 0.98, "share", "failed", "18 of 20 <b>right</b>"),
        ("joules_per_token", None, None, "", "not measured", "no RAPL"),
    ]
    names = ("name", "value", "limit", "unit", "status", "note")
    return {
        "verdict": "failed",
        "checks": [dict(zip(names, check, strict=True)) for check in checks],
        "machine": {"cpu": "A CPU", "architecture": "x86_64"},
        "engine": {"name": "llama-cpp-python", "version": "0.3.36"},
        "answers": [{"id": str(i), "ttft_sec": 0.02 + 0.001 * i * i} for i in range(20)],
    }


def reported_bundle(folder: Path, manifest: dict[str, Any]) -> Path:
    """The folder of a bundle with manifest, ledger and log."""
    log = folder / "log"
    (log / "devices" / "orin").mkdir(parents=True)
    series = [[float(sec), 300_000_000 + 9_000_000 * sec, 1.5] for sec in range(20)]
    cost = {"wall_sec": 20.0, "peak_rss_bytes": 480_000_000, "joules": None, "series": series}
    stages = [
        {"stage": name, "result": f"{name}-1", "reused": False, "wall_sec": 20.0, "cost": cost}
        for name in ("prune", "convert", "quantize")
    ]
    device = {
        "device": "orin <i>one</i>",
        "target": "jetson",
        "verdict": "passed",
        "facts": {"system": "Linux"},
        "copied": None,
        "checks": smoke()["checks"],
    }
    ledger = as_json(Ledger(entries()), {"max_kld": 0.05, "max_total_kld": 0.05})
    for path, data in (
        ("manifest.json", manifest),
        ("ledger.json", ledger),
        ("log/smoke.json", smoke()),
        ("log/build.json", {"stages": stages}),
        ("log/devices/orin/device.json", device),
    ):
        (folder / path).write_text(json.dumps(data, ensure_ascii=False), encoding="utf-8")
    return folder


def manifest() -> dict[str, Any]:
    """What the whole report takes of a manifest."""
    gate = {"name": "mean KLD", "figure": 0.0031, "limit": 0.05, "passed": True, "detail": ""}
    return {
        "model": NAME,
        "quantization": "Q4_K_M",
        "target": TARGET,
        "model_file": {"size_bytes": 2_500_000, "bits_per_weight": 5.0, "sha256": "ab" * 32},
        "base": {"digest": "cd" * 32, "files": {"model.safetensors": "ef" * 32}},
        "gates": [gate],
        "tried": [],
        "plan": {"candidates": []},
        "samples": [
            {"prompt": "<img src=x>", "reference": "yes", "before": "yes", "after": "no | maybe"}
        ],
        "recipe": {"name": "mine", "stages": ["prune", "export"]},
        "versions": {"torch": "2.6"},
        "licences": {"model": None},
    }
