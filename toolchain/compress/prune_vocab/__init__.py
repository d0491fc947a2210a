"""Vocabulary pruning: tokens that the user's text never has go, with their rows of the weights."""
