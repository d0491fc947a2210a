"""Mixed precision: a type for each tensor, so that a file of a given size loses least."""
