"""Universal logit distillation: teacher and student with different tokenizers."""
