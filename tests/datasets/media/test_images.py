"""Image files: exact pixels by stated rules, and never a picture out of a damaged file."""

import io
import struct
import zlib

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hocp_mm.datasets.faces.crops import square_pixels, square_scale
from hocp_mm.datasets.media.images import check_image, held_frames, iter_images, read_image
from hocp_mm.errors import DataError, MissingDataError

RNG = np.random.default_rng(0)
RGB = RNG.integers(0, 256, (10, 14, 3), dtype=np.uint8)
GREY = RNG.integers(0, 256, (10, 14), dtype=np.uint8)
ALPHA = RNG.integers(0, 256, (10, 14), dtype=np.uint8)
SMOOTH = np.asarray(cv2.resize(RNG.integers(0, 256, (6, 7, 3), dtype=np.uint8), (56, 48)), np.uint8)


def encode(image, kind="PNG", **options) -> bytes:
    buffer = io.BytesIO()
    image = image if isinstance(image, Image.Image) else Image.fromarray(image)
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def encode_sixteen(values) -> bytes:
    """Write a 16-bit PNG; OpenCV wants BGR."""
    return cv2.imencode(".png", values if values.ndim == 2 else np.ascontiguousarray(values[..., ::-1]))[1].tobytes()


def three(grey):
    return np.repeat(grey[..., None], 3, axis=2)


