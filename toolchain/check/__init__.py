"""What will work with a model, told from config, tokenizer and tensor headers alone."""
