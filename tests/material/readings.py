"""How often files of weights are read from the disk."""

from pathlib import Path

import pytest

from hocp_mm.checkpoints import reading


def count_readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list to which every whole reading of a checkpoint from now on adds the name of the file."""
    names: list[str] = []

    def counted(read):
        def reader(file: Path, map_location: reading.MapLocation):
            names.append(file.name)
            return read(file, map_location)

        return reader

    for name in ("_load_pickle", "_load_safetensors"):
        monkeypatch.setattr(reading, name, counted(getattr(reading, name)))
    return names
