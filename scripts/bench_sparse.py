"""Zeros by `sparsify` against the procedures as published, on one model and one calibration text.

    python scripts/bench_sparse.py --model PATH --text calibration.jsonl --held-out held.jsonl

The other side is written down here as the papers' own code has it, over plain transformers: Wanda
(Sun et al. 2023, arXiv:2306.11695), SparseGPT (Frantar and Alistarh 2023, arXiv:2301.00774) and
magnitude per matrix, as both compare with it. It shares nothing with `sparsify` but the rows of
calibration tokens. Every result is rounded to the checkpoint's type before it is measured. Prints
one JSON object a line; perplexity by method and seed (which calibration text is taken). Exit 1 when
ours is behind a published procedure by more than 0.1 %, averaged over the seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

if TYPE_CHECKING:
    import torch

METHODS = ("magnitude", "wanda", "sparsegpt")
_BLOCK_COLUMNS, _DAMPING = 128, 0.01  # of the published SparseGPT
_TOLERANCE = 1.001
Rows = Sequence["torch.Tensor"]


def main() -> int:
    """Measure, print."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("--model", type=Path, required=True, help="folder of a decoder")
    parser.add_argument("--text", type=Path, required=True, help="calibration text")
    parser.add_argument("--held-out", type=Path, required=True, help="other text")
    parser.add_argument("--sparsity", type=float, default=0.5, help="share of zeros (default: 0.5)")
    parser.add_argument("--methods", default=",".join(METHODS), help="some of them")
    parser.add_argument("--seeds", type=int, default=3, help="calibrations (default: 3)")
    parser.add_argument("--calibration-tokens", type=int, default=16384)
    parser.add_argument("--tokens", type=int, default=16384, help="held-out tokens")
    args = parser.parse_args()
    from toolchain.data.text import calibration_text, evaluation_text, require_held_out

    texts = calibration_text(args.model, args.text), evaluation_text(args.model, args.held_out)
    require_held_out(*texts)
    held = _token_rows(args.held_out, args.model, args.tokens, 0)
    print(json.dumps({"method": "original", "perplexity": _perplexity(_load(args.model), held)}))
    found: dict[tuple[str, str], list[float]] = {}
    methods = args.methods.split(",")
    for method in methods:
        for seed in range(args.seeds):
            rows = _token_rows(args.text, args.model, args.calibration_tokens, seed)
            pair = {
                "published": _published(args.model, method, rows, args.sparsity),
                "ours": _ours(args, method, seed),
            }
            for side, network in pair.items():
                figure = {"perplexity": _perplexity(network, held), "zeros": _zeros(network)}
                row = {"method": method, "side": side, "seed": seed, **figure}
                print(json.dumps(row), flush=True)
                found.setdefault((method, side), []).append(figure["perplexity"])
    means = {key: statistics.fmean(values) for key, values in found.items()}
    behind = [m for m in methods if means[m, "ours"] > _TOLERANCE * means[m, "published"]]
    named = {" ".join(key): round(mean, 3) for key, mean in means.items()}
    print(json.dumps({"sparsity": args.sparsity, "means": named, "behind": behind}))
    return 1 if behind else 0


def _token_rows(text: Path, model: Path, tokens: int, seed: int) -> Rows:
    """The tokens that `sparsify` takes of the text, row by row and without padding, [1, tokens]."""
    from toolchain.compress.prune.calibration import read_batches

    batches = read_batches(text, model, tokens, seed)
    pairs = [pair for b in batches for pair in zip(b.ids, b.valid, strict=True)]
    return [ids[valid][None] for ids, valid in pairs]


def _load(model: Path) -> Any:
    """In float32, as a network of plain transformers."""
    import torch
    import transformers

    network = transformers.AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    return network.eval().requires_grad_(False)


def _perplexity(network: Any, rows: Rows) -> float:
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for ids in rows:
            logits = network(input_ids=ids).logits[0, :-1].float()
            total += float(torch.nn.functional.cross_entropy(logits, ids[0, 1:], reduction="sum"))
            count += ids.shape[1] - 1
    return math.exp(total / count)


def _linears(network: Any) -> Iterator[tuple[int, dict[str, Any]]]:
    """The linear modules of each layer."""
    import torch

    for number, layer in enumerate(network.model.layers):
        own = layer.named_modules()
        yield number, {name: one for name, one in own if isinstance(one, torch.nn.Linear)}


def _zeros(network: Any) -> float:
    own = [one.weight for _, modules in _linears(network) for one in modules.values()]
    return float(sum(int((w == 0).sum()) for w in own) / sum(w.numel() for w in own))


