"""Distillation: a student learns from a teacher's distributions, not from labels alone."""
