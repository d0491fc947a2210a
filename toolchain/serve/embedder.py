"""An embedding model behind OpenAI's /v1/embeddings."""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

from runtimes.protocol import Embedder
from toolchain.encoders import OpenEncoder
from toolchain.serve.errors import RequestError
from toolchain.serve.requests import EmbeddingBody, read_body
from toolchain.serve.service import Reply, model_id, require_model

EMBEDDINGS = "/v1/embeddings"


class EmbedderService:
    """Implements `toolchain.serve.service.Service`."""

    paths: tuple[str, ...] = (EMBEDDINGS,)

    def __init__(self, model: OpenEncoder[Embedder]) -> None:
        self._model = model
        self.name = model_id(model.name)
        self.facts: Mapping[str, Any] = model.as_json()

    def read(self, path: str, body: Any) -> EmbeddingBody:
        """The body of a request. Raises `RequestError`."""
        asked = read_body(EmbeddingBody, body)
        require_model(self, asked.model)
        if not all(text.strip() for text in asked.texts):
            raise RequestError("a text is empty", param="input")
        return asked

    def answer(self, path: str, asked: EmbeddingBody, halted: Callable[[], bool]) -> Reply:
        """A vector for each text. Texts longer than the model's limit are cut, as it was made to;
        tokens are not counted."""
        import numpy as np

        vectors = np.ascontiguousarray(self._model.engine.embed(asked.texts), np.float32)
        as_text = asked.encoding_format == "base64"
        rows = [
            {
                "object": "embedding",
                "index": index,
                "embedding": base64.b64encode(row.tobytes()).decode() if as_text else row.tolist(),
            }
            for index, row in enumerate(vectors)
        ]
        usage = {"prompt_tokens": 0, "total_tokens": 0}
        return {"object": "list", "data": rows, "model": self.name, "usage": usage}
