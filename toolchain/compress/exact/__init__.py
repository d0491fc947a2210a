"""Training in the very blocks that the model ships in, and handing those blocks to the export."""
