"""The CPU benchmark's parts; `scripts/bench_cpu.py` is its command."""
