"""The files of one clip."""

import av
import numpy as np
import pytest

from hocp_mm.synthetic.sewa import SewaClipName, write_xvid


def numbered(count):
    for number in range(count):
        image = np.full((64, 96, 3), 20, np.uint8)
        image[:, : 2 * number + 2] = 220  # the bright part's width is the frame's number
        yield image


def test_key_has_the_form_of_sewa():
    name = SewaClipName("SAH", culture=6, conversation=181, person=362, first=742, last=1590)
    assert name.key == "SAH_C6_S181_P362_VC1_000742_001590"


def test_video_is_xvid_with_b_frames_in_the_right_order(tmp_path):
    path = tmp_path / "clip.avi"
    write_xvid(path, numbered(40))
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        frames = list(container.decode(stream))
        assert container.format.name == "avi"
        assert stream.codec_context.name == "mpeg4"
        assert stream.codec_context.codec_tag == "XVID"
        assert stream.average_rate == 25
    widths = [(frame.to_ndarray(format="gray").mean(axis=0) > 120).sum() for frame in frames]
    assert widths == [2 * number + 2 for number in range(40)]
    kinds = [av.video.frame.PictureType(frame.pict_type).name for frame in frames]
    assert kinds.count("B") > kinds.count("P") > 0


def test_equal_images_give_equal_bytes(tmp_path):
    for name in ("a.avi", "b.avi"):
        write_xvid(tmp_path / name, numbered(20))
    assert (tmp_path / "a.avi").read_bytes() == (tmp_path / "b.avi").read_bytes()


def test_video_without_images_is_refused(tmp_path):
    with pytest.raises(ValueError, match="at least one image"):
        write_xvid(tmp_path / "empty.avi", [])
