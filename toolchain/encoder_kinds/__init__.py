"""Kinds of model that `toolchain.encoders` opens: one module each."""
