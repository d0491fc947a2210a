"""What a CPU makes of INT8 products: whether they are fast, and whether they may saturate.

Without VNNI x86 adds pairs of u8·s8 products in 16 bits (vpmaddubsw), which overflow for large
weights; weights of 7 bits cannot (onnxruntime's `reduce_range`). ARM has no such instruction.
"""

from __future__ import annotations

from collections.abc import Collection

_DOT_PRODUCT = frozenset({"avx_vnni", "avx512_vnni", "amx_int8", "dotprod", "i8mm"})
_X86 = frozenset({"x86_64", "amd64"})


def has_int8_dot_product(instructions: Collection[str]) -> bool:
    """Whether the CPU (`Host.instructions`) multiplies INT8 into 32 bits in one instruction."""
    return not _DOT_PRODUCT.isdisjoint(instructions)


def needs_reduced_range(arch: str, instructions: Collection[str]) -> bool:
    """Whether INT8 weights should keep to 7 bits on this CPU."""
    return arch.lower() in _X86 and not has_int8_dot_product(instructions)


def int8_warning(arch: str, instructions: Collection[str]) -> str:
    """What to tell the user of INT8 on this CPU; empty when there is nothing to say."""
    if has_int8_dot_product(instructions):
        return ""
    if needs_reduced_range(arch, instructions):
        return (
            "this CPU has no VNNI: INT8 gains little speed here, and weights keep to 7 bits "
            "so that products do not overflow"
        )
    return "this CPU has no INT8 dot product: INT8 gains little speed here"
