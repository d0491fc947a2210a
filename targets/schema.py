"""What a target file says about a device: typed, frozen, unknown keys are errors.

Hardware figures come with their public source (`sources`); everything else is this project's choice
for the device. Units are in the field names (`gib` is 2^30 bytes, `gb` is 10^9).
"""

from __future__ import annotations

import re
from typing import Annotated, Literal

from pydantic import Field, field_validator, model_validator

from common.errors import near_names
from common.strict import Strict
from targets.quantization import (
    ONNX_INT8_DECODER_VARIANTS,
    ONNX_VARIANTS,
    QUANTIZATIONS,
    canonical_quantization,
)

Scalar = bool | int | float | str
Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]
KvCacheType = Literal["f16", "q8_0", "q4_0"]
Share = Annotated[float, Field(ge=0, le=1)]

GIB = 1 << 30
ALL_LAYERS = -1

# Ollama's PARAMETER names (docs/modelfile.md and `api.Options`).
OLLAMA_PARAMETERS = (
    *("num_keep", "num_predict", "num_batch", "main_gpu", "use_mmap", "seed", "stop"),
    *("temperature", "top_k", "top_p", "min_p", "typical_p"),
    *("repeat_last_n", "repeat_penalty", "presence_penalty", "frequency_penalty"),
)
_DERIVED_PARAMETERS = {
    "num_ctx": "context_tokens",
    "num_thread": "threads",
    "num_gpu": "gpu_layers",
}


class Memory(Strict):
    """Main memory. `usable_gib` is what remains for the model beside the system."""

    total_gib: Positive
    usable_gib: Positive
    bandwidth_gb_per_sec: Positive

    @model_validator(mode="after")
    def _usable_within_total(self) -> Memory:
        if self.usable_gib > self.total_gib:
            raise ValueError("usable_gib exceeds total_gib")
        return self


class Processor(Strict):
    """The CPU. `arch` as `uname -m` says it; `instructions` as /proc/cpuinfo names them."""

    arch: Literal["x86_64", "aarch64", "armv7l", "riscv64"]
    cores: int = Field(ge=1)
    instructions: tuple[str, ...] = ()


class Accelerator(Strict):
    """What computes beside the CPU. `memory_gib` (usable) and its bandwidth: only when separate."""

    kind: Literal["none", "cuda", "metal", "vulkan"]
    name: str = ""
    memory: Literal["none", "unified", "separate"] = "none"
    memory_gib: Positive | None = None
    bandwidth_gb_per_sec: Positive | None = None
    compute_capability: str | None = Field(default=None, pattern=r"^\d+\.\d$")

    @model_validator(mode="after")
    def _is_consistent(self) -> Accelerator:
        if (self.kind == "none") != (self.memory == "none"):
            raise ValueError("memory is 'none' exactly when kind is 'none'")
        own = (self.memory_gib, self.bandwidth_gb_per_sec)
        if self.memory == "separate" and None in own:
            raise ValueError("separate memory needs memory_gib and bandwidth_gb_per_sec")
        if self.memory != "separate" and own != (None, None):
            raise ValueError("memory_gib and bandwidth_gb_per_sec are for separate memory only")
        if (self.kind == "cuda") != (self.compute_capability is not None):
            raise ValueError("compute_capability is needed for cuda, and for cuda only")
        return self


class QualityBudget(Strict):
    """How much quantization may cost, against the unquantized file on held-out text; and what a
    whole recipe may, against the original checkpoint, where the device sets a limit."""

    max_kld: Positive
    min_task_share: Share
    max_total_kld: Positive | None = None
    min_total_task_share: Share | None = None
    max_file_bytes: int | None = Field(default=None, ge=1)


class Onnx(Strict):
    """ONNX export: the INT8 variants that `auto` measures, and the mix of work that it weighs their
    speeds by: for decoders a prompt and an answer, for encoders a batch of sequences.

    `max_kld` is what INT8 may cost a decoder (mean, in nats, against FP32), `max_accuracy_drop` the
    share of a classifier's accuracy that may be lost (0.005: half a point).
    """

    variants: tuple[str, ...] = ONNX_INT8_DECODER_VARIANTS
    prefill_tokens: int = Field(default=256, ge=1)
    decode_tokens: int = Field(default=64, ge=1)
    batch_size: int = Field(default=8, ge=1)
    sequence_tokens: int = Field(default=128, ge=1)
    max_kld: Positive = 0.01
    max_accuracy_drop: Share = 0.005

    @field_validator("variants")
    @classmethod
    def _are_known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        unknown = [name for name in names if name not in ONNX_VARIANTS]
        if unknown or not names:
            listed = "; ".join(f"'{n}': {near_names(n, ONNX_VARIANTS)}" for n in unknown)
            raise ValueError(f"no ONNX variant: {listed or 'none named'}")
        return names


class SmokeThresholds(Strict):
    """What the finished bundle must reach on the device.

    On another machine the smoke test scales speeds by the ratio of measured memory bandwidths.
    `min_task_score_share` is the share of the task score measured at build time;
    `min_answers_equal` the share of recorded greedy answers that come out equal on another CPU or
    engine, whose kernels round differently (where they were recorded, all must).
    """

    min_prefill_tokens_per_sec: Positive
    min_decode_tokens_per_sec: Positive
    max_ttft_sec: Positive
    max_peak_rss_gib: Positive
    min_task_score_share: Share
    min_answers_equal: Share


