"""A network is built from a config in one way, whatever it would start from."""

import copy

import pytest
from mmengine.config import Config

from hocp_mm.launch.model import build_model, without_starts
from hocp_mm.models import AffectRecognizer, TimmHOCPBackbone
from tests.material.tiny_configs import tiny_config


@pytest.mark.parametrize("start", ["pretrained", "checkpoint"])
def test_a_network_is_built_without_the_weights_it_would_start_from_and_its_config_stays(start):
    cfg = tiny_config()
    cfg.model.backbone[start] = "nowhere.pth" if start == "checkpoint" else True
    before = copy.deepcopy(cfg.to_dict())
    assert isinstance(build_model(cfg), AffectRecognizer)
    assert isinstance(build_model(cfg, "backbone"), TimmHOCPBackbone)
    assert cfg.to_dict() == before


@pytest.mark.parametrize("scope", ["mmengine", "hocp_mm"])
def test_names_are_looked_up_in_the_scope_of_the_config(scope):
    cfg = Config({"default_scope": scope, "model": {"type": "AffectHead", "in_channels": 4}})
    if scope == "hocp_mm":
        assert type(build_model(cfg)).__name__ == "AffectHead"
    else:
        with pytest.raises(KeyError, match="AffectHead is not in the"):
            build_model(cfg)


def test_weights_to_start_from_are_left_out_wherever_they_are_named():
    model = {
        "init_cfg": {"type": "Pretrained", "checkpoint": "http://x"},
        "backbone": {"type": "A", "pretrained": True, "checkpoint": "x.pth", "parts": [{"pretrained": "y.pth"}]},
    }
    assert without_starts(model) == {
        "init_cfg": [],
        "backbone": {"type": "A", "pretrained": None, "checkpoint": None, "parts": [{"pretrained": None}]},
    }
