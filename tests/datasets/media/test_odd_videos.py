"""Videos that phones, archives and editors make: right frames, upright, with the right times."""

import io
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from hocp_mm.datasets.media.images import ORIENTATION
from hocp_mm.datasets.media.self_check import check_random_access
from hocp_mm.datasets.media.video import frame_times, iter_frames, probe_video, read_frames
from hocp_mm.errors import DataError
from tests.material.odd_videos import copy_packets, join_streams, rewrite_matrix, write_mjpeg, write_video
from tests.material.sewa_files import draw_number, read_number, write_numbered_avi


def _numbers(path, indices):
    return [read_number(frame) for frame in read_frames(path, indices)]


# Uneven, with a gap of ten seconds in the middle.
UNEVEN = [0, 40, 80, 90, 130, 10130, 10133, 10200, 10201, 10300]


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
def test_a_variable_frame_rate_is_counted_by_frames_and_keeps_its_times(tmp_path, suffix):
    path = write_video(tmp_path / f"vfr.{suffix}", "libx264", 10, milliseconds=UNEVEN)
    assert probe_video(path).num_frames == 10
    assert _numbers(path, [9, 4, 5]) == [9, 4, 5]
    np.testing.assert_allclose(frame_times(path), np.array(UNEVEN) / 1000, atol=1e-3)


def test_times_start_at_the_first_frame_though_an_xvid_avi_counts_from_one(tmp_path):
    path = write_numbered_avi(tmp_path / "a.avi", range(30))
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).pts == 1
    np.testing.assert_allclose(frame_times(path), np.arange(30) / 25, atol=1e-9)


@pytest.mark.parametrize(("degrees", "turns"), [(90, 1), (180, 2), (270, 3), (-90, 3)])
def test_a_turned_video_comes_upright(tmp_path, degrees, turns):
    """FFmpeg's angle is counter-clockwise, as `numpy.rot90` turns."""
    plain = write_video(tmp_path / "plain.mp4", "libx264", 3)
    turned = write_video(tmp_path / "turned.mp4", "libx264", 3, rotation=degrees)
    expected = np.rot90(read_frames(plain, [0, 1, 2]), turns, axes=(1, 2))
    np.testing.assert_array_equal(read_frames(turned, [0, 1, 2]), expected)
    np.testing.assert_array_equal(np.stack(list(iter_frames(turned))), expected)
    info = probe_video(turned)
    assert (info.height, info.width) == expected.shape[1:3]
    assert read_frames(turned, []).shape == (0, *expected.shape[1:])


def test_a_mirrored_video_comes_as_it_is_meant_to_be_seen(tmp_path):
    path = write_video(tmp_path / "selfie.mp4", "libx264", 2)
    expected = read_frames(path, [0, 1])[:, :, ::-1]
    rewrite_matrix(path, -1 << 16, 0, 0, 1 << 16)
    np.testing.assert_array_equal(read_frames(path, [0, 1]), expected)


def test_a_slanted_video_is_refused(tmp_path):
    path = write_video(tmp_path / "slanted.mp4", "libx264", 2)
    rewrite_matrix(path, 46341, 46341, -46341, 46341)
    with pytest.raises(DataError, match=r"slanted\.mp4: a display matrix must turn by quarter turns, got"):
        read_frames(path, [0])


def test_pixels_that_are_not_square_are_reported_and_not_stretched(tmp_path):
    path = write_video(tmp_path / "dvd.mp4", "libx264", 2, pixel_aspect=Fraction(16, 15))
    info = probe_video(path)
    assert (info.width, info.height, info.pixel_aspect) == (320, 240, pytest.approx(16 / 15))
    turned = write_video(tmp_path / "turned.mp4", "libx264", 2, pixel_aspect=Fraction(16, 15), rotation=90)
    assert probe_video(turned).pixel_aspect == pytest.approx(15 / 16)


@pytest.mark.parametrize("aspect", [Fraction(200), Fraction(1, 200)])
def test_pixels_that_nobody_has_are_taken_for_square(tmp_path, monkeypatch, aspect):
    """A broken header says such things; frames stretched by it would fill the memory."""
    told = []
    monkeypatch.setattr("hocp_mm.datasets.media.video.print_log", lambda text, **options: told.append(text))
    path = write_video(tmp_path / "thin\n.avi", "mpeg4", 2, pixel_aspect=aspect)
    assert [probe_video(path).pixel_aspect for _ in range(2)] == [1, 1]
    (text,) = told
    assert text.endswith(f"thin\\n.avi: pixels {float(aspect):.3g} times as wide as high are taken for square.")


def _scene(index, height=241, width=323):
    """A picture without symmetry, odd in width and height."""
    y, x = np.mgrid[:height, :width]
    return np.stack([(x + index) % 256, (y + 3 * index) % 256, (x + y) % 256], axis=-1).astype(np.uint8)


def test_odd_sizes_come_back_bit_by_bit(tmp_path):
    path = write_video(tmp_path / "odd.mkv", "ffv1", 4, draw=_scene, pix_fmt="bgr0")
    assert (probe_video(path).width, probe_video(path).height) == (323, 241)
    np.testing.assert_array_equal(read_frames(path, [3, 0]), np.stack([_scene(3), _scene(0)]))


def test_an_odd_size_in_subsampled_colour_has_every_row_and_column(tmp_path):
    path = write_video(tmp_path / "odd.avi", "mpeg4", 2, draw=_scene, options={"qmin": "1", "qmax": "1"})
    picture = read_frames(path, [1])[0]
    assert picture.shape == (241, 323, 3)
    assert np.median(np.abs(picture.astype(int) - _scene(1))) < 8


