"""Stage `prune`: a checkpoint becomes a smaller stock checkpoint of the same architecture.

hf → hf. Scores come from one pass over calibration text, layer by layer; the shapes that would do
are made and measured against the original, and the nearest is kept. Outputs behind the cuts are
solved anew (`recover.py`).
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from common.scratch import ScratchFolder
from toolchain import artifact as artifacts
from toolchain.artifact import Artifact
from toolchain.checkpoint.inspect import inspect
from toolchain.checkpoint.intake import FORMAT, measurements, require_checkpoint
from toolchain.compress.prune.settings import Prune
from toolchain.hf import idle_threads
from toolchain.stage import Input, StageConfig

if TYPE_CHECKING:
    from targets.schema import Target
    from toolchain.checkpoint.info import CheckpointInfo
    from toolchain.compress.prune.calibration import Batch
    from toolchain.compress.prune.candidates import Candidate, Choices
    from toolchain.compress.prune.cut import Cut
    from toolchain.compress.prune.layout import Layout
    from toolchain.compress.prune.scores import Scores

NAME = "prune"
VERSION = 5
TOOLS = ("accelerate", "torch", "transformers")
# Beyond it a candidate is chosen by its scores: making each would cost more than it tells.
_MOST_MEASURED_BYTES = 4_000_000_000
_MEASURED_TOKENS = 4096


class Config(StageConfig):
    """`text` is the calibration text; `target` the device profile whose decode speed is the aim."""

    text: Input
    target: dict[str, Any] | None = None
    settings: Prune = Prune()
    trust_remote_code: bool = False


def run(source: Artifact, config: Config, out_dir: Path) -> Artifact:
    """Prune. Raises `UserError` when the aim cannot be met or the architecture is not known."""
    from targets.schema import Target
    from toolchain.compress.prune.calibration import read_batches
    from toolchain.compress.prune.candidates import find_candidates
    from toolchain.compress.prune.layout import find_layout
    from toolchain.compress.prune.per_layer import require_layout
    from toolchain.compress.prune.scores import score

    require_checkpoint(source, NAME)
    start, settings = time.perf_counter(), config.settings
    info = inspect(source.path)
    layout = find_layout(info)
    target = None if config.target is None else Target.model_validate(config.target)
    if settings.per_layer:
        require_layout(info, layout)
    choices = find_candidates(info, layout, settings, target)
    batches = read_batches(
        config.text.path,
        source.path,
        settings.calibration_tokens,
        settings.seed,
        trust_remote_code=config.trust_remote_code,
    )
    before = time.perf_counter()
    with idle_threads():
        scores = score(info, layout, batches, settings)
    score_sec = time.perf_counter() - before
    maker = _Maker(source, info, layout, settings, batches, scores)
    chosen, tried = _choose(maker, choices)
    maker.make(chosen, out_dir)
    made = inspect(out_dir)
    decode = _decode(choices, chosen, target, source, out_dir, settings.file_type)
    return artifacts.describe(
        out_dir,
        format=FORMAT,
        stage=NAME,
        config=config.model_dump(mode="json"),
        parents=[source.digest, config.text.digest],
        versions={tool: version(tool) for tool in TOOLS},
        measurements={
            **measurements(made),
            "parameters_before": choices.parameters,
            "parameters_after": chosen.parameters,
            "aim": choices.aim.text,
            "ratio": chosen.ratio,
            "shape_before": choices.original.text(),
            "shape": maker.cut(chosen).text(),
            "sizes": _sizes(info, made, settings.file_type),
            "decode": decode,
            "kept_layers": list(maker.cut(chosen).layers),
            "width_step": chosen.step,
            "notes": list(choices.notes),
            "candidates": tried,
            "calibration_tokens": sum(batch.tokens for batch in batches),
            "score_sec": round(score_sec, 3),
            "wall_sec": round(time.perf_counter() - start, 3),
        },
    )


class _Maker:
    """Makes checkpoints of candidates; all it needs is at hand."""

    def __init__(
        self,
        source: Artifact,
        info: CheckpointInfo,
        layout: Layout,
        settings: Prune,
        batches: Sequence[Batch],
        scores: Scores,
    ) -> None:
        from toolchain.compress.prune.cut import layer_kinds
        from toolchain.compress.prune.shape import read_shape

        self.source, self.info, self.layout = source, info, layout
        self.settings, self.batches, self.scores = settings, batches, scores
        self.shape, self.kinds = read_shape(info, layout), layer_kinds(info, layout)

    def cut(self, candidate: Candidate) -> Cut:
        """What of the original stays."""
        from toolchain.compress.prune.cut import choose_cut, with_widths
        from toolchain.compress.prune.per_layer import group_unit, spread

        cut = choose_cut(self.shape, candidate.shape, self.scores, self.kinds)
        if not candidate.spread:
            return cut
        unit = group_unit(cut, candidate.step)
        groups = spread(self.scores.groups, cut.layers, cut.shape.groups, unit)
        ffn = spread(self.scores.ffn, cut.layers, cut.shape.ffn, candidate.step)
        return with_widths(cut, self.scores, groups, ffn)

    def cost(self, candidate: Candidate) -> float:
        """What the scores expect."""
        from toolchain.compress.prune.cut import expected_cost

        return expected_cost(self.cut(candidate), self.scores)

    def make(
        self, candidate: Candidate, out_dir: Path, batches: Sequence[Batch] | None = None
    ) -> Path:
        """Write the candidate's checkpoint; recovery sees `batches`, all of them by default."""
        from toolchain.compress.prune.make import make_checkpoint

        seen = self.batches if batches is None else batches
        fitted_on = seen if self.settings.recover else ()
        make_checkpoint(
            self.source, self.info, self.layout, self.cut(candidate), fitted_on, out_dir
        )
        return out_dir


