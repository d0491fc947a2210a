"""The compatibility matrix: every family of models through every stage and backend."""
