"""The demos of ``tools/run_demo.py``, one module per data set."""