class Ollama(Strict):
    """Modelfile PARAMETERs beyond those that follow from other fields of the target."""

    parameters: dict[str, Scalar] = Field(default_factory=dict)

    @field_validator("parameters")
    @classmethod
    def _are_known(cls, parameters: dict[str, Scalar]) -> dict[str, Scalar]:
        faults = []
        for name in parameters:
            if name in _DERIVED_PARAMETERS:
                faults.append(f"{name} follows from {_DERIVED_PARAMETERS[name]}, leave it out")
            elif name not in OLLAMA_PARAMETERS:
                faults.append(f"unknown parameter '{name}': {near_names(name, OLLAMA_PARAMETERS)}")
        if faults:
            raise ValueError("; ".join(faults))
        return parameters


class Target(Strict):
    """One device."""

    name: str = Field(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")
    title: str = Field(min_length=1)
    title_zh: str = Field(min_length=1)
    aliases: tuple[str, ...] = ()
    memory: Memory
    processor: Processor
    accelerator: Accelerator
    runtime: Literal["llama.cpp", "onnxruntime"] = "llama.cpp"
    quantization: tuple[str, ...] = Field(min_length=1)
    context_tokens: int = Field(ge=256)
    kv_cache_type: KvCacheType = "f16"
    gpu_layers: int = Field(default=0, ge=ALL_LAYERS)
    threads: Literal["auto"] | Annotated[int, Field(ge=1)] = "auto"
    quality: QualityBudget
    onnx: Onnx = Onnx()
    smoke: SmokeThresholds
    ollama: Ollama = Ollama()
    llama_cpp_build: tuple[str, ...] = ()
    sources: dict[str, str]

    @field_validator("quantization")
    @classmethod
    def _are_types(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        types = [canonical_quantization(name) for name in names]
        unknown = [name for name, known in zip(names, types, strict=True) if known is None]
        if unknown:
            listed = "; ".join(f"'{n}': {near_names(n, QUANTIZATIONS)}" for n in unknown)
            raise ValueError(f"no type of llama.cpp: {listed}")
        found = tuple(name for name in types if name is not None)
        if len(set(found)) != len(found):
            raise ValueError("a candidate is named twice")
        return found

    @field_validator("llama_cpp_build")
    @classmethod
    def _are_cmake_flags(cls, flags: tuple[str, ...]) -> tuple[str, ...]:
        wrong = [flag for flag in flags if not re.fullmatch(r"-D[A-Z0-9_]+=[\w;.+-]+", flag)]
        if wrong:
            raise ValueError(f"not of the form -DNAME=VALUE: {', '.join(wrong)}")
        return flags

    @model_validator(mode="after")
    def _is_consistent(self) -> Target:
        faults = [*self._accelerator_faults(), *self._source_faults()]
        if isinstance(self.threads, int) and self.threads > self.processor.cores:
            faults.append(f"threads ({self.threads}) exceeds cores ({self.processor.cores})")
        if self.smoke.max_peak_rss_gib > self.memory.total_gib:
            faults.append("smoke.max_peak_rss_gib exceeds memory.total_gib")
        if self.name in self.aliases:
            faults.append(f"alias '{self.name}' is the name itself")
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def _accelerator_faults(self) -> list[str]:
        if self.gpu_layers != 0 and self.accelerator.kind == "none":
            return ["gpu_layers needs an accelerator"]
        capability = self.accelerator.compute_capability
        if capability is None:
            return []
        flag = f"-DCMAKE_CUDA_ARCHITECTURES={capability.replace('.', '')}"
        return [] if flag in self.llama_cpp_build else [f"llama_cpp_build lacks {flag}"]

    def _source_faults(self) -> list[str]:
        """Every hardware figure needs a source, and every source a figure."""
        figures = self.hardware_figures()
        missing = [f"no source for {figure}" for figure in figures if figure not in self.sources]
        stray = [
            f"source for '{key}', which is no figure of this target ({near_names(key, figures)})"
            for key in self.sources
            if key not in figures
        ]
        empty = [f"source of {key} is empty" for key, text in self.sources.items() if not text]
        return [*missing, *stray, *empty]

    def hardware_figures(self) -> list[str]:
        """Names of the figures that need a source, as keys of `sources`."""
        figures = ["memory.total_gib", "memory.usable_gib", "memory.bandwidth_gb_per_sec"]
        figures.append("processor.cores")
        if self.processor.instructions:
            figures.append("processor.instructions")
        for key in ("memory_gib", "bandwidth_gb_per_sec", "compute_capability"):
            if getattr(self.accelerator, key) is not None:
                figures.append(f"accelerator.{key}")
        return figures

    def context_for(self, trained_context_tokens: int | None) -> int:
        """Context to run with: the target's, but no longer than the model was trained for."""
        if not trained_context_tokens:
            return self.context_tokens
        return min(self.context_tokens, trained_context_tokens)

    def decode_bandwidth_gb_per_sec(self) -> float:
        """Bandwidth of the memory that holds the weights."""
        own = self.accelerator.bandwidth_gb_per_sec
        return own if own is not None and self.gpu_layers != 0 else self.memory.bandwidth_gb_per_sec

    def ollama_parameters(self, trained_context_tokens: int | None = None) -> dict[str, Scalar]:
        """Modelfile PARAMETERs of this device. All GPU layers are Ollama's own default."""
        derived: dict[str, Scalar] = {"num_ctx": self.context_for(trained_context_tokens)}
        if isinstance(self.threads, int):
            derived["num_thread"] = self.threads
        if self.gpu_layers != ALL_LAYERS:
            derived["num_gpu"] = self.gpu_layers
        return {**derived, **self.ollama.parameters}
