"""Fresh students: a smaller checkpoint of the teacher's architecture, with the teacher's weights."""
