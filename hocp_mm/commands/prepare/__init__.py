"""The commands ``hocp prepare …``: splits, stores of face crops and synthetic sets."""
