"""A model of any kind as lm-evaluation-harness asks it, on top of `runtimes.protocol.Runtime`.

Needs lm-eval (the extra `harness`), so it is imported only where a harness task is run. Contexts
and continuations are tokenized as the harness' own Hugging Face model does, so figures compare.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lm_eval.api.model import TemplateLM
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from common.progress import progress_bar
from toolchain.evaluate.logits import log_softmax

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from toolchain.models import OpenModel

_MAX_NEW_TOKENS = 256  # the harness' default


class HarnessModel(TemplateLM):  # type: ignore[misc, unused-ignore]  # lm_eval is not followed
    """`asked` says that a first request came: up to then only tasks were read."""

    backend = "causal"
    tokenizer = None

    def __init__(self, model: OpenModel) -> None:
        super().__init__()
        self._model = model
        self._scored: tuple[tuple[int, ...], NDArray[np.float64]] | None = None
        self.asked = False

    @property
    def eot_token_id(self) -> int:
        """Where a text ends; also what a text without context is conditioned on."""
        ends = sorted(self._model.runtime.eog_token_ids)
        return ends[0] if ends else 0

    @property
    def prefix_token_id(self) -> int:
        bos = self._model.bos_token_id
        return self.eot_token_id if bos is None else bos

    @property
    def max_length(self) -> int:
        return self._model.context_tokens

    def tok_encode(
        self, string: str, add_special_tokens: bool | None = None, **_: Any
    ) -> list[int]:
        """Token ids; a BOS that the text begins with is not written again."""
        bos = self._model.bos_token
        special = add_special_tokens is not False and not (bos and string.startswith(bos))
        return self._model.runtime.tokenize(string, add_special=special)

    def _loglikelihood_tokens(
        self, requests: Sequence[Any], disable_tqdm: bool = False, **_: Any
    ) -> list[tuple[float, bool]]:
        """Log-probability of each continuation, and whether it is the greedy one."""
        self.asked = True
        # Continuations of the same context one after the other: one token each takes one run.
        order = sorted(range(len(requests)), key=lambda i: tuple(requests[i][1]))
        found: dict[int, tuple[float, bool]] = {}
        with progress_bar("likelihoods", unit="request", total=len(requests)) as bar:
            for place in order:
                _strings, context, continuation = requests[place]
                found[place] = self._score(context, continuation)
                bar.update(1)
        return [found[place] for place in range(len(requests))]

    def loglikelihood_rolling(
        self, requests: Sequence[Any], disable_tqdm: bool = False
    ) -> list[float]:
        """Log-probability of whole texts, longer ones in windows as wide as the context."""
        self.asked = True
        sums = []
        for request in requests:
            windows = get_rolling_token_windows(
                token_list=self.tok_encode(request.args[0]),
                prefix_token=self.prefix_token_id,
                max_seq_len=self.max_length,
                context_len=1,
            )
            pairs = [make_disjoint_window(window) for window in windows]
            sums.append(sum(self._score(list(c), list(rest))[0] for c, rest in pairs))
        return sums

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        """Continuations up to the first of the stop texts, which is left out."""
        self.asked = True
        with progress_bar("answers", unit="request", total=len(requests)) as bar:
            answers = []
            for request in requests:
                answers.append(self._generate(*request.args))
                bar.update(1)
        return answers

    def _score(self, context: list[int], continuation: list[int]) -> tuple[float, bool]:
        import numpy as np

        wanted = np.asarray(continuation[-self.max_length :])
        inputs = tuple([*context, *continuation][-(self.max_length + 1) :][:-1])
        if self._scored is None or self._scored[0] != inputs or len(self._scored[1]) < len(wanted):
            rows = self._model.runtime.logits(list(inputs))
            self._scored = inputs, log_softmax(rows[-len(wanted) :])
        logs = self._scored[1][-len(wanted) :]
        total = float(logs[np.arange(len(wanted)), wanted].sum())
        return total, bool((logs.argmax(axis=1) == wanted).all())

    def _generate(self, context: str, settings: dict[str, Any]) -> str:
        until = settings.get("until") or []
        stops = [until] if isinstance(until, str) else [text for text in until if text]
        limit = int(settings.get("max_gen_toks") or _MAX_NEW_TOKENS)
        limit = min(limit, max(1, self.max_length // 2))
        prompt = self.tok_encode(context)[-(self.max_length - limit) :]
        sampled = bool(settings.get("do_sample"))
        temperature = float(settings.get("temperature") or 0.0) if sampled else 0.0
        made: list[int] = []
        text = ""
        for token in self._model.stream(prompt, limit, temperature=temperature, seed=0):
            made.append(token)
            text = self._model.runtime.detokenize(made)
            ends = [text.find(stop) for stop in stops if stop in text]
            if ends:
                return text[: min(ends)]
        return text
