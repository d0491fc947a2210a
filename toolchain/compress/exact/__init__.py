"""The very blocks that a model ships in: training in them, and handing them to the export."""
