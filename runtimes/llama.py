"""Run a GGUF file with llama.cpp: tokens, logits of every position, greedy answers, metadata.

    with LlamaModel(path, context_tokens=512) as model:
        answer = model.generate(model.tokenize("Hello"), max_new_tokens=32)

Works on llama.cpp's C interface (llama-cpp-python's ctypes functions): its high-level class keeps
no logits of all positions without a copy per token, and frees the model only when it is collected.
"""

from __future__ import annotations

import ctypes
import functools
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.closing import Closing
from common.errors import UserError
from runtimes.llama_handle import (
    Batch,
    apply_adapter,
    load_adapter,
    load_model,
    log_sink,
    open_context,
    token_text,
)
from runtimes.llama_parallel import generate_together
from runtimes.protocol import Generation, require_prompt, require_room
from runtimes.threads import idle_cores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


class LlamaModel(Closing):
    """A loaded GGUF. Implements `runtimes.protocol.Runtime`; not for use by several threads.

    `context_tokens` is the context of one sequence; `parallel` sequences can be decoded together
    by `generate_many`. `exact=True` keeps the KV cache in F32 and turns flash attention off: the
    nearest that llama.cpp comes to torch in float32. `threads=None` takes the cores that are idle
    now. `stop_texts` are texts of tokens that end an answer where the file cannot say so. `adapter`
    is a LoRA adapter (GGUF) on top. `vectors`: it gives `hidden` states in place of logits, as
    encoders do, whose batch must hold a whole text. `check_weights`: read them all and refuse NaN
    and Inf, for a file that no digest vouches for (a second for each GB). Raises `UserError` with
    llama.cpp's message when a file does not load.
    """

    def __init__(
        self,
        path: Path,
        *,
        context_tokens: int,
        threads: int | None = None,
        exact: bool = False,
        gpu_layers: int = 0,
        batch_tokens: int = 512,
        kv_cache_type: str = "f16",
        parallel: int = 1,
        flash_attention: bool | None = None,
        stop_texts: Sequence[str] = (),
        adapter: Path | None = None,
        vectors: bool = False,
        check_weights: bool = False,
    ) -> None:
        import llama_cpp

        self.path = path
        self.context_tokens = context_tokens
        self.parallel = parallel
        self.threads = threads or idle_cores()
        self._stop_texts = tuple(stop_texts)
        self._context: Any = None
        self._batch: Batch | None = None
        self._model: Any = load_model(path, gpu_layers, check_weights=check_weights)
        try:
            self._context = open_context(
                self._model,
                context_tokens=context_tokens,
                batch_tokens=max(batch_tokens, parallel),
                parallel=parallel,
                threads=self.threads,
                kv_cache_type="f32" if exact else kv_cache_type,
                flash_attention=not exact if flash_attention is None else flash_attention,
                vectors=vectors,
            )
            if adapter is not None:
                apply_adapter(self._context, load_adapter(self._model, adapter))
            self._batch = Batch(max(batch_tokens, parallel))
            self._vocab = llama_cpp.llama_model_get_vocab(self._model)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Free batch, context and model, in this order."""
        import llama_cpp

        if self._batch is not None:
            self._batch.free()
        if self._context:
            llama_cpp.llama_free(self._context)
        if self._model:
            llama_cpp.llama_model_free(self._model)
        self._batch = self._context = self._model = None

    @functools.cached_property
    def metadata(self) -> dict[str, str]:
        """The file's key-value pairs; values as llama.cpp writes them, arrays shortened."""
        import llama_cpp

        read_key = llama_cpp.llama_model_meta_key_by_index
        read_value = llama_cpp.llama_model_meta_val_str_by_index
        return {
            _read_text(read_key, self._model, i): _read_text(read_value, self._model, i)
            for i in range(llama_cpp.llama_model_meta_count(self._model))
        }

    @property
    def chat_template(self) -> str | None:
        """The Jinja template inside the file."""
        import llama_cpp

        template = llama_cpp.llama_model_chat_template(self._model, None)
        try:
            return template.decode("utf-8") if template else None
        except UnicodeDecodeError:
            raise UserError(
                f"the chat template in {self.path} is no text", "make the file again"
            ) from None

    @property
    def train_context_tokens(self) -> int:
        import llama_cpp

        return int(llama_cpp.llama_model_n_ctx_train(self._model))

    @property
    def width(self) -> int:
        """Numbers of a hidden state."""
        import llama_cpp

        return int(llama_cpp.llama_model_n_embd(self._model))

    @property
    def vocab_size(self) -> int:
        import llama_cpp

        return int(llama_cpp.llama_vocab_n_tokens(self._vocab))

    @functools.cached_property
    def eog_token_ids(self) -> frozenset[int]:
        """Tokens at which llama.cpp and Ollama end an answer, and those of `stop_texts`."""
        import llama_cpp

        is_end = llama_cpp.llama_vocab_is_eog
        ends = frozenset(i for i in range(self.vocab_size) if is_end(self._vocab, i))
        more = [self.tokenize(text) for text in self._stop_texts]
        return ends | {ids[0] for ids in more if len(ids) == 1}

    @property
    def bos_token_id(self) -> int | None:
        import llama_cpp

        return _token_or_none(llama_cpp.llama_vocab_bos(self._vocab))

    @property
    def eos_token_id(self) -> int | None:
        import llama_cpp

        return _token_or_none(llama_cpp.llama_vocab_eos(self._vocab))

    def tokenize(
        self, text: str, *, add_special: bool = False, parse_special: bool = True
    ) -> list[int]:
        """Token ids. `add_special` adds BOS/EOS where the file says so; `parse_special` reads the
        text of special tokens as these tokens, as Hugging Face tokenizers do."""
        import llama_cpp

        data = text.encode("utf-8")
        room = 2 * len(data) + 16  # normalizers may lengthen a text
        tokens = (llama_cpp.llama_token * room)()
        count = llama_cpp.llama_tokenize(
            self._vocab, data, len(data), tokens, room, add_special, parse_special
        )
        if count < 0:
            raise UserError(f"llama.cpp cannot tokenize a text of {len(data)} bytes")
        return list(tokens[:count])

    def detokenize(self, token_ids: Sequence[int], *, special: bool = False) -> str:
        """The tokens' text; a leading space stays, special tokens appear only with `special`."""
        return token_text(self._vocab, token_ids, special=special)

    def logits(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Logits after each token, `[tokens, vocabulary]`, computed from an empty KV cache."""
        import llama_cpp
        import numpy as np

        require_room(self, len(token_ids))
        batch = self._emptied()
        result = np.empty((len(token_ids), self.vocab_size), np.float32)
        for start in range(0, len(token_ids), batch.capacity):
            part = token_ids[start : start + batch.capacity]
            batch.clear()
            for i, token in enumerate(part):
                batch.add(token, start + i, 0, wants_logits=True)
            batch.decode(self._context)
            rows = llama_cpp.llama_get_logits(self._context)
            shape = len(part), result.shape[1]
            result[start : start + len(part)] = np.ctypeslib.as_array(rows, shape)
        return result

    def hidden(self, token_ids: Sequence[int]) -> NDArray[np.float32]:
        """Last hidden states of a text, `[tokens, width]`."""
        import llama_cpp
        import numpy as np

        require_room(self, len(token_ids))
        batch = self._emptied()
        batch.clear()
        for i, token in enumerate(token_ids):
            batch.add(token, i, 0, wants_logits=True)
        batch.decode(self._context)
        rows = llama_cpp.llama_get_embeddings(self._context)
        return np.ctypeslib.as_array(rows, (len(token_ids), self.width)).copy()

    def generate(
        self,
        prompt_ids: Sequence[int],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> Generation:
        """The greedy continuation of a prompt (token ids, BOS included where the model wants one).

        Ends at one of `stop_ids` (default: the file's end-of-generation tokens; an empty sequence
        never stops) or after `max_new_tokens`.
        """
        stops = self.eog_token_ids if stop_ids is None else frozenset(stop_ids)
        require_prompt(self, prompt_ids, max_new_tokens)
        batch = self._emptied()
        start = time.perf_counter()
        self._prefill(batch, prompt_ids)
        token = self._best_token()
        first = time.perf_counter()
        tokens: list[int] = []
        while token not in stops:
            tokens.append(token)
            if len(tokens) == max_new_tokens:
                break
            batch.clear()
            batch.add(token, len(prompt_ids) + len(tokens) - 1, 0, wants_logits=True)
            batch.decode(self._context)
            token = self._best_token()
        return Generation(
            token_ids=tuple(tokens),
            text=self.detokenize(tokens),
            stopped=token in stops,
            ttft_sec=first - start,
            decode_sec=time.perf_counter() - first,
        )

    def generate_many(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int] | None = None,
    ) -> list[Generation]:
        """Greedy continuations of several prompts, `parallel` of them decoded together.

        Batched kernels may round otherwise than those of `generate`, so where two tokens are almost
        equally likely an answer can differ from that of `generate`.
        """
        stops = self.eog_token_ids if stop_ids is None else frozenset(stop_ids)
        for prompt in prompts:
            require_prompt(self, prompt, max_new_tokens)
        return generate_together(
            self._context,
            self._emptied(),
            prompts,
            slots=self.parallel,
            max_new_tokens=max_new_tokens,
            stops=stops,
            vocab_size=self.vocab_size,
            to_text=self.detokenize,
        )

    def _emptied(self) -> Batch:
        import llama_cpp

        if self._batch is None:
            raise ValueError("the model is closed")
        log_sink().start()
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self._context), True)
        return self._batch

    def _prefill(self, batch: Batch, prompt_ids: Sequence[int]) -> None:
        for start in range(0, len(prompt_ids), batch.capacity):
            batch.clear()
            for i in range(start, min(start + batch.capacity, len(prompt_ids))):
                batch.add(prompt_ids[i], i, 0, wants_logits=i == len(prompt_ids) - 1)
            batch.decode(self._context)

    def _best_token(self) -> int:
        import llama_cpp
        import numpy as np

        row = llama_cpp.llama_get_logits_ith(self._context, -1)
        return int(np.ctypeslib.as_array(row, (self.vocab_size,)).argmax())


def _token_or_none(token: int) -> int | None:
    return token if token >= 0 else None


def _read_text(read: Any, model: Any, index: int) -> str:
    """Read a string that llama.cpp copies into a buffer, whatever its length."""
    length = read(model, index, ctypes.create_string_buffer(1), 1)
    buffer = ctypes.create_string_buffer(max(length, 0) + 1)
    read(model, index, buffer, len(buffer))
    return buffer.value.decode("utf-8", "replace")
