"""Clips for the eye: the pixels and labels that training gets, of every kind of set."""

import numpy as np
import pytest
import torch

from hocp_mm.data_check.browsing import browse_clips, build_browsed
from hocp_mm.errors import DataError, HOCPError
from tests.material.afew_va_files import labels_of, write_afew_va
from tests.material.affectnet_files import row, write_2017
from tests.material.affwild2_files import write_affwild2
from tests.material.avec_files import valence_at, write_avec
from tests.material.data_configs import dataset_config, loaders
from tests.material.sewa_files import KEYS, arousal_of, read_number, valence_of, write_sewa


@pytest.fixture(scope="module")
def sewa(tmp_path_factory):
    return write_sewa(tmp_path_factory.mktemp("sewa") / "SEWA", num_frames=20)


def config(kind, root, size=60, **options):
    config = dataset_config(kind, root, size=size, **options)
    config["pipeline"][1]["margin"] = 1.0  # the landmarks span the square that shows the number
    return config


def browse(train, clips=4, frames=3, seed=0):
    return browse_clips(build_browsed(loaders(train=train), "train").dataset, clips, frames, seed)


def test_pictures_and_labels_of_a_video_belong_together(sewa):
    clips = browse(config("SEWADataset", sewa, clip_len=6, clips_per_video=3))
    assert len(clips) == 4
    assert {clip.video for clip in clips} == set(KEYS)
    for clip in clips:
        assert clip.frames.shape == (3, 60, 60, 3)
        assert (clip.frame_inds[-1] - clip.frame_inds[0]) == 5  # first and last of six
        for frame, index, (valence, arousal) in zip(clip.frames, clip.frame_inds, clip.affect, strict=True):
            number = index + 20 * KEYS.index(clip.video)
            assert read_number(frame) == number
            assert (valence, arousal) == pytest.approx((valence_of(number), arousal_of(number)))
        assert clip.valid.all()
        assert clip.face_found.all()
        assert clip.expressions is None


def test_the_seed_decides_draw_and_augmentation(sewa):
    train = config("SEWADataset", sewa)
    jitter = {"type": "hocp_mm.ClipColorJitter", "brightness": 0.5, "contrast": 0.5, "saturation": 0.5}
    train["pipeline"].insert(2, jitter)
    one, same, other = (browse(train, seed=seed) for seed in (3, 3, 4))
    pixels = [np.stack([clip.frames for clip in clips]) for clips in (one, same, other)]
    assert np.array_equal(pixels[0], pixels[1])
    assert not np.array_equal(pixels[0], pixels[2])
    # What is shown is what the data set gives: the same transforms with the same random numbers.
    plain = browse(config("SEWADataset", sewa), seed=3)
    assert not np.array_equal(pixels[0], np.stack([clip.frames for clip in plain]))


def test_windows_of_a_test_loader_are_shown_with_their_padding(tmp_path):
    root = write_sewa(tmp_path / "SEWA", num_frames=3)
    (first, _) = browse(config("SEWADataset", root, clip_len=4, test_mode=True), frames=4)
    assert first.frame_inds.tolist() == [0, 1, 2, -1]
    assert first.valid.tolist() == [True, True, True, False]
    assert first.face_found.tolist() == [True, True, True, False]


def test_folders_of_pictures_and_recordings(tmp_path):
    root = write_afew_va(tmp_path / "afew")
    for clip in browse(config("AFEWVADataset", root, split="train", fold=0), clips=3):
        number = int(clip.video) * 20 + clip.frame_inds[0]
        assert read_number(clip.frames[0]) == number
        assert clip.affect[0].tolist() == pytest.approx([value / 10 for value in labels_of(number)])
    wild = config("AffWild2Dataset", write_affwild2(tmp_path / "wild"), images="cropped_aligned", clip_len=20)
    clips = {clip.video: clip for clip in browse(wild, clips=3, frames=20)}
    clip = clips["1-30-1280x720"]
    assert np.flatnonzero(~clip.valid).tolist() == [0, 3, 4, 7]
    assert np.flatnonzero(~clip.face_found).tolist() == [0, 7]
    assert [read_number(frame) for frame in clip.frames[8:]] == list(range(8, 20))
    (clip,) = browse(config("AVECDataset", write_avec(tmp_path / "avec"), faces="frame"), clips=1)
    assert clip.affect[0, 0] == pytest.approx(valence_at(clip.frame_inds[0] / 25), abs=1e-5)


def test_images_carry_the_name_of_their_expression(tmp_path):
    root = write_2017(tmp_path, [row(f"0/{n}.jpg", n, 0.1 * n, -0.2) for n in range(4)])
    clips = browse(dataset_config("AffectNetDataset", root, clip_len=1), clips=9)
    assert [clip.video for clip in clips] == [f"0/{n}.jpg" for n in range(4)]
    assert [clip.expressions for clip in clips] == [("neutral",), ("happy",), ("sad",), ("surprise",)]
    assert [clip.affect[0, 0] for clip in clips] == pytest.approx([0, 0.1, 0.2, 0.3])


def test_the_faulty_part_of_a_set_is_left_out_and_told(tmp_path):
    root = write_sewa(tmp_path / "SEWA", num_frames=8)
    (root / KEYS[0] / f"{KEYS[0]}.avi").write_bytes(b"no video")
    built = build_browsed(loaders(train=config("SEWADataset", root)), "train")
    assert [fault.kind for fault in built.faults] == ["video"]
    assert [clip.video for clip in browse_clips(built.dataset, 1, 2)] == [KEYS[1]]
    (root / KEYS[1] / f"{KEYS[1]}.avi").write_bytes(b"no video")
    with pytest.raises(DataError, match=r"no record can be used(.|\n)*not a readable video"):
        build_browsed(loaders(train=config("SEWADataset", root)), "train")


def test_what_is_no_picture_is_refused(sewa):
    train = config("SEWADataset", sewa)
    dataset = build_browsed(loaders(train=train), "train").dataset
    dataset.pipeline.transforms.append(lambda packed: packed | {"inputs": packed["inputs"].to(torch.float32)})
    with pytest.raises(HOCPError, match=r"must give inputs as uint8 \[3, T, H, W\], got torch.float32"):
        browse_clips(dataset, 1, 2)
    with pytest.raises(HOCPError, match="browse: train_dataloader: SEWADataset: labels must be one of"):
        build_browsed(loaders(train={**train, "labels": "X"}), "train")
