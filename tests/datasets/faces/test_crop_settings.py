"""Settings of a store: what goes in comes out, and nothing else does."""

import json

import pytest

from hocp_mm.datasets.store import CropSettings
from hocp_mm.errors import DataError


@pytest.mark.parametrize("settings", [CropSettings(), CropSettings(112, None, 1, "png", 80, "frame", 4 / 3)])
def test_settings_survive_json_exactly(settings):
    assert CropSettings.from_json(json.loads(json.dumps(settings.to_json())), "x") == settings


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({"size": 0}, "size must be a whole number from 1 to 8192, got 0"),
        ({"size": 32.0}, "size must be a whole number"),
        ({"size": True}, "size must be a whole number"),
        ({"margin": 0.0}, "margin must be positive, or None, got 0.0"),
        ({"margin": float("nan")}, "margin must be positive"),
        ({"smooth": 0}, "smooth must be a whole number of 1 or more"),
        ({"codec": "webp"}, "codec must be one of jpeg, png, got 'webp'"),
        ({"quality": 101}, "quality must be a whole number from 1 to 100"),
        ({"faces": ""}, "faces must be a name"),
        ({"pixel_aspect": float("inf")}, "pixel_aspect must be positive"),
    ],
)
def test_settings_out_of_their_range_are_refused(change, rule):
    with pytest.raises(ValueError, match=rule):
        CropSettings(**change)
    with pytest.raises(DataError, match=rf"store\.json: CropSettings: {rule}"):
        CropSettings.from_json({**CropSettings().to_json(), **change}, "store.json")


@pytest.mark.parametrize("values", [None, [], {}, {**CropSettings().to_json(), "blur": 1}])
def test_settings_of_another_kind_are_refused(values):
    with pytest.raises(DataError, match=r"store\.json: crop settings must be codec, faces, margin"):
        CropSettings.from_json(values, "store.json")
