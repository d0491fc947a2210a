"""Fine-tuning: LoRA, QLoRA and full training of language models and text classifiers."""
