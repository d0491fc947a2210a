"""Pruning: heads, FFN channels, hidden width, layers and vocabulary are cut out of a checkpoint."""
