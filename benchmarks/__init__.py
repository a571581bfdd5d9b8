"""Measured comparisons; ``python -m benchmarks.run`` prints them and writes ``benchmarks/results``."""
