"""The teacher cache: what a teacher says at every learned place of the rows, written once."""
