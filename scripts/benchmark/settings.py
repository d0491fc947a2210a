"""What is measured and how often: the command's options as one frozen value."""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

QUICK = {
    "rounds": 2,
    "requests": 1,
    "serve_rounds": 1,
    "clients": (1, 2),
    "batches": (1, 8),
    "sequences": (16, 128),
    "min_cell_sec": 0.05,
    "quality_tokens": 512,
}


@dataclass(frozen=True)
class Settings:
    """`prompt_tokens` and `decode_tokens` are the stated mix, on which the verdict rests.

    `requests` are made by each engine in each of `rounds`; `serve_rounds` rounds follow for the
    `clients` at once. An encoder's batch is repeated for `min_cell_sec` in each round. `threads`
    None sweeps. Limits: mean KLD in nats, loss of accuracy and
    agreement with FP32 (where texts have no labels) as shares of 1, mean cosine.
    """

    rounds: int = 5
    requests: int = 3
    serve_rounds: int = 2
    prompt_tokens: int = 256
    decode_tokens: int = 32
    threads: int | None = None
    clients: tuple[int, ...] = (1, 2, 4, 8, 16)
    batches: tuple[int, ...] = (1, 8, 32)
    sequences: tuple[int, ...] = (16, 128, 512)
    min_cell_sec: float = 0.3
    max_cell_runs: int = 50
    alike: bool = True  # the same logits in every prefill, else what each ONNX file computes
    quality_tokens: int = 2048
    max_kld: float = 0.03
    max_accuracy_loss: float = 0.005
    min_agreement: float = 0.985
    min_cosine: float = 0.99
    seed: int = 0

    def quick(self) -> Settings:
        """The same with few rounds, clients and shapes: a look, not a result."""
        return replace(self, **QUICK)  # type: ignore[arg-type]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class Request:
    """What to measure: a checkpoint, a bundle, or both; files given are not built.

    `onnx` and `int8` are folders with an ONNX model, `gguf` further files; `engines` limits the
    run to these names; `work` keeps what is built; `out` takes the results.
    """

    model: str | None = None
    bundle: Path | None = None
    onnx: Path | None = None
    int8: Path | None = None
    gguf: tuple[Path, ...] = ()
    shape: str | None = None
    engines: tuple[str, ...] | None = None
    text: Path | None = None
    task: Path | None = None
    work: Path = Path("build/benchmark")
    out: Path = Path("build/benchmark/results")
    settings: Settings = Settings()
