"""Zeros in a network's weights: unstructured and N:M pruning, and keeping them in later stages."""
