"""What the cache keeps of a place: fixed-size records of bytes.

    record = RecordFormat(top_k=32, vocab=49152, temperatures=(1.0, 2.0))
    stored = record.encode(logits)                      # [N, V] → uint8 [N, record.bytes]
    ids, log_probs, rest = record.decode(stored, temperature=2.0)

A record holds the ids of the likeliest tokens (2 or 3 bytes each), their log-probabilities at
temperature 1 (steps of 1/2048 nat down to -32), and for each temperature the log-odds of the mass
of all other tokens at that temperature (steps of 1/1024 to either side of zero, up to 32), 2 bytes
each. Rounding changes a probability by less than 0.1 %. With the others' mass at a temperature the
k + 1 parts are those of the whole softened distribution: nothing is assumed of the others.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from common.errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

STEP, ODDS_STEP = 1 / 2048, 1 / 1024
_LOWEST = (1 << 16) - 1
_NOTHING = -(1 << 15)  # the code of a mass of zero
_CHUNK_BYTES = 1 << 26


@dataclass(frozen=True)
class RecordFormat:
    """`top_k` of `vocab` tokens (or classes: then all of them)."""

    top_k: int
    vocab: int
    temperatures: tuple[float, ...]

    @property
    def id_bytes(self) -> int:
        """Bytes of an id."""
        return 2 if self.vocab <= 1 << 16 else 3

    @property
    def bytes(self) -> int:
        """Bytes of a record."""
        return self.top_k * (self.id_bytes + 2) + 2 * len(self.temperatures)

    def index_of(self, temperature: float) -> int:
        """Which of its temperatures this is. Raises `UserError` when it is none of them."""
        if temperature in self.temperatures:
            return self.temperatures.index(temperature)
        held = ", ".join(f"{one:g}" for one in self.temperatures)
        raise UserError(
            f"the teacher cache was written for the temperatures {held}, not {temperature:g}",
            f"set temperature to one of them, or write it with --temperatures {temperature:g}",
        )

    def encode(self, logits: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        """Records of logits [N, V], read in chunks: no float32 copy of all is made. Raises
        `UserError` when they are not numbers."""
        size = max(1, _CHUNK_BYTES // (4 * logits.shape[-1]))
        parts = [self._encode(logits[i : i + size]) for i in range(0, len(logits), size)]
        return np.concatenate(parts) if parts else np.empty((0, self.bytes), np.uint8)

    def decode(
        self, stored: np.ndarray[Any, Any], temperature: float
    ) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any], np.ndarray[Any, Any]]:
        """Ids [N, k] (int64), log-probabilities [N, k] and the others' logarithmic mass [N]
        (float32) at a temperature. Raises `UserError` when the cache was not written for it."""
        held = self.index_of(temperature)
        k, width = self.top_k, self.id_bytes
        raw = stored[:, : k * width].reshape(-1, k, width).astype(np.int64)
        ids = sum(raw[..., i] << (8 * i) for i in range(width))
        codes = np.ascontiguousarray(stored[:, k * width :]).view("<u2")
        place = k + held
        code = codes[:, place].view("<i2").astype(np.float32)
        odds = np.where(code == _NOTHING, -np.inf, code * np.float32(ODDS_STEP))
        rest, own = -np.logaddexp(0, -odds), -np.logaddexp(0, odds)
        top = codes[:, :k].astype(np.float32) * np.float32(-STEP / temperature)
        # Rounded parts are made to add up to one again.
        norm = np.logaddexp.reduce(top, axis=-1, keepdims=True)
        return np.asarray(ids), top - norm + own[:, None], rest

    def _encode(self, logits: Tensor) -> np.ndarray[Any, np.dtype[np.uint8]]:
        import torch

        wide = logits.float()
        if not bool(torch.isfinite(wide).all()):
            raise UserError(
                "the teacher's logits are not numbers",
                "check its weights; in bfloat16 or few bits, try --bf16 false, --quantization none",
            )
        top, ids = wide.topk(self.top_k, dim=-1)
        logs = (top - wide.logsumexp(-1, keepdim=True)).clamp(max=0)
        codes = [_steps(logs / -STEP, 0, _LOWEST)]
        others = wide.scatter(-1, ids, -math.inf)
        for temperature in self.temperatures:
            odds = torch.logsumexp(others / temperature, -1) - torch.logsumexp(
                top / temperature, -1
            )
            steps = _steps(odds[:, None] / ODDS_STEP, _NOTHING + 1, -_NOTHING - 1)
            codes.append(np.where(np.isneginf(odds[:, None].cpu().numpy()), _NOTHING, steps))
        own = ids.cpu().numpy()
        split = np.stack([(own >> (8 * i)) & 255 for i in range(self.id_bytes)], -1)
        packed = split.astype(np.uint8).reshape(len(own), -1)
        # Two's complement: a negative number's low 16 bits.
        numbers = (np.concatenate(codes, -1) & _LOWEST).astype("<u2").view(np.uint8)
        return np.concatenate([packed, numbers.reshape(len(own), -1)], -1)


def _steps(value: Tensor, least: int, most: int) -> np.ndarray[Any, Any]:
    """Whole numbers within the bounds."""
    bounded = value.nan_to_num(posinf=most, neginf=least).clamp(least, most)
    found: np.ndarray[Any, Any] = bounded.round().long().cpu().numpy()
    return found
