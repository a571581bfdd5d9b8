"""Aff-Wild2, the valence-arousal track."""
