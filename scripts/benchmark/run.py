"""The whole benchmark: inputs, machine, sweep, rounds, clients, quality, verdict."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from benchmark import decoders, encoders, onnx_stages
from benchmark.encoder_quality import encoder_quality
from benchmark.fleet import Fleet
from benchmark.inputs import Inputs, prepare
from benchmark.machine import (
    choose_cores,
    highest_bandwidths,
    load_summary,
    read_machine,
)
from benchmark.quality import decoder_quality, manifest_quality
from benchmark.records import Result
from benchmark.settings import Request, Settings
from benchmark.verdict import decoder_ratios, encoder_ratios, judge
from common.errors import UserError
from runtimes.energy import find_meter
from runtimes.timed import TimedOptions


def say_on_stderr(line: str) -> None:
    """Progress for people; results go to stdout."""
    print(line, file=sys.stderr, flush=True)


def benchmark(request: Request, say: Callable[[str], None] = say_on_stderr) -> Result:
    """Measure everything. Raises `UserError` for bad input; a slow or wrong INT8 file is no error
    but a fault in the result."""
    inputs = prepare(request, say)
    settings = _fitting(request.settings, inputs)
    cores = choose_cores(settings.threads)
    meter = find_meter()
    machine = read_machine(cores, meter)
    options = TimedOptions(1, settings.prompt_tokens + settings.decode_tokens)
    fleet = Fleet(
        inputs.kind,
        inputs.specs,
        cores,
        options,
        meter,
        free_bytes=int(machine["memory_available_bytes"]),
        say=say,
    )
    with fleet:
        run = _decoder_result if inputs.kind == "decoder" else _encoder_result
        result = run(fleet, inputs, settings, machine, request)
    bandwidths = highest_bandwidths(machine["read_bandwidth_bytes_per_sec"], fleet.bandwidths)
    machine["read_bandwidth_bytes_per_sec"] = bandwidths
    result.machine = {**machine, **load_summary(fleet.loads)}
    faults, notes = judge(result.kind, result.ratios, result.quality, settings)
    result.faults += faults
    result.notes += [*inputs.notes, *notes]
    if not fleet.keeps_loaded:
        result.notes.append("memory holds one model at a time: each was loaded anew for its turn")
    if (oversubscribed := settings.threads or 0) > len(os.sched_getaffinity(0)):
        result.notes.append(f"{oversubscribed} threads were asked for, more than there are cores")
    return result


def _decoder_result(
    fleet: Fleet,
    inputs: Inputs,
    settings: Settings,
    machine: dict[str, Any],
    request: Request,
) -> Result:
    vocab_size = int(inputs.config.get("vocab_size") or 0)
    notes = _work_alike(fleet, settings.alike)
    decoders.sweep_threads(fleet, settings, vocab_size)
    rows = decoders.run_requests(fleet, settings, vocab_size)
    single_peaks = dict(fleet.peaks)
    served = decoders.run_clients(fleet, settings, vocab_size)
    engines = decoders.engine_results(
        fleet, rows, served, single_peaks, inputs.kv_elements_per_token, settings
    )
    quality = manifest_quality(dict(inputs.manifest or {}))
    quality = quality or decoder_quality(fleet, inputs, settings, request.text)
    return Result(
        inputs.model,
        inputs.kind,
        settings.as_json(),
        machine,
        engines,
        fleet.measurements,
        decoder_ratios(fleet.measurements, engines),
        quality,
        notes=notes,
    )


def _encoder_result(
    fleet: Fleet,
    inputs: Inputs,
    settings: Settings,
    machine: dict[str, Any],
    request: Request,
) -> Result:
    vocab_size = int(inputs.config.get("vocab_size") or 0)
    cells = encoders.cells_of(settings, inputs.max_tokens)
    if not cells:
        raise UserError(
            f"no sequence length fits the model's {inputs.max_tokens} tokens",
            "give shorter --sequences",
        )
    encoders.sweep_threads(fleet, settings, cells, vocab_size)
    rows, energy = encoders.run_cells(fleet, settings, cells, vocab_size)
    engines = encoders.engine_results(fleet, rows, energy)
    return Result(
        inputs.model,
        inputs.kind,
        settings.as_json(),
        machine,
        engines,
        fleet.measurements,
        encoder_ratios(fleet.measurements, engines),
        manifest_quality(dict(inputs.manifest or {}))
        or encoder_quality(fleet, inputs, settings, request.task, request.text),
    )


def _work_alike(fleet: Fleet, alike: bool) -> list[str]:
    """Have all engines compute the same logits in prefill: those of every prompt token where an
    ONNX file does so, else those of the last one. Returns what to say of it."""
    every = {
        spec.name: onnx_stages.computes_all_logits(spec.path)
        for spec in fleet.specs
        if spec.engine == "onnxruntime"
    }
    wants_all = alike and any(every.values())
    fleet.options = replace(fleet.options, all_logits=wants_all)
    if not alike:
        shown = ", ".join(f"{name} of {'every' if e else 'the last'}" for name, e in every.items())
        others = "all other engines of the last prompt token"
        return [f"prefill logits are not alike: {shown}; {others}"]
    which = "every prompt token" if wants_all else "the last prompt token only"
    notes = [f"prefill computes logits of {which}, in all engines that can choose"]
    for name, computes_all in every.items():
        if wants_all and not computes_all:
            notes.append(
                f"{name} by itself computes the last token's logits only and is faster in prefill "
                "than shown here (--own-logits measures that)"
            )
    return notes


def _fitting(settings: Settings, inputs: Inputs) -> Settings:
    """Refuse a mix that the model has no room for."""
    room = settings.prompt_tokens + settings.decode_tokens
    if inputs.kind == "decoder" and inputs.max_tokens and room > inputs.max_tokens:
        raise UserError(
            f"{room} tokens do not fit {inputs.model}'s context of {inputs.max_tokens}",
            "give fewer --prompt-tokens or --decode-tokens",
        )
    return settings
