"""Kinds of models that can be opened; `toolchain.models` has their table."""
