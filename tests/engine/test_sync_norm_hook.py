"""When norms are switched; what they compute then is in ``tests/layers/test_synced_norm.py``."""

import pytest
from mmengine import dist

from hocp_mm.engine.hooks.sync_norm_hook import SyncNormHook
from tests.material.tiny_runs import TinyRecognizer, make_runner


@pytest.fixture
def two(monkeypatch):
    """What a process hears about its group; nothing is exchanged before the first batch."""
    monkeypatch.setattr(dist, "get_world_size", lambda *_: 2)


def begin(work_dir, **options):
    hook, model = SyncNormHook(), TinyRecognizer()
    runner = make_runner(model, work_dir, [hook], **options)
    runner._train_loop = runner.build_train_loop(runner._train_loop)
    hook.before_run(runner)
    return hook, model


@pytest.mark.usefixtures("two")
def test_norms_are_switched_before_training_in_several_processes(tmp_path):
    hook, model = begin(tmp_path)
    assert hook.synced == ["backbone.1"]
    assert type(model.backbone[1]).__name__ == "SyncedBatchNorm2d"
    assert list(model.state_dict()) == list(TinyRecognizer().state_dict())


def test_one_process_keeps_its_norms(tmp_path):
    hook, model = begin(tmp_path)
    assert hook.synced == []
    assert type(model.backbone[1]).__name__ == "BatchNorm2d"


@pytest.mark.usefixtures("two")
def test_a_run_that_only_validates_keeps_its_norms(tmp_path):
    hook, model = SyncNormHook(), TinyRecognizer()
    hook.before_run(make_runner(model, tmp_path, [hook]))
    assert type(model.backbone[1]).__name__ == "BatchNorm2d"


@pytest.mark.usefixtures("two")
def test_the_conversion_of_mmengine_is_refused_beside_it(tmp_path):
    with pytest.raises(ValueError, match=r"SyncNormHook: the config must not have sync_bn, got 'torch'"):
        begin(tmp_path, cfg={"sync_bn": "torch"})
