"""Compare two models by their next-token distributions: KLD, top-1 agreement, perplexity.

KLD is Kullback-Leibler divergence KL(reference || model) in nats, as `llama-perplexity
--kl-divergence` gives it; all sums are in float64.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from common.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_BLOCK_BYTES = 64 << 20
# Two tokens that the reference puts this near (nats) are a tie: rounding decides between them.
TIE_NATS = 2e-3


@dataclass(frozen=True)
class Positions:
    """Figures of each scored position; arrays of equal length. `same_top` and `same_or_tie` are
    boolean."""

    kld: NDArray[np.float64]
    same_top: NDArray[np.bool_]
    same_or_tie: NDArray[np.bool_]
    nll: NDArray[np.float64]
    reference_nll: NDArray[np.float64]


@dataclass(frozen=True)
class Comparison:
    """Figures over all positions. `top1_agreement` is a share of 1, `top1_or_tie` counts positions
    too where the reference holds both first tokens for equal within `TIE_NATS`; KLD is in nats,
    perplexities come with the standard error of their estimate."""

    positions: int
    kld_mean: float
    kld_stderr: float
    kld_median: float
    kld_p99: float
    kld_max: float
    top1_agreement: float
    top1_or_tie: float
    perplexity: float
    perplexity_stderr: float
    reference_perplexity: float
    reference_perplexity_stderr: float

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def log_softmax(logits: NDArray[Any]) -> NDArray[np.float64]:
    """Log-probabilities over the last axis in float64."""
    import numpy as np

    wide = logits.astype(np.float64)
    wide -= wide.max(axis=-1, keepdims=True)
    wide -= np.log(np.exp(wide).sum(axis=-1, keepdims=True))
    return wide


def compare_positions(
    reference: NDArray[np.float32], logits: NDArray[np.float32], targets: NDArray[np.int32]
) -> Positions:
    """Compare logits `[positions, vocabulary]` of two models; `targets` are the tokens that came
    next.

    Raises `UserError` when a value is not finite.
    """
    import numpy as np

    if reference.shape != logits.shape:
        raise UserError(
            f"vocabularies differ: {reference.shape[-1]} tokens in the reference, "
            f"{logits.shape[-1]} in the file"
        )
    rows = max(1, _BLOCK_BYTES // (8 * max(1, logits.shape[-1])))
    parts = []
    for start in range(0, len(logits), rows):
        block = slice(start, start + rows)
        ours, theirs = np.asarray(logits[block]), np.asarray(reference[block])
        if not (np.isfinite(ours).all() and np.isfinite(theirs).all()):
            raise UserError(
                "the model's logits are not finite",
                "the weights overflow or hold NaN: convert with outtype bf16 or f32",
            )
        q, p = log_softmax(ours), log_softmax(theirs)
        index = np.arange(len(q)), targets[block]
        kld = (np.exp(p) * (p - q)).sum(axis=-1)
        at, first, own = np.arange(len(q)), theirs.argmax(-1), ours.argmax(-1)
        near = p[at, first] - p[at, own] <= TIE_NATS
        parts.append((kld, first == own, near, -q[index], -p[index]))
    return Positions(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def summarize(parts: list[Positions]) -> Comparison:
    """Figures over the positions of all parts."""
    import numpy as np

    kld = np.concatenate([part.kld for part in parts])
    same = np.concatenate([part.same_top for part in parts])
    near = np.concatenate([part.same_or_tie for part in parts])
    perplexity, stderr = perplexity_of(np.concatenate([part.nll for part in parts]))
    reference, reference_stderr = perplexity_of(
        np.concatenate([part.reference_nll for part in parts])
    )
    return Comparison(
        positions=len(kld),
        kld_mean=float(kld.mean()),
        kld_stderr=float(kld.std() / np.sqrt(max(1, len(kld) - 1))),
        kld_median=float(np.median(kld)),
        kld_p99=float(np.percentile(kld, 99)),
        kld_max=float(kld.max()),
        top1_agreement=float(same.mean()),
        top1_or_tie=float(near.mean()),
        perplexity=perplexity,
        perplexity_stderr=stderr,
        reference_perplexity=reference,
        reference_perplexity_stderr=reference_stderr,
    )


def perplexity_of(nll: NDArray[np.float64]) -> tuple[float, float]:
    """Perplexity and its standard error from negative log-likelihoods in nats."""
    import numpy as np

    value = float(np.exp(nll.mean()))
    return value, value * float(nll.std() / np.sqrt(max(1, len(nll) - 1)))