def _ours(args: argparse.Namespace, method: str, seed: int) -> Any:
    from toolchain.checkpoint.intake import checkpoint_for_build
    from toolchain.compress.sparse import stage
    from toolchain.compress.sparse.settings import Sparsify
    from toolchain.pipeline import Workspace, run_stage
    from toolchain.stage import Input

    settings = Sparsify.model_validate({
        "method": method, "sparsity": args.sparsity, "seed": seed,
        "calibration_tokens": args.calibration_tokens,
    })  # fmt: skip
    with tempfile.TemporaryDirectory(prefix="edgeforge-bench-") as out:
        workspace = Workspace(Path(out))
        source, _ = checkpoint_for_build(args.model, workspace)
        config = stage.Config(text=Input.of_file(args.text), settings=settings)
        return _load(run_stage(stage, source, config, workspace, lambda _line: None).path)


def _published(model: Path, method: str, rows: Rows, sparsity: float) -> Any:
    """Layer by layer, each seeing what went through the pruned layers before it."""
    import torch

    from toolchain.checkpoint.inspect import inspect

    network, stored = _load(model), inspect(model).config.get("dtype", "float32")
    prune = {"magnitude": _magnitude, "wanda": _wanda, "sparsegpt": _sparsegpt}[method]
    for _, modules in _linears(network):
        inputs = _inputs(network, modules, rows) if method != "magnitude" else {}
        for name, linear in modules.items():
            new = prune(linear.weight.data.clone(), inputs.get(name, []), sparsity)
            linear.weight.data = new.to(getattr(torch, stored)).float()
    return network


def _inputs(network: Any, modules: dict[str, Any], rows: Rows) -> dict[str, list[torch.Tensor]]:
    """What each module is fed with, one tensor [tokens, inputs] a row."""
    import torch

    seen: dict[str, list[torch.Tensor]] = {name: [] for name in modules}

    def keep(name: str) -> Callable[[Any, tuple[torch.Tensor, ...]], None]:
        return lambda _module, given: seen[name].append(given[0][0])

    hooks = [one.register_forward_pre_hook(keep(name)) for name, one in modules.items()]
    with torch.no_grad():
        for ids in rows:
            network(input_ids=ids)
    for hook in hooks:
        hook.remove()
    return seen


def _magnitude(weight: torch.Tensor, _: list[torch.Tensor], sparsity: float) -> torch.Tensor:
    limit = weight.abs().flatten().sort().values[int(weight.numel() * sparsity)]
    weight[weight.abs() <= limit] = 0
    return weight


def _wanda(weight: torch.Tensor, inputs: list[torch.Tensor], sparsity: float) -> torch.Tensor:
    """The running mean of each input's squared norm, then the lowest |W|·norm of each row."""
    import torch

    scaler = torch.zeros(weight.shape[1])
    for before, one in enumerate(inputs):
        scaler *= before / (before + 1)
        scaler += one.T.norm(p=2, dim=1) ** 2 / (before + 1)
    metric = weight.abs() * scaler.reshape(1, -1).sqrt()
    order = metric.sort(dim=-1, stable=True).indices
    return weight.scatter_(1, order[:, : int(weight.shape[1] * sparsity)], 0)


def _sparsegpt(weight: torch.Tensor, inputs: list[torch.Tensor], sparsity: float) -> torch.Tensor:
    """`add_batch` over all rows, then `fasterprune`."""
    import torch

    columns = weight.shape[1]
    hessian = torch.zeros(columns, columns)
    for before, one in enumerate(inputs):
        hessian *= before / (before + 1)
        scaled = (2 / (before + 1)) ** 0.5 * one.T
        hessian += scaled @ scaled.T
    dead = hessian.diagonal() == 0
    hessian[dead, dead] = 1
    weight[:, dead] = 0
    hessian.diagonal().add_(_DAMPING * hessian.diagonal().mean())
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(hessian))
    root = torch.linalg.cholesky(inverse, upper=True)
    for i1 in range(0, columns, _BLOCK_COLUMNS):
        i2 = min(i1 + _BLOCK_COLUMNS, columns)
        own, inner = weight[:, i1:i2].clone(), root[i1:i2, i1:i2]
        done, errors = torch.zeros_like(own), torch.zeros_like(own)
        scores = own**2 / inner.diagonal().reshape(1, -1) ** 2
        mask = scores <= scores.flatten().sort().values[int(scores.numel() * sparsity)]
        for i in range(i2 - i1):
            column, pivot = own[:, i], inner[i, i]
            kept = column.clone()
            kept[mask[:, i]] = 0
            done[:, i] = kept
            error = (column - kept) / pivot
            own[:, i:] -= error.unsqueeze(1).matmul(inner[i, i:].unsqueeze(0))
            errors[:, i] = error
        weight[:, i1:i2] = done
        weight[:, i2:] -= errors.matmul(root[i1:i2, i2:])
    return weight


if __name__ == "__main__":
    sys.exit(main())