def test_grey_becomes_three_equal_channels_with_the_values_stored(tmp_path):
    path = write_video(
        tmp_path / "grey.mkv", "ffv1", 2, draw=lambda i: _scene(i)[..., 0], source="gray", pix_fmt="gray"
    )
    np.testing.assert_array_equal(read_frames(path, [1])[0], np.repeat(_scene(1)[..., :1], 3, axis=2))


def test_alpha_is_left_out_and_does_not_darken(tmp_path):
    def draw(index):
        return np.concatenate([_scene(index), np.full((241, 323, 1), 7, np.uint8)], axis=2)

    path = write_video(tmp_path / "alpha.mkv", "ffv1", 2, draw=draw, source="rgba", pix_fmt="bgra")
    np.testing.assert_array_equal(read_frames(path, [1])[0], _scene(1))


def test_ten_bits_are_rounded_to_eight(tmp_path):
    path = write_video(tmp_path / "ten.mkv", "ffv1", 2, pix_fmt="yuv444p10le")
    difference = np.abs(read_frames(path, [1])[0].astype(int) - draw_number(1))
    assert difference.max() <= 1


def test_an_interlaced_video_keeps_both_fields_in_one_frame(tmp_path):
    def draw(index):
        picture = np.full((240, 320, 3), 60, np.uint8)
        picture[1::2] = 180  # the second field
        return picture

    options = {"flags": "+ildct+ilme", "qmin": "1", "qmax": "1"}
    path = write_video(tmp_path / "fields.avi", "mpeg2video", 3, draw=draw, options=options)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).interlaced_frame
    frames = read_frames(path, range(3))
    np.testing.assert_allclose(frames[:, ::2].mean(axis=(0, 2, 3)), 60, atol=4)
    np.testing.assert_allclose(frames[:, 1::2].mean(axis=(0, 2, 3)), 180, atol=4)


def test_a_cut_that_starts_without_key_frame_counts_what_can_be_decoded(tmp_path):
    whole = write_video(tmp_path / "whole.mp4", "libx264", 60, gop=25, options={"bf": "0", "sc_threshold": "0"})
    cut = copy_packets(whole, tmp_path / "cut.mkv", lambda index: index >= 10)
    numbers = [read_number(frame) for frame in iter_frames(cut)]
    assert probe_video(cut).num_frames == len(numbers) == len(frame_times(cut))
    assert numbers[-1] == 59
    assert _numbers(cut, [0, len(numbers) - 1]) == [numbers[0], 59]


def test_a_change_of_size_within_a_video_is_refused(tmp_path):
    small = write_video(tmp_path / "small.h264", "libx264", 3, draw=lambda i: draw_number(i)[:120, :160])
    large = write_video(tmp_path / "large.h264", "libx264", 3)
    path = tmp_path / "both.h264"
    path.write_bytes(small.read_bytes() + large.read_bytes())
    with pytest.raises(
        DataError, match=r"both\.h264: all frames must have one size, but frame 3 has \(320, 240\) after \(160, 120\)"
    ):
        read_frames(path, [0, 3])


def jpeg(orientation: int = 1, width: int = 64, height: int = 48) -> bytes:
    """A picture in which no two corners are alike, as a JPEG that is to be turned."""
    y, x = np.mgrid[0:height, 0:width]
    picture = Image.fromarray(np.stack([4 * x, 5 * y, 0 * x + 90], axis=-1).astype(np.uint8))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = io.BytesIO()
    picture.save(content, "JPEG", quality=95, subsampling=0, exif=exif)
    return content.getvalue()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_of_a_motion_jpeg_come_upright_by_their_exif(tmp_path, orientation):
    """PyAV has no name for EXIF among the side data of a frame, and then gives none of them."""
    raw = jpeg(orientation)
    path = write_mjpeg(tmp_path / "camera.avi", [raw] * 3, (64, 48))
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(raw))).convert("RGB"), np.float32)
    info = probe_video(path)
    assert (info.height, info.width) == expected.shape[:2]
    frames = read_frames(path, [0, 2])
    assert frames.shape[1:] == expected.shape
    assert np.abs(frames - expected).mean() < 4  # of another decoder


@pytest.mark.parametrize("suffix", ["mp4", "mkv"])
@pytest.mark.parametrize("first", [True, False], ids=["cover first", "film first"])
def test_a_cover_picture_is_no_film(tmp_path, suffix, first):
    film = write_video(tmp_path / "film.mp4", "libx264", 10)
    path = join_streams(tmp_path / f"song.{suffix}", *([jpeg(), film] if first else [film, jpeg()]))
    assert probe_video(path).num_frames == 10
    assert _numbers(path, [9, 0, 4]) == [9, 0, 4]
    assert len(frame_times(path)) == 10
    assert check_random_access(path).exact


def test_a_cover_picture_alone_is_refused(tmp_path):
    path = join_streams(tmp_path / "song.mp4", jpeg())
    with pytest.raises(DataError, match=r"song\.mp4: the file must hold a video stream, got a cover picture alone"):
        probe_video(path)


def test_of_several_films_the_one_ffmpeg_would_take_is_read_and_said_once(tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr("hocp_mm.datasets.media.video.print_log", lambda text, **options: told.append(text))
    small = write_video(tmp_path / "small.mp4", "libx264", 5, draw=lambda number: draw_number(50 + number)[:64, :64])
    large = write_video(tmp_path / "large.mp4", "libx264", 10)
    path = join_streams(tmp_path / "two.mkv", small, large)
    with av.open(str(path)) as container:
        best = container.streams.best("video").index
    for _ in range(2):
        assert probe_video(path).num_frames == (5, 10)[best]
    assert told == [f"{path}: has 2 video streams, stream {best} is read (FFmpeg's choice), not {1 - best}."]