def _choose(maker: _Maker, choices: Choices) -> tuple[Candidate, list[dict[str, Any]]]:
    """The candidate nearest to the original, and what is known of those looked at."""
    from toolchain.compress.prune.measure import divergence, reference

    few = _few(maker, choices)
    if len(few) == 1 or maker.info.weight_bytes > _MOST_MEASURED_BYTES:
        best = _best(few, list(map(maker.cost, few)))
        return few[best], [_record(maker, few[best], None)]
    fitted_on, measured_on = _halves(maker.batches)
    held = reference(maker.source.path, measured_on)
    klds = []
    for candidate in few:
        with ScratchFolder("prune") as folder:
            klds.append(divergence(maker.make(candidate, Path(folder), fitted_on), held))
    best = _best(few, klds)
    return few[best], [_record(maker, c, kld) for c, kld in zip(few, klds, strict=True)]


def _best(few: Sequence[Candidate], losses: Sequence[float]) -> int:
    """Which of them loses least. One in finer steps than others has to be worth it: its file has
    more bits per weight."""
    from toolchain.compress.prune.candidates import WORTH_FALLING_BACK

    coarsest = max(candidate.step for candidate in few)
    whole = [at for at, candidate in enumerate(few) if candidate.step == coarsest]
    best, best_whole = (min(places, key=losses.__getitem__) for places in (range(len(few)), whole))
    return best if losses[best] < WORTH_FALLING_BACK * losses[best_whole] else best_whole


def _few(maker: _Maker, choices: Choices) -> list[Candidate]:
    """The candidates with the least expected cost, as many as the settings say, and of each step
    of widths at least one. With widths per layer every second one is the same shape with even
    widths: the scores of different layers are not always to be compared, and then those are
    nearer."""
    most = maker.settings.candidates
    if not maker.settings.per_layer:
        return _foremost(maker, choices.found, most)
    spread = [dataclasses.replace(candidate, spread=True) for candidate in choices.found]
    best = _foremost(maker, spread, max(1, most // 2))
    even = [dataclasses.replace(candidate, spread=False) for candidate in best]
    return [one for pair in zip(best, even, strict=True) for one in pair][:most]


def _foremost(maker: _Maker, found: Sequence[Candidate], most: int) -> list[Candidate]:
    ordered = sorted(found, key=maker.cost)
    steps = sorted({candidate.step for candidate in found}, reverse=True)
    firsts = [next(c for c in ordered if c.step == step) for step in steps]
    return [*firsts, *(c for c in ordered if c not in firsts)][: max(most, len(firsts))]


def _sizes(before: CheckpointInfo, after: CheckpointInfo, file_type: str) -> dict[str, Any]:
    """File size and bytes that decoding reads per token in the type that comes, before and after;
    nothing where the architecture has no GGUF or the type is none."""
    from toolchain.plan import type_sizes

    try:
        old, new = (type_sizes(info, [file_type])[0] for info in (before, after))
    except UserError:
        return {}
    return {
        "quantization": old.quantization,
        "file_bytes": [old.weights_bytes, new.weights_bytes],
        "bytes_read_per_token": [old.bytes_read_per_token, new.bytes_read_per_token],
    }


def _decode(
    choices: Choices,
    chosen: Candidate,
    target: Target | None,
    source: Artifact,
    out_dir: Path,
    file_type: str,
) -> dict[str, Any] | None:
    """Decode speed before and after, as it is expected on the target and as llama.cpp has it on
    this machine; None where speed was not the aim."""
    from toolchain.compress.prune.speed import checkpoint_speeds

    if choices.sec is None or target is None:
        return None
    expected = [round(1 / choices.sec(shape), 3) for shape in (choices.original, chosen.shape)]
    return {
        "target": target.name,
        "expected_tokens_per_sec": expected,
        "measured_tokens_per_sec": checkpoint_speeds([source.path, out_dir], file_type),
    }


def _record(maker: _Maker, candidate: Candidate, kld: float | None) -> dict[str, Any]:
    return {
        "shape": maker.cut(candidate).text(),
        "ratio": round(candidate.ratio, 4),
        "expected_cost": round(maker.cost(candidate), 6),
        "kld": None if kld is None else round(kld, 6),
    }


def _halves(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Two sets of about `_MEASURED_TOKENS` tokens, spread over all lengths, that share none: what
    a fit has seen would flatter it."""
    tokens = sum(batch.tokens for batch in batches)
    every = max(2, tokens // _MEASURED_TOKENS)
    first = list(batches[::every])
    return first, list(batches[1::every]) or first
