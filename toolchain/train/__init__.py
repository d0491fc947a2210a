"""Fine-tuning with transformers' Trainer and peft: the stage, and the process that trains."""
