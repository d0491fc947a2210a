"""What `edgeforge` does."""

# Before anything here imports an engine, its reports are off.
import runtimes as runtimes
