"""Fresh students: a smaller checkpoint of the teacher's architecture and with its weights."""
