"""A language model behind OpenAI's chat and plain completions.

The prompt, the stop tokens and the tokens themselves are those of `edgeforge generate`, whatever
engine runs the model, so a bundle answers here as it was recorded.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from common.errors import UserError
from toolchain.models import OpenModel
from toolchain.serve.answering import Answer, Asked
from toolchain.serve.errors import RequestError, stopping
from toolchain.serve.requests import ChatBody, CompletionBody, GenerationBody, read_body
from toolchain.serve.service import Events, Reply, model_id, now, require_model

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"
_BODIES: dict[str, type[GenerationBody]] = {CHAT: ChatBody, COMPLETIONS: CompletionBody}
_COMPLETION_TOKENS = 16  # what OpenAI's plain completions make unless told otherwise
_SEEDS = 1 << 64


class DecoderService:
    """Implements `toolchain.serve.service.Service`."""

    paths: tuple[str, ...] = tuple(_BODIES)

    def __init__(self, model: OpenModel) -> None:
        self._model = model
        self.name = model_id(model.name)
        self.facts: Mapping[str, Any] = {
            "context_tokens": model.context_tokens,
            "chat_template": bool(model.chat_template),
            **model.as_json(),
        }

    def read(self, path: str, body: Any) -> GenerationBody:
        """The body of a request. Raises `RequestError`."""
        asked = read_body(_BODIES[path], body)
        require_model(self, asked.model)
        return asked

    def answer(self, path: str, asked: GenerationBody, halted: Callable[[], bool]) -> Reply:
        """The whole answer, or the events of a stream. Raises `RequestError`."""
        prompt = self._prompt_ids(asked)
        answer = Answer(self._model, self._asked(asked, prompt), halted)
        form = _Form(path == CHAT, self.name, len(prompt))
        if asked.stream:
            return Events(form.events(answer, asked.with_usage))
        text = "".join(answer.pieces())
        if answer.finish_reason is None:
            raise stopping()
        return form.whole(text, answer)

    def _prompt_ids(self, asked: GenerationBody) -> list[int]:
        try:
            if isinstance(asked, ChatBody):
                return self._model.prompt_ids([message.plain() for message in asked.messages])
        except UserError as error:
            raise RequestError(str(error), param="messages") from None
        assert isinstance(asked, CompletionBody)  # the only other one
        prompt = asked.prompt
        if isinstance(prompt, str):
            return self._model.runtime.tokenize(prompt, add_special=True)
        if isinstance(prompt[0], str):
            return self._model.runtime.tokenize(prompt[0], add_special=True)
        ids = [int(token) for token in prompt]
        if max(ids) >= self._model.runtime.vocab_size:
            raise RequestError(f"the model has no token {max(ids)}", param="prompt")
        return ids

    def _asked(self, asked: GenerationBody, prompt: list[int]) -> Asked:
        """Longer answers than there is room for are made as long as there is room."""
        chat = isinstance(asked, ChatBody)
        room = self._model.context_tokens - len(prompt)
        param = "messages" if chat else "prompt"
        if not prompt:
            raise RequestError("the prompt is empty", param=param)
        if room < 1:
            raise RequestError(
                f"the prompt has {len(prompt)} tokens; with an answer it does not fit the context "
                f"of {self._model.context_tokens}",
                param=param,
                code="context_length_exceeded",
            )
        wanted = asked.max_tokens or (room if chat else _COMPLETION_TOKENS)
        if isinstance(asked, ChatBody) and asked.max_completion_tokens:
            wanted = asked.max_completion_tokens
        return Asked(
            prompt,
            max_tokens=min(wanted, room),
            temperature=asked.temperature or 0.0,
            top_p=asked.top_p or 1.0,
            seed=None if asked.seed is None else asked.seed % _SEEDS,
            stops=asked.stops,
        )


class _Form:
    """An answer in OpenAI's words."""

    def __init__(self, chat: bool, model: str, prompt_tokens: int) -> None:
        self._chat, self._prompt_tokens = chat, prompt_tokens
        number = uuid.uuid4().hex[:24]
        self._head = {
            "id": f"chatcmpl-{number}" if chat else f"cmpl-{number}",
            "created": now(),
            "model": model,
        }

    def whole(self, text: str, answer: Answer) -> dict[str, Any]:
        content: dict[str, Any] = {"text": text}
        if self._chat:
            content = {"message": {"role": "assistant", "content": text, "refusal": None}}
        kind = "chat.completion" if self._chat else "text_completion"
        choice = self._choice(content, answer.finish_reason)
        return {**self._head, "object": kind, "choices": [choice], "usage": self._usage(answer)}

    def events(self, answer: Answer, with_usage: bool) -> Iterator[dict[str, Any]]:
        """Chunks; a stream that was halted ends without a finish reason."""
        if self._chat:
            yield self._chunk({"delta": {"role": "assistant", "content": ""}})
        for piece in answer.pieces():
            yield self._chunk({"delta": {"content": piece}} if self._chat else {"text": piece})
        if answer.finish_reason is None:
            yield stopping().as_json()
            return
        yield self._chunk({"delta": {}} if self._chat else {"text": ""}, answer.finish_reason)
        if with_usage:
            yield {**self._chunk({}), "choices": [], "usage": self._usage(answer)}

    def _chunk(self, content: dict[str, Any], reason: str | None = None) -> dict[str, Any]:
        kind = "chat.completion.chunk" if self._chat else "text_completion"
        return {**self._head, "object": kind, "choices": [self._choice(content, reason)]}

    def _choice(self, content: dict[str, Any], reason: str | None) -> dict[str, Any]:
        return {"index": 0, **content, "logprobs": None, "finish_reason": reason}

    def _usage(self, answer: Answer) -> dict[str, int]:
        return {
            "prompt_tokens": self._prompt_tokens,
            "completion_tokens": answer.tokens,
            "total_tokens": self._prompt_tokens + answer.tokens,
        }
