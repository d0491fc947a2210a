"""An encoder's ONNX graph in onnxruntime."""

from __future__ import annotations

import json
import platform
from pathlib import Path
from typing import Any

from runtimes.reports import keep_to_itself

from .bundle import CannotRun
from .machine import cpu_features
from .onnx_decoder import OnnxDecoder


class OnnxEncoder:
    """An encoder in onnxruntime: `encoder.json` beside the graph says what its rows mean."""

    name = "onnxruntime"

    def __init__(self, model: Path, threads: int) -> None:
        keep_to_itself()
        try:
            import numpy
            import onnxruntime
            import tokenizers
        except ImportError as error:
            raise CannotRun(f"{error}; get it with: {OnnxDecoder.install}") from None
        self._np: Any = numpy
        self.version = str(onnxruntime.__version__)
        self.features = " ".join([platform.machine(), *cpu_features()])
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.log_severity_level = 4
        try:
            self.facts = json.loads((model.parent / "encoder.json").read_text(encoding="utf-8"))
            self._tokenizer = tokenizers.Tokenizer.from_file(str(model.parent / "tokenizer.json"))
            self._tokenizer.enable_truncation(int(self.facts["max_tokens"]))
            self._tokenizer.no_padding()
            self._session = onnxruntime.InferenceSession(
                str(model), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:
            raise CannotRun(f"onnxruntime refuses {model.name}: {error}") from None

    def rows(self, texts: list[Any]) -> list[list[float]]:
        """The graph's output for each text or pair of texts, flat."""
        np = self._np
        found = [
            self._tokenizer.encode(text) if isinstance(text, str) else self._tokenizer.encode(*text)
            for text in texts
        ]
        longest = max(len(item.ids) for item in found)
        columns = {
            "input_ids": ("ids", int(self.facts["pad_token_id"])),
            "attention_mask": ("attention_mask", 0),
            "token_type_ids": ("type_ids", 0),
        }
        feed = {}
        for name in self.facts["inputs"]:
            field_name, fill = columns[name]
            padded = [
                [*getattr(item, field_name), *[fill] * (longest - len(item.ids))] for item in found
            ]
            feed[name] = np.array(padded, dtype=np.int64)
        made = self._session.run(None, feed)[0]
        return [
            (row if row.ndim == 1 else row[: len(item.ids)]).astype(float).ravel().tolist()
            for row, item in zip(made, found)  # noqa: B905 (3.8)
        ]

    def label(self, row: list[float]) -> str:
        """The likeliest label of a classifier's row; nothing for other kinds."""
        if self.facts["task"] != "sequence-classification":
            return ""
        return str(self.facts["labels"][max(range(len(row)), key=lambda i: row[i])])
