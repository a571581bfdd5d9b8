"""SEWA DB v0.2, the released segments."""
