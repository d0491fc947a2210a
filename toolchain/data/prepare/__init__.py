"""From a user's data file to training data: reading, checking, splitting, reporting, encoding."""
