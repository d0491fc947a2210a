"""Encoders over onnxruntime: classifier, token tagger and embedder from one folder.

    with open_encoder(Path("model-onnx")) as model:
        logits = model.scores(["a fine film", "a dull one"])

A server needs onnxruntime and tokenizers, nothing else: neither torch nor transformers. The folder
holds model.onnx, tokenizer.json and encoder.json, which says what the model is for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.closing import Closing
from common.damage import is_panic
from common.errors import UserError
from common.files import read_json
from runtimes.ort import SessionSettings, open_session, run_session
from runtimes.protocol import Text, TokenScores

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

FACTS = "encoder.json"
MODEL = "model.onnx"
TOKENIZER = "tokenizer.json"
CLASSIFY, TAG, EMBED = "sequence-classification", "token-classification", "embedding"
TASKS = (CLASSIFY, TAG, EMBED)
_EXPORT_AGAIN = "export the encoder again, or copy the whole folder again"
# Padded tokens of one run: memory stays bounded whatever the texts are.
_BATCH_TOKENS = 8192
_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_MOST = 1 << 31


@dataclass(frozen=True)
class EncoderFacts:
    """What encoder.json says. `labels` is in the order of the logits; `width` is that of one
    output row (labels, or the embedding's); `max_tokens` includes special tokens; `inputs` are
    the graph's; `problem` is transformers' problem type of a sequence classifier."""

    task: str
    labels: tuple[str, ...]
    width: int
    pooling: str | None
    normalize: bool
    max_tokens: int
    inputs: tuple[str, ...]
    pad_token_id: int
    problem: str | None
    variant: str


def read_facts(folder: Path) -> EncoderFacts:
    """The encoder's facts. Raises `UserError` when encoder.json is missing or of another kind."""
    if not (folder / FACTS).is_file():
        raise UserError(f"{folder} is no ONNX encoder: it has no {FACTS}", _EXPORT_AGAIN)
    said = read_json(folder / FACTS)
    names = EncoderFacts.__dataclass_fields__
    missing = [name for name in names if not isinstance(said, dict) or name not in said]
    if missing:
        raise UserError(f"{folder / FACTS} lacks {', '.join(missing)}", _EXPORT_AGAIN)
    if said["task"] not in TASKS:
        raise UserError(
            f"{folder / FACTS} names an unknown task: {str(said['task'])[:80]}", _EXPORT_AGAIN
        )
    wrong = [name for name in names if not _FITS[name](said[name])]
    if wrong:
        shown = f"{wrong[0]}: {str(said[wrong[0]])[:80]}"
        raise UserError(f"{folder / FACTS} is damaged: {shown}", _EXPORT_AGAIN)
    lists = {name: tuple(said[name]) for name in ("labels", "inputs")}
    return EncoderFacts(**{**{name: said[name] for name in names}, **lists})


def _is_number(value: Any, least: int = 1) -> bool:
    return type(value) is int and least <= value <= _MOST


def _is_text(value: Any) -> bool:
    return value is None or isinstance(value, str)


def _are_texts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


# What each value of encoder.json must be.
_FITS: dict[str, Callable[[Any], bool]] = {
    "task": _is_text,
    "labels": _are_texts,
    "width": _is_number,
    "pooling": _is_text,
    "normalize": lambda value: isinstance(value, bool),
    "max_tokens": _is_number,
    "inputs": lambda value: _are_texts(value) and {"input_ids"} <= set(value) <= set(_INPUTS),
    "pad_token_id": lambda value: _is_number(value, 0),
    "problem": _is_text,
    "variant": lambda value: isinstance(value, str),
}


class OrtEncoder(Closing):
    """A loaded encoder: what classifier, tagger and embedder share. `close` may be called twice."""

    def __init__(self, folder: Path, facts: EncoderFacts, settings: SessionSettings | None) -> None:
        self.facts = facts
        self.labels = facts.labels
        self._file = folder / MODEL
        self._tokenizer = _tokenizer(folder, facts)
        self._session: Any = open_session(self._file, settings)
        found = tuple(item.name for item in self._session.get_inputs())
        if set(found) != set(facts.inputs):
            raise UserError(
                f"{self._file} takes {', '.join(found)}, {FACTS} says {', '.join(facts.inputs)}",
                _EXPORT_AGAIN,
            )

    def close(self) -> None:
        """Free the session."""
        self._session = None

    def encode(self, texts: Sequence[Text]) -> list[Any]:
        """`tokenizers.Encoding` of each text or pair, cut at `max_tokens`, not padded."""
        # One call each: encode_batch starts threads of its own beside onnxruntime's.
        return [
            self._tokenizer.encode(text) if isinstance(text, str) else self._tokenizer.encode(*text)
            for text in texts
        ]

    def encode_words(self, words: Sequence[Sequence[str]]) -> list[Any]:
        """`tokenizers.Encoding` of texts that are split into words already."""
        return [self._tokenizer.encode(list(text), is_pretokenized=True) for text in words]

    def inputs_of(self, encodings: Sequence[Any]) -> dict[str, NDArray[np.int64]]:
        """One padded batch of the graph's inputs: each [texts, longest text's tokens]."""
        import numpy as np

        width = max(len(encoding.ids) for encoding in encodings)
        rows_of = (
            (self.facts.pad_token_id, [e.ids for e in encodings]),
            (0, [e.attention_mask for e in encodings]),
            (0, [e.type_ids for e in encodings]),
        )
        columns = dict(zip(_INPUTS, rows_of, strict=True))
        inputs = {}
        for name in self.facts.inputs:
            fill, rows = columns[name]
            inputs[name] = np.full((len(rows), width), fill, dtype=np.int64)
            for number, row in enumerate(rows):
                inputs[name][number, : len(row)] = row
        return inputs

    def run(self, inputs: dict[str, Any]) -> NDArray[np.float32]:
        """The graph's output for one batch of token ids."""
        if self._session is None:
            raise ValueError("the encoder is closed")
        output: NDArray[np.float32] = run_session(self._session, self._file, inputs)[0]
        texts = len(next(iter(inputs.values())))
        shape = getattr(output, "shape", ())
        if not shape or shape[0] != texts or shape[-1] != self.facts.width:
            raise UserError(
                f"{self._file} gave {'×'.join(map(str, shape))} numbers for {texts} texts and a "
                f"width of {self.facts.width}",
                _EXPORT_AGAIN,
            )
        return output

    def _outputs(self, encodings: Sequence[Any]) -> list[NDArray[np.float32]]:
        """Each encoding's output. Texts of like length go together, so that little is padding."""
        found: dict[int, NDArray[np.float32]] = {}
        for batch in _batches([len(encoding.ids) for encoding in encodings]):
            output = self.run(self.inputs_of([encodings[number] for number in batch]))
            found.update(zip(batch, output, strict=True))
        return [found[number] for number in range(len(encodings))]

    def _rows(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        import numpy as np

        rows = self._outputs(self.encode(texts))
        return np.stack(rows) if rows else np.zeros((0, self.facts.width), np.float32)


class OrtClassifier(OrtEncoder):
    """Implements `runtimes.protocol.Classifier`."""

    def scores(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Logits: [texts, labels]."""
        return self._rows(texts)


class OrtEmbedder(OrtEncoder):
    """Implements `runtimes.protocol.Embedder`."""

    @property
    def width(self) -> int:
        """Numbers in one embedding."""
        return self.facts.width

    def embed(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """Embeddings, pooled and normalised as encoder.json says: [texts, width]."""
        return self._rows(texts)


class OrtTagger(OrtEncoder):
    """Implements `runtimes.protocol.TokenTagger`, for words too."""

    def word_scores(self, words: Sequence[Sequence[str]]) -> list[NDArray[np.float32]]:
        """Logits of each word's first token: per text [words, labels]. Words that were cut off
        with the text's end have zeros, which name no label before another."""
        import numpy as np

        encodings = self.encode_words(words)
        results = []
        for text, encoding, output in zip(words, encodings, self._outputs(encodings), strict=True):
            rows = np.zeros((len(text), self.facts.width), np.float32)
            for word, position in _first_tokens(encoding):
                rows[word] = output[position]
            results.append(rows)
        return results

    def token_scores(self, texts: Sequence[str]) -> list[TokenScores]:
        """Spans and logits of every text's tokens; what was cut off has none."""
        encodings = self.encode(texts)
        results = []
        for encoding, output in zip(encodings, self._outputs(encodings), strict=True):
            kept = [at for at, word in enumerate(encoding.word_ids) if word is not None]
            spans = tuple(encoding.offsets[at] for at in kept)
            results.append(TokenScores(spans, output[kept]))
        return results


_KINDS: dict[str, type[OrtEncoder]] = {CLASSIFY: OrtClassifier, TAG: OrtTagger, EMBED: OrtEmbedder}


def open_encoder(folder: Path, settings: SessionSettings | None = None) -> OrtEncoder:
    """The encoder in `folder`: an `OrtClassifier`, `OrtTagger` or `OrtEmbedder` by its task.

    Raises `UserError` when a file is missing, broken or does not fit the others.
    """
    facts = read_facts(folder)
    return _KINDS[facts.task](folder, facts, settings)


def open_classifier(folder: Path, settings: SessionSettings | None = None) -> OrtClassifier:
    """The classifier in `folder`; a `UserError` when the encoder there is none."""
    model = open_encoder(folder, settings)
    if not isinstance(model, OrtClassifier):
        raise _other_task(folder, model.facts.task, CLASSIFY)
    return model


def open_embedder(folder: Path, settings: SessionSettings | None = None) -> OrtEmbedder:
    """The embedder in `folder`; a `UserError` when the encoder there is none."""
    model = open_encoder(folder, settings)
    if not isinstance(model, OrtEmbedder):
        raise _other_task(folder, model.facts.task, EMBED)
    return model


def _other_task(folder: Path, found: str, wanted: str) -> UserError:
    return UserError(f"{folder} is for {found}, not for {wanted}", "give a model of that task")


def _tokenizer(folder: Path, facts: EncoderFacts) -> Any:
    from tokenizers import Tokenizer

    if not (folder / TOKENIZER).is_file():
        raise UserError(f"{folder / TOKENIZER} is missing", _EXPORT_AGAIN)
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except BaseException as error:  # tokenizers raises plain Exception, or a panic of its own
        if not isinstance(error, Exception) and not is_panic(error):
            raise
        raise UserError(f"{folder / TOKENIZER} does not load: {error}", _EXPORT_AGAIN) from None
    tokenizer.no_padding()  # the file may carry the padding that training used
    tokenizer.enable_truncation(facts.max_tokens)
    return tokenizer


def _batches(lengths: Sequence[int]) -> Iterator[list[int]]:
    """Numbers of texts that run together: by length, at most `_BATCH_TOKENS` with padding."""
    batch: list[int] = []
    for number in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if batch and (len(batch) + 1) * lengths[number] > _BATCH_TOKENS:
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _first_tokens(encoding: Any) -> Iterator[tuple[int, int]]:
    """(word, position of its first token) for every word that kept one."""
    last = None
    for position, word in enumerate(encoding.word_ids):
        if word is not None and word != last:
            yield word, position
        last = word
