"""Sequences that an ONNX decoder computes together, with their KV cache.

A builder's graph takes a batch padded on the right and can write new keys and values into the
buffer that holds the old ones; torch's graph takes it padded on the left and returns the cache
grown by what is new.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from runtimes.ort import explain
from runtimes.ort_graph import ALL_POSITIONS, LOGITS_START, DecoderGraph

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class OrtSequences:
    """Prompts and up to `new_tokens` tokens after each, computed by `session` in step."""

    def __init__(
        self,
        session: Any,
        graph: DecoderGraph,
        file: Path,
        prompts: Sequence[Sequence[int]],
        new_tokens: int,
    ) -> None:
        self._session, self._graph, self._file = session, graph, file
        self._prompts = prompts
        self._lengths = [len(prompt) for prompt in prompts]
        self._width = max(self._lengths)
        self._steps = 0
        self._cache = self._empty_cache(self._width + new_tokens)

    def prefill(self, *, all_positions: bool = False) -> NDArray[np.float32]:
        """Run the prompts: logits after each one's last token, `[prompts, vocabulary]`.

        With `all_positions` of every position, `[prompts, width, vocabulary]`; rows of padding
        hold nothing of meaning.
        """
        import numpy as np

        right = self._graph.padding == "right"
        ids = np.zeros((len(self._prompts), self._width), np.int64)
        for i, prompt in enumerate(self._prompts):
            ids[i, self._columns(i)] = prompt
        uneven = right and min(self._lengths) < self._width
        rows = self._run(ids, all_positions or uneven)
        if all_positions:
            return rows
        last = [length - 1 if right and uneven else -1 for length in self._lengths]
        return rows[np.arange(len(rows)), last]

    def step(self, tokens: Sequence[int]) -> NDArray[np.float32]:
        """Append a token to each sequence: logits after it, `[prompts, vocabulary]`."""
        import numpy as np

        self._steps += 1
        return self._run(np.asarray(tokens, np.int64)[:, None], False)[:, -1]

    def inputs(self, tokens: Sequence[int]) -> dict[str, Any]:
        """Inputs of the graph for a single prompt without any past, its cache included."""
        import numpy as np

        ids = np.asarray([tokens], np.int64)
        empty = [
            np.zeros((1, heads, 0, size), np.float32)
            for heads, size in zip(self._graph.heads, self._graph.head_size, strict=True)
        ]
        found: dict[str, Any] = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
        if self._graph.position_ids:
            found["position_ids"] = np.arange(ids.shape[1], dtype=np.int64)[None]
        return found | dict(zip(self._graph.past, empty, strict=True))

    def _columns(self, i: int) -> slice:
        """Where prompt `i` lies in the padded batch."""
        if self._graph.padding == "right":
            return slice(0, self._lengths[i])
        return slice(self._width - self._lengths[i], self._width)

    def _mask(self) -> NDArray[np.int64]:
        import numpy as np

        mask = np.zeros((len(self._prompts), self._width + self._steps), np.int64)
        for i in range(len(mask)):
            columns = self._columns(i)
            mask[i, columns.start : columns.stop + self._steps] = 1
        return mask

    def _run(self, ids: NDArray[np.int64], all_positions: bool) -> NDArray[np.float32]:
        import numpy as np

        mask = self._mask()
        inputs = {"input_ids": ids, "attention_mask": mask}
        if self._graph.position_ids:
            inputs["position_ids"] = np.maximum(mask.cumsum(-1) - 1, 0)[:, -ids.shape[1] :]
        if self._graph.last_only and all_positions:
            inputs[LOGITS_START] = np.array([ALL_POSITIONS], np.int64)
        try:
            if self._graph.shared_cache:
                return self._run_shared(inputs)
            outputs = self._session.run(
                ["logits", *self._graph.present],
                inputs | dict(zip(self._graph.past, self._cache, strict=True)),
            )
        except Exception as error:  # onnxruntime's exceptions share no base of their own
            raise explain(self._file, str(error)) from None
        self._cache = outputs[1:]
        logits: NDArray[np.float32] = outputs[0]
        return logits

    def _run_shared(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        """Past and present are the same buffers, so that nothing is copied."""
        import onnxruntime as ort

        binding = self._session.io_binding()
        for name, value in inputs.items():
            # `bind_cpu_input` knows no optional inputs.
            binding.bind_ortvalue_input(name, ort.OrtValue.ortvalue_from_numpy(value))
        for past, present, buffer in zip(
            self._graph.past, self._graph.present, self._cache, strict=True
        ):
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
        binding.bind_output("logits", "cpu")
        self._session.run_with_iobinding(binding)
        logits: NDArray[np.float32] = binding.get_outputs()[-1].numpy()
        return logits

    def _empty_cache(self, tokens: int) -> list[Any]:
        """Buffers for so many tokens where they are shared, else caches of length 0."""
        import numpy as np
        import onnxruntime as ort

        length = tokens if self._graph.shared_cache else 0
        shapes = zip(self._graph.heads, self._graph.head_size, strict=True)
        arrays = [np.zeros((len(self._prompts), h, length, d), np.float32) for h, d in shapes]
        if not self._graph.shared_cache:
            return arrays
        return [ort.OrtValue.ortvalue_from_numpy(array) for array in arrays]
