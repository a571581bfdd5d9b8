"""What the model is called with."""

import numpy as np
import torch

from hocp_mm.datasets.transforms import PackAffectInputs


def _record():
    imgs = np.random.default_rng(0).integers(0, 256, (3, 4, 5, 3), dtype=np.uint8)
    affect = np.array([[0.37, -0.82], [0.1, 0.2], [-0.5, 0.25], [0.9, -0.9]], np.float32)
    return {
        "imgs": imgs[:, :, ::-1],  # a view with a negative stride, as a flip leaves it
        "frame_inds": np.array([2, 0, -1]),
        "affect": affect,
        "valid": np.array([True, True, False, True]),
        "video": "k",
        "num_frames": 4,
        "fps": 25.0,
        "subject": "S1",
    }


def test_inputs_are_rgb_clips_with_channels_first():
    record = _record()
    inputs = PackAffectInputs()(record)["inputs"]
    assert (inputs.dtype, tuple(inputs.shape)) == (torch.uint8, (3, 3, 4, 5))
    np.testing.assert_array_equal(inputs.numpy()[0, 1], record["imgs"][1, :, :, 0])


def test_labels_keep_fraction_and_order_and_the_mask():
    sample = PackAffectInputs()(_record())["data_samples"]
    np.testing.assert_array_equal(sample.gt_affect.numpy(), np.float32([[-0.5, 0.25], [0.37, -0.82], [0, 0]]))
    assert sample.gt_valid.tolist() == [False, True, False]  # frame 2 has no valid label, the last row is padding
    assert (sample.video, sample.frame_inds, sample.num_frames, sample.fps, sample.subject) == (
        "k",
        [2, 0, -1],
        4,
        25.0,
        "S1",
    )


class _Packed(torch.utils.data.Dataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        inputs = PackAffectInputs()(_record())["inputs"]
        return {"inputs": inputs, "shared": inputs.is_shared()}


def test_workers_put_clips_where_the_main_process_finds_them():
    here = _Packed()[0]
    assert not here["shared"]
    loader = torch.utils.data.DataLoader(_Packed(), batch_size=None, num_workers=1)
    items = list(loader)
    assert len(items) == 3
    for item in items:
        assert item["shared"]  # so the queue sends a handle and copies nothing
        assert torch.equal(item["inputs"], here["inputs"])


def test_pixels_stay_where_they_are():
    record = _record()
    record["imgs"] = np.ascontiguousarray(record["imgs"])
    inputs = PackAffectInputs()(record)["inputs"]
    assert inputs.data_ptr() == record["imgs"].ctypes.data
    assert not inputs.is_contiguous()


def test_an_expression_of_the_record_counts_on_real_frames_alone():
    sample = PackAffectInputs()({**_record(), "expression": 6})["data_samples"]
    assert (sample.gt_expression.dtype, sample.gt_expression.tolist()) == (torch.int64, [6, 6, -1])
    sample = PackAffectInputs()({**_record(), "expression": np.array([1, -1, 3, 5])})["data_samples"]
    assert sample.gt_expression.tolist() == [3, 1, -1]
    assert PackAffectInputs()({**_record(), "expression": -1})["data_samples"].gt_expression.tolist() == [-1, -1, -1]
    assert "gt_expression" not in PackAffectInputs()(_record())["data_samples"]


def test_where_a_face_was_found_goes_along_by_frame():
    found = np.array([False, True, True, False])
    sample = PackAffectInputs()({**_record(), "face_found": found})["data_samples"]
    assert (sample.face_found.dtype, sample.face_found.tolist()) == (torch.bool, [True, False, False])
    assert "face_found" not in PackAffectInputs()(_record())["data_samples"]


def test_weights_go_with_their_labels():
    assert "gt_weight" not in PackAffectInputs()(_record())["data_samples"]
    record = _record() | {"weight": np.float32([0.5, 1, 0.75, 1])}
    assert PackAffectInputs()(record)["data_samples"].gt_weight.tolist() == [0, 0.5, 0]  # frames 2 (invalid), 0, none