def over_black(rgb, alpha):
    return ((rgb.astype(int) * alpha[..., None] + 127) // 255).astype(np.uint8)


def turned(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    return exif


def palette(transparent=None):
    image = Image.fromarray(RGB).quantize(8)
    colours = np.asarray(image.convert("RGB"))
    index = np.asarray(image)
    options = {} if transparent is None else {"transparency": transparent}
    expected = colours if transparent is None else np.where((index == transparent)[..., None], 0, colours)
    return encode(image, **options), expected.astype(np.uint8)


# 3x3 by hand (no writer here interlaces): passes of one pixel, of one, of one row and of rows, each with filter 0.
_PASSES = [GREY[0:1, 0:1], GREY[0:1, 2:3], GREY[2:3, 0:3:2], GREY[0:3:2, 1:2], GREY[1:2, 0:3]]
_ROWS = b"".join(b"\0" + row.tobytes() for block in _PASSES for row in block)
INTERLACED = b"\x89PNG\r\n\x1a\n" + b"".join(
    struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    for kind, content in (
        (b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 1)),
        (b"IDAT", zlib.compress(_ROWS)),
        (b"IEND", b""),
    )
)
LOW, HIGH = RNG.integers(0, 256, (2, 10, 14), dtype=np.uint16)
DEEP = RNG.integers(0, 65536, (10, 14, 3), dtype=np.uint16)
KINDS = {
    "RGB": (encode(RGB), RGB),
    "RGB in BMP": (encode(RGB, "BMP"), RGB),
    "RGB in TIFF": (encode(RGB, "TIFF"), RGB),
    "RGB in lossless WebP": (encode(RGB, "WEBP", lossless=True), RGB),
    "interlaced": (INTERLACED, three(GREY[:3, :3])),
    "grey": (encode(GREY), three(GREY)),
    "one bit": (encode(Image.fromarray(GREY > 127)), three(np.where(GREY > 127, 255, 0).astype(np.uint8))),
    "palette": palette(),
    "palette with a transparent colour": palette(transparent=3),
    "alpha over black": (encode(np.dstack([RGB, ALPHA])), over_black(RGB, ALPHA)),
    "opaque alpha": (encode(np.dstack([RGB, np.full_like(ALPHA, 255)])), RGB),
    "grey with alpha": (encode(np.dstack([GREY, ALPHA])), over_black(three(GREY), ALPHA)),
    "16-bit grey keeps the high byte": (encode_sixteen(HIGH << 8 | LOW), three(HIGH.astype(np.uint8))),
    "16-bit RGB keeps the high byte": (encode_sixteen(DEEP), (DEEP >> 8).astype(np.uint8)),
    "upside down by EXIF in a PNG": (encode(RGB, exif=turned(3)), RGB[::-1, ::-1]),
    "a quarter turn by EXIF in a PNG": (encode(RGB, exif=turned(6)), np.rot90(RGB, -1)),
    "mirrored by EXIF in a TIFF": (encode(RGB, "TIFF", exif=turned(2)), RGB[:, ::-1]),
}


@pytest.fixture
def put(tmp_path):
    def write(raw):
        (tmp_path / "frame.png").write_bytes(raw)
        return tmp_path / "frame.png"

    return write


@pytest.mark.parametrize(("raw", "expected"), KINDS.values(), ids=KINDS)
def test_every_kind_of_picture_gives_exactly_these_pixels(put, raw, expected):
    picture = read_image(put(raw))
    assert picture.dtype == np.uint8
    np.testing.assert_array_equal(picture, expected)


@pytest.mark.parametrize("raw", [raw for raw, _ in KINDS.values()], ids=KINDS)
def test_the_checked_size_is_that_of_the_picture(put, raw):
    info = check_image(put(raw))
    assert (info.height, info.width) == read_image(put(raw)).shape[:2]


@pytest.mark.parametrize("options", [{}, {"progressive": True}, {"restart_marker_blocks": 2}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_jpeg_shows_the_picture_it_was_made_of(put, options, mode):
    picture = read_image(put(encode(Image.fromarray(SMOOTH).convert(mode), "JPEG", quality=95, **options)))
    expected = np.asarray(Image.fromarray(SMOOTH).convert(mode).convert("RGB")).astype(int)
    assert np.abs(picture - expected).mean() < 3


def test_a_turned_jpeg_stands_upright_and_has_the_upright_size(put):
    path = put(encode(SMOOTH, "JPEG", quality=95, exif=turned(8)))
    assert np.abs(read_image(path).astype(int) - np.rot90(SMOOTH)).mean() < 3
    assert (check_image(path).width, check_image(path).height) == (48, 56)


def test_the_first_picture_of_a_jpeg_with_two_counts(put):
    raw = encode(Image.fromarray(SMOOTH), "MPO", save_all=True, append_images=[Image.new("RGB", (8, 8))], quality=95)
    assert np.abs(read_image(put(raw)).astype(int) - SMOOTH).mean() < 3


def test_what_follows_the_end_of_a_jpeg_or_png_does_not_matter(put):
    assert read_image(put(encode(SMOOTH, "JPEG") + b"maker's notes")).shape == SMOOTH.shape
    np.testing.assert_array_equal(read_image(put(encode(RGB) + b"junk")), RGB)


WHOLE = {
    "PNG": encode(RGB),
    "JPEG": encode(SMOOTH, "JPEG"),
    "progressive JPEG": encode(SMOOTH, "JPEG", progressive=True),
    "JPEG with restarts": encode(SMOOTH, "JPEG", restart_marker_blocks=1),
    "BMP": encode(RGB, "BMP"),
    "TIFF": encode(RGB, "TIFF"),
    "WebP": encode(RGB, "WEBP"),
}


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data|Truncated File Read:UserWarning")
@pytest.mark.parametrize("raw", WHOLE.values(), ids=WHOLE)
@pytest.mark.parametrize("function", [read_image, check_image])
def test_no_beginning_of_a_file_gives_a_picture(put, raw, function):
    lengths = sorted({*range(0, len(raw), max(1, len(raw) // 60)), *range(len(raw) - 24, len(raw))})
    for length in lengths:
        with pytest.raises(DataError, match=r"frame\.png: "):
            function(put(raw[:length]))


def test_no_changed_byte_of_a_png_goes_unnoticed(put):
    raw = encode(RGB)
    for place in range(len(raw)):
        damaged = bytearray(raw)
        damaged[place] ^= 0x10
        with pytest.raises(DataError, match=r"frame\.png: "):
            read_image(put(bytes(damaged)))


def test_a_jpeg_whose_tail_was_lost_to_zeros_is_refused(put):
    raw = encode(SMOOTH, "JPEG", quality=95)
    with pytest.raises(DataError, match=r"the JPEG is cut: its end marker is missing after \d+ bytes"):
        read_image(put(raw[: len(raw) * 2 // 3] + bytes(len(raw) // 3)))


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png(*chunks: bytes) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks) + chunk(b"IEND", b"")


def header(width, height):
    return chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))


FRAMES = [Image.fromarray(RGB), Image.fromarray(RGB[::-1].copy())]
BAD_FILES = {
    "zero bytes": (b"", "an image file must hold a picture, got 0 bytes"),
    "text": (
        b"<html>404</html>",
        r"not a readable image \(PNG, JPEG, BMP, TIFF, WEBP are\), it begins with b'<html>40'",
    ),
    "wrong name": (b"GIF89a" + bytes(40), "not a readable image"),
    "PostScript, which Pillow would run": (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "not a readable image",
    ),
    "cut PNG": (encode(RGB)[:-40], r"the PNG is cut: a chunk ends at byte \d+, the file at \d+"),
    "PNG without end": (encode(RGB)[:-12], r"the PNG is cut: its end chunk is missing after \d+ bytes"),
    "PNG without data": (png(header(14, 10)), "the image cannot be decoded"),
    "PNG with too few rows": (
        png(header(14, 10), chunk(b"IDAT", zlib.compress(bytes(43 * 5)))),
        r"the PNG lacks 215 bytes of its pixels",
    ),
    "huge promise": (
        png(header(60000, 60000), chunk(b"IDAT", b"")),
        r"an image must have at most 100000000 pixels \(Image size \(3600000000 pixels\)",
    ),
    "large promise": (
        png(header(11000, 10000), chunk(b"IDAT", b"")),
        "an image must have at most 100000000 pixels, got 11000x10000",
    ),
    "palette PNG with too few rows": (
        png(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 14, 10, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", bytes(range(200, 206))),
            chunk(b"IDAT", zlib.compress(b"\0" + b"\1" * 14)),
        ),
        "the PNG lacks 135 bytes of its pixels",
    ),
    "interlaced PNG with too few rows": (
        png(
            chunk(b"IHDR", struct.pack(">IIBBBBB", 3, 3, 8, 0, 0, 0, 1)),
            chunk(b"IDAT", zlib.compress(_ROWS[:-4])),
        ),
        "the PNG lacks 4 bytes of its pixels",
    ),
    "animated PNG": (
        encode(FRAMES[0], save_all=True, append_images=FRAMES[1:]),
        "a frame must be one picture, got an animated PNG",
    ),
    "animated WebP": (
        encode(FRAMES[0], "WEBP", save_all=True, append_images=FRAMES[1:], lossless=True),
        "a frame must be one picture, got WEBP with 2",
    ),
    "floating point": (
        encode(Image.fromarray(GREY.astype(np.float32)), "TIFF"),
        "must have grey, palette or RGB values of 8 or 16 bits, got mode 'F'",
    ),
    "damaged JPEG header": (b"\xff\xd8" + b"\0" * 40, "the JPEG is damaged in its header"),
    "JPEG segment beyond the end": (b"\xff\xd8\xff\xe0\x40\x00JFIF", "a segment at byte 4 ends beyond the file"),
}


@pytest.mark.filterwarnings("ignore:Image size:PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(("raw", "message"), BAD_FILES.values(), ids=BAD_FILES)
def test_a_file_without_one_whole_picture_is_named_with_the_reason(put, raw, message):
    with pytest.raises(DataError, match=rf"frame\.png: .*({message})"):
        read_image(put(raw))


def test_what_is_no_file_is_named(tmp_path):
    with pytest.raises(MissingDataError, match=r"none\.png: no such image file"):
        read_image(tmp_path / "none.png")
    with pytest.raises(DataError, match=r"the image file cannot be read \(Is a directory\)"):
        check_image(tmp_path)
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    with pytest.raises(
        DataError, match=r"loop\.png: the image file cannot be read \(Too many levels of symbolic links\)"
    ):
        read_image(tmp_path / "loop.png")


def test_names_in_any_script_are_read(tmp_path):
    (tmp_path / "śćieżka 图.png").write_bytes(encode(RGB))
    np.testing.assert_array_equal(read_image(str(tmp_path / "śćieżka 图.png")), RGB)


def test_checking_a_png_decodes_nothing(put, monkeypatch):
    path = put(encode(RGB))
    monkeypatch.setattr(Image.Image, "load", None)
    monkeypatch.setattr("PIL.ImageFile.ImageFile.load", None)
    assert check_image(path).width == 14


def test_a_black_last_row_is_no_fault(put):
    barred = RGB.copy()
    barred[-3:] = 0
    np.testing.assert_array_equal(read_image(put(encode(barred))), barred)


@given(aspect=st.floats(0.4, 2.5), width=st.integers(8, 60), height=st.integers(8, 60))
def test_square_pixels_move_every_position_by_the_stated_scale(aspect, width, height):
    scale_x, scale_y = square_scale(aspect)
    assert scale_x / scale_y == pytest.approx(aspect)
    assert min(scale_x, scale_y) == 1
    # Red grows with x, green with y: a stretched picture says where each of its pixels came from.
    rows, columns = np.mgrid[:height, :width]
    picture = np.stack([4 * columns, 4 * rows, 0 * rows], axis=-1).astype(np.uint8)
    wide = square_pixels(picture, aspect)
    assert wide.shape[:2] == (np.ceil(height * scale_y - 1e-6), np.ceil(width * scale_x - 1e-6))
    u, v = np.arange(wide.shape[1]) + 0.5, np.arange(wide.shape[0]) + 0.5
    np.testing.assert_allclose(wide[0, :, 0], 4 * np.clip(u / scale_x - 0.5, 0, width - 1), atol=0.7)
    np.testing.assert_allclose(wide[:, 0, 1], 4 * np.clip(v / scale_y - 0.5, 0, height - 1), atol=0.7)


def test_square_frames_stay_the_same_object():
    assert square_pixels(RGB, 1.0) is RGB


def test_a_wide_dvd_frame_becomes_960_by_576():
    assert square_pixels(np.zeros((576, 720, 3), np.uint8), 4 / 3).shape == (576, 960, 3)


@pytest.mark.parametrize("aspect", [0, -1.0, float("nan"), float("inf")])
def test_an_impossible_aspect_is_refused(aspect):
    with pytest.raises(ValueError, match="pixel_aspect must be positive, got"):
        square_scale(aspect)


@given(st.lists(st.booleans(), min_size=1, max_size=30))
def test_held_frames_show_the_last_file_before_or_the_first(present):
    files = [f"{index}.png" if here else "" for index, here in enumerate(present)]
    if not any(present):
        with pytest.raises(ValueError, match=rf"at least one frame must have a file, got none of {len(files)}"):
            held_frames(files)
        return
    for index, shown in enumerate(held_frames(files)):
        before = [k for k in range(index + 1) if present[k]]
        assert shown == (before[-1] if before else present.index(True))


def test_frames_of_two_sizes_are_no_clip(tmp_path):
    for name, picture in (("a.png", RGB), ("b.png", RGB[:, 1:].copy())):
        (tmp_path / name).write_bytes(encode(picture))
    files = [str(tmp_path / name) for name in ("a.png", "b.png")]
    with pytest.raises(
        DataError, match=r"b\.png: all frames of a clip must have one size, got 13x10 after 14x10 \(.*a\.png\)"
    ):
        list(iter_images(files, [0, 1]))
