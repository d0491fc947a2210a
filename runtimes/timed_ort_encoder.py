"""An encoder's ONNX file in onnxruntime, timed: see `runtimes.timed`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import UserError
from runtimes.ort import SessionSettings, open_session, run_session
from runtimes.timed import TimedOptions

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_KNOWN = ("input_ids", "attention_mask", "token_type_ids", "position_ids")


class OrtEncoder:
    """Implements `runtimes.timed.TimedEncoder` over a graph of token ids and mask, whose first
    output counts: logits, an embedding, or hidden states (then averaged for `outputs`)."""

    def __init__(self, file: Path, options: TimedOptions) -> None:
        self.file = file
        self._session: Any = open_session(file, SessionSettings(threads=options.threads))
        self._inputs = [value.name for value in self._session.get_inputs()]
        foreign = [name for name in self._inputs if name not in _KNOWN]
        if foreign or "input_ids" not in self._inputs:
            raise UserError(
                f"{file} is no encoder of token ids: its inputs are {', '.join(self._inputs)}",
                f"give a graph with {', '.join(_KNOWN[:3])}",
            )

    @property
    def facts(self) -> Mapping[str, Any]:
        return {"inputs": self._inputs}

    def encode(self, token_ids: NDArray[np.int64]) -> float:
        import numpy as np

        start = time.perf_counter()
        run_session(self._session, self.file, self._feeds(token_ids, np.ones_like(token_ids)))
        return time.perf_counter() - start

    def outputs(self, token_ids: NDArray[np.int64], mask: NDArray[np.int64]) -> NDArray[np.float32]:
        result = run_session(self._session, self.file, self._feeds(token_ids, mask))
        rows: NDArray[np.float32] = result[0]
        if rows.ndim == 3 and self._session.get_outputs()[0].name != "logits":
            weights = mask[..., None].astype(rows.dtype)
            rows = (rows * weights).sum(1) / weights.sum(1)
        return rows

    def close(self) -> None:
        self._session = None

    def _feeds(self, ids: NDArray[np.int64], mask: NDArray[np.int64]) -> dict[str, Any]:
        """What the graph takes: segment ids are all 0, positions count up."""
        import numpy as np

        table = {
            "input_ids": ids,
            "attention_mask": mask,
            "token_type_ids": np.zeros_like(ids),
            "position_ids": np.broadcast_to(np.arange(ids.shape[1]), ids.shape),
        }
        return {name: table[name] for name in self._inputs}
