"""A SentencePiece model file with fewer pieces: the same protobuf, other rows."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common.errors import UserError
from toolchain.compress.prune_vocab.tokenizer_json import TokenizerJson

NAMES = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
_NORMAL = 1
_SPECIAL_IDS = ("unk_id", "bos_id", "eos_id", "pad_id")


class SentencePieceModel:
    """One file of a checkpoint."""

    def __init__(self, path: Path) -> None:
        from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
        from sentencepiece import sentencepiece_model_pb2

        self.name = path.name
        self._model: Any = sentencepiece_model_pb2.ModelProto()
        try:
            self._model.ParseFromString(path.read_bytes())
        except DecodeError:
            raise UserError(f"{path.name} is no SentencePiece model", "fetch it again") from None

    def numbers_as(self, tokenizer: TokenizerJson) -> bool:
        """Whether a piece's place is its token's id."""
        pieces = self._model.pieces
        return all(tokenizer.tokens.get(i) == one.piece for i, one in enumerate(pieces))

    def always(self, *, keep_bytes: bool) -> set[int]:
        """Pieces that are no plain text: unknown, control, the user's own, and bytes."""
        byte = self._model.SentencePiece.BYTE
        return {
            number
            for number, one in enumerate(self._model.pieces)
            if one.type != _NORMAL and (keep_bytes or one.type != byte)
        }

    def write(self, path: Path, new: Mapping[int, int]) -> None:
        """Write the pieces that `new` names; they stay in order."""
        made = type(self._model)()
        made.CopyFrom(self._model)
        del made.pieces[:]
        made.pieces.extend(one for i, one in enumerate(self._model.pieces) if i in new)
        spec = made.trainer_spec
        spec.vocab_size = len(made.pieces)
        for key in _SPECIAL_IDS:
            old = getattr(spec, key)
            if spec.HasField(key) and old >= 0:
                setattr(spec, key, new.get(old, -1))
        path.write_bytes(made.SerializeToString())
