"""Bodies of OpenAI's requests, read strictly: what is not supported is refused, never ignored.

A field that is only supported at its neutral value (`n` = 1, no penalties, no tools) is taken at
that value, since many applications send it.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, StrictBool, StrictStr, ValidationError

from toolchain.serve.errors import RequestError

_MOST_STOPS = 16
Zero = Annotated[float, Field(ge=0, le=0)]
One = Annotated[int, Field(ge=1, le=1)]
Nothing = Annotated[list[Any] | dict[str, Any], Field(max_length=0)]
StopText = Annotated[str, Field(min_length=1, max_length=1000)]
Model = TypeVar("Model", bound=BaseModel)


class _Body(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    model: StrictStr | None = None
    user: StrictStr | None = None


class StreamOptions(BaseModel):
    """What a stream ends with."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    include_usage: StrictBool = False
    include_obfuscation: StrictBool | None = None


class TextFormat(BaseModel):
    """The only response format there is."""

    type: Literal["text"]


class GenerationBody(_Body):
    """What chat and plain completions share. Temperature is 0 unless it is given: greedy, as the
    bundle's recorded answers are."""

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0, le=2)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    stop: StopText | Annotated[list[StopText], Field(max_length=_MOST_STOPS)] | None = None
    seed: int | None = None
    stream: StrictBool | None = None
    stream_options: StreamOptions | None = None
    n: One | None = None
    frequency_penalty: Zero | None = None
    presence_penalty: Zero | None = None
    logit_bias: Nothing | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """Texts at which the answer ends."""
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop or ())

    @property
    def with_usage(self) -> bool:
        """Whether a stream ends with the counts."""
        return bool(self.stream_options and self.stream_options.include_usage)


class TextPart(BaseModel):
    """A piece of a message. Pictures and sounds are refused."""

    type: Literal["text"]
    text: StrictStr


class Message(BaseModel):
    """One turn; what clients send back with an answer beside role and content is not needed."""

    role: Literal["system", "developer", "user", "assistant"]
    content: StrictStr | list[TextPart]
    tool_calls: Nothing | None = None

    def plain(self) -> dict[str, str]:
        """As chat templates want it."""
        role = "system" if self.role == "developer" else self.role
        if isinstance(self.content, str):
            return {"role": role, "content": self.content}
        return {"role": role, "content": "".join(part.text for part in self.content)}


class ChatBody(GenerationBody):
    """POST /v1/chat/completions."""

    messages: Annotated[list[Message], Field(min_length=1)]
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: Literal[False] | None = None
    tools: Nothing | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: StrictBool | None = None
    response_format: TextFormat | None = None
    store: Literal[False] | None = None
    metadata: dict[str, Any] | None = None


class CompletionBody(GenerationBody):
    """POST /v1/completions: a text, or its token ids."""

    prompt: (
        StrictStr
        | Annotated[list[StrictStr], Field(min_length=1, max_length=1)]
        | Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1)]
    )
    best_of: One | None = None
    echo: Literal[False] | None = None
    logprobs: Zero | None = None
    suffix: Annotated[str, Field(max_length=0)] | None = None


class EmbeddingBody(_Body):
    """POST /v1/embeddings."""

    input: StrictStr | Annotated[list[StrictStr], Field(min_length=1, max_length=2048)]
    encoding_format: Literal["float", "base64"] | None = None

    @property
    def texts(self) -> list[str]:
        return [self.input] if isinstance(self.input, str) else self.input


def read_body(kind: type[Model], data: Any) -> Model:
    """A request's JSON as its kind. Raises `RequestError` that names the first field at fault."""
    if not isinstance(data, dict):
        raise RequestError("the body must be a JSON object")
    try:
        return kind.model_validate(data)
    except ValidationError as error:
        fault = error.errors()[0]
    field = str(fault["loc"][0]) if fault["loc"] else "body"
    limits = fault.get("ctx", {})
    only_neutral = 0 in (limits.get("max_length"), limits.get("le"))
    if fault["type"] == "extra_forbidden" or only_neutral:
        raise RequestError(f"'{field}' is not supported", param=field, code="unsupported_parameter")
    if fault["type"] == "missing":
        place = ".".join(map(str, fault["loc"]))
        raise RequestError(f"'{place}' is missing", param=field, code="missing_required_parameter")
    said = f"'{field}' is refused: {fault['msg']} (found {fault.get('input')!r:.80})"
    raise RequestError(said, param=field, code="invalid_value")
