"""Speed of a model on this CPU: ONNX INT8 against ONNX FP32, torch and llama.cpp, and the proof.

    python scripts/bench_cpu.py --model demo
    python scripts/bench_cpu.py --shape 200m --rounds 5 --out results/
    python scripts/bench_cpu.py --bundle build/edgeforge-demo/cpu-server --model demo

One run, interleaved rounds, each engine in a process of its own on free cores. The table goes to
standard output; `results.jsonl`, `results.csv` and `benchmark.html` go to --out. Exit code 1 when
the INT8 file is slower than FP32 in the stated mix or misses its quality gate, 2 for bad input.
See docs/benchmark.md.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
if __name__ == "__main__":
    sys.path[:0] = [str(ROOT)]

from benchmark.settings import Request, Settings  # noqa: E402

from common.errors import EXIT_BAD_INPUT, UserError  # noqa: E402

EXIT_FAILED = 1
_DEFAULTS = Settings()
# Options that stand for settings of the same name; None where not given: --quick may choose.
_NUMBERS = {
    "rounds": "interleaved rounds",
    "requests": "requests in each round",
    "serve_rounds": "rounds with several clients",
    "prompt_tokens": "prompt of the stated mix",
    "decode_tokens": "answer of the stated mix",
    "quality_tokens": "positions of text that are compared",
    "seed": "seed of the prompts",
}
_LISTS = {
    "clients": "clients at once; '' for none",
    "batches": "encoders: batch sizes",
    "sequences": "encoders: sequence lengths",
}
_LIMITS = {
    "max_kld": "mean KLD of a decoder, nats",
    "max_accuracy_loss": "share of a classifier's accuracy",
    "min_agreement": "share of a classifier's answers, where texts have no labels",
    "min_cosine": "mean cosine of embeddings",
}


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    options = _parser().parse_args(arguments)
    from benchmark.files import require_writable, write_files
    from benchmark.run import benchmark
    from benchmark.table import table

    try:
        request = request_of(options)
        require_writable(request.out)
        result = benchmark(request)
        paths = write_files(result, request.out)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        print("stopped; nothing was written", file=sys.stderr)
        return 130
    print(json.dumps(result.as_json(), indent=2, ensure_ascii=False) if options.json else
          table(result))  # fmt: skip
    print("written: " + ", ".join(map(str, paths)), file=sys.stderr)
    return 0 if result.passed else EXIT_FAILED


def request_of(options: argparse.Namespace) -> Request:
    """The options as a request; raises `UserError` for numbers that make no sense."""
    chosen: dict[str, Any] = {name: getattr(options, name) for name in (*_NUMBERS, *_LIMITS)}
    chosen |= {name: _numbers(f"--{name}", getattr(options, name)) for name in _LISTS}
    if options.threads != "auto":
        chosen["threads"] = _number("--threads", options.threads)
    base = _DEFAULTS.quick() if options.quick else _DEFAULTS
    given = {name: value for name, value in chosen.items() if value is not None}
    settings = replace(base, alike=not options.own_logits, **given)
    for name, least in {"rounds": 1, "requests": 1, "prompt_tokens": 1, "decode_tokens": 2}.items():
        if getattr(settings, name) < least:
            raise UserError(f"{_option(name)} must be at least {least}")
    engines = [name.strip() for name in (options.engines or "").split(",") if name.strip()]
    return Request(
        model=options.model,
        bundle=options.bundle,
        onnx=options.onnx,
        int8=options.int8,
        gguf=tuple(options.gguf),
        shape=options.shape,
        engines=tuple(engines) or None,
        text=options.text,
        task=options.task,
        work=options.work,
        out=options.out or options.work / "results",
        settings=settings,
    )


def _number(name: str, text: str) -> int:
    if not text.isdigit() or int(text) < 1:
        raise UserError(f"{name} is '{text}'", "give a whole number from 1 on")
    return int(text)


def _numbers(name: str, text: str | None) -> tuple[int, ...] | None:
    """`1,2,4` in rising order, each once; empty for an empty text, None for none."""
    if text is None:
        return None
    return tuple(sorted({_number(name, part.strip()) for part in text.split(",") if part.strip()}))


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parser() -> argparse.ArgumentParser:
    assert __doc__
    parser = argparse.ArgumentParser(
        description=__doc__.split("\n\n")[0],
        epilog=__doc__.split("\n\n", 1)[1],
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    what = parser.add_argument_group("what to measure")
    what.add_argument("--model", help="checkpoint: a folder, a hub id, or 'demo'")
    what.add_argument("--shape", help="a random model for speed alone: 200m, tiny")
    what.add_argument("--bundle", type=Path, help="an ONNX bundle: its INT8 file and its figures")
    what.add_argument("--onnx", type=Path, help="folder of the FP32 ONNX model (else built)")
    what.add_argument("--int8", type=Path, help="folder of the INT8 ONNX model (else built)")
    what.add_argument("--gguf", type=Path, nargs="+", default=[], help="GGUF files (else built)")
    what.add_argument("--engines", help="only these, e.g. onnx-fp32,onnx-int8,torch-bf16")
    how = parser.add_argument_group("how")
    for name, what_it_is in _NUMBERS.items():
        default = getattr(_DEFAULTS, name)
        how.add_argument(_option(name), type=int, help=f"{what_it_is} (default {default})")
    how.add_argument("--threads", default="auto", help="auto (sweep over free cores), or a number")
    for name, what_it_is in _LISTS.items():
        default = ",".join(map(str, getattr(_DEFAULTS, name)))
        how.add_argument(_option(name), help=f"{what_it_is} (default {default})")
    how.add_argument(
        "--own-logits",
        action="store_true",
        help="prefill as each ONNX file does it, not the same logits in all engines",
    )
    how.add_argument("--quick", action="store_true", help="few rounds and clients: a look only")
    gate = parser.add_argument_group("quality gate (a bundle's own limits go first)")
    gate.add_argument("--text", type=Path, help="held-out text (default: the model's own)")
    gate.add_argument("--task", type=Path, help="encoders: .jsonl of labelled texts")
    for name, what_it_is in _LIMITS.items():
        default = getattr(_DEFAULTS, name)
        gate.add_argument(_option(name), type=float, help=f"{what_it_is} (default {default})")
    out = parser.add_argument_group("output")
    out.add_argument("--work", type=Path, default=Request.work, help="where built files stay")
    out.add_argument("--out", type=Path, help="results (default: WORK/results)")
    out.add_argument("--json", action="store_true", help="the summary as JSON, not a table")
    return parser


if __name__ == "__main__":
    sys.exit(main())
