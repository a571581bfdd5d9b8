"""AFEW-VA: clips of films."""
