"""The one list of stages: name → module, imported when used."""

from __future__ import annotations

import importlib
from typing import Any

from common.errors import UserError, near_names

STAGES = {
    "import-pickle": "toolchain.checkpoint.pickle_import",
    "prepare": "toolchain.data.prepare.stage",
    "prune": "toolchain.compress.prune.stage",
    "prune-vocab": "toolchain.compress.prune_vocab.stage",
    "sparsify": "toolchain.compress.sparse.stage",
    "awq": "toolchain.compress.awq.stage",
    "gptq": "toolchain.compress.gptq.stage",
    "student": "toolchain.compress.distill.student.stage",
    "teacher-cache": "toolchain.compress.distill.cache.stage",
    "finetune": "toolchain.train.finetune",
    "distill": "toolchain.compress.distill.stage",
    "merge": "toolchain.compress.merge",
    "evaluate": "toolchain.evaluate.measure",
    "probe": "toolchain.ledger.probe",
    "convert": "toolchain.export.gguf.convert",
    "convert-adapter": "toolchain.export.gguf.convert_adapter",
    "imatrix": "toolchain.export.gguf.imatrix",
    "tensor-costs": "toolchain.export.gguf.mixed.costs",
    "mixed-types": "toolchain.export.gguf.mixed.stage",
    "quantize": "toolchain.export.gguf.quantize",
    "onnx-export": "toolchain.export.onnx.export",
    "onnx-smooth": "toolchain.export.onnx.smooth",
    "onnx-quantize": "toolchain.export.onnx.quantize",
    "parity": "toolchain.evaluate.parity",
    "quality": "toolchain.evaluate.quality",
    "onnx-encoder-export": "toolchain.export.onnx.encoder_export",
    "onnx-encoder-quantize": "toolchain.export.onnx.encoder_quantize",
    "onnx-encoder-sensitivity": "toolchain.export.onnx.sensitivity",
    "onnx-encoder-quality": "toolchain.export.onnx.encoder_check",
    "exact-quality": "toolchain.evaluate.exact_quality",
    "onnx-parity": "toolchain.evaluate.onnx_parity",
    "onnx-quality": "toolchain.evaluate.onnx_quality",
    "bundle": "toolchain.export.bundle",
    "search-reference": "toolchain.search.reference",
    "search-kld": "toolchain.search.divergence",
}


def stage(name: str) -> Any:
    """The module of a stage."""
    if name not in STAGES:
        raise UserError(f"unknown stage '{name}'", near_names(name, STAGES))
    return importlib.import_module(STAGES[name])
