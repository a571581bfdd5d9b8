"""Damages of SEWA's videos: Xvid AVI, and what users put in its place."""

from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from numpy.typing import NDArray

from tests.fault_injection.harm import cut, flip_bit, overwrite, register_unreadable, through_link
from tests.fault_injection.sewa import COUNT, KEYS, OTHER, SEWA, landmarks, video
from tests.material.odd_videos import write_video
from tests.material.sewa_files import draw_number, write_numbered_avi

register_unreadable(SEWA, "a video", video)


def packets(path: Path) -> list[tuple[int, int]]:
    """Return place and size of the data of every picture of an AVI."""
    with av.open(str(path)) as container:
        return [(packet.pos + 8, packet.size) for packet in container.demux(video=0) if packet.size]


def flip(path: Path, loud: bool) -> Path:
    """Flip a bit of the pictures that the decoder notices, or one that it does not and that many pixels show."""
    raw, wanted = path.read_bytes(), decoded(path)[1]
    for place, size in packets(path)[:6]:
        for at in range(place + size // 4, place + size, 3):
            flip_bit(path, at)
            noticed, pictures = decoded(path)
            alike = len(pictures) == len(wanted)
            if noticed if loud else alike and not noticed and np.abs(pictures - wanted).mean() > 1:
                return path
            path.write_bytes(raw)
    raise ValueError(f"{path}: no bit of it is such a one.")


def decoded(path: Path) -> tuple[bool, NDArray[np.float32]]:
    """Return whether FFmpeg marks a frame as damaged, and all frames, grey."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    return any(frame.is_corrupt for frame in frames), np.stack([f.to_ndarray(format="gray") for f in frames]).astype(
        np.float32
    )


def numbered(root: Path, numbers: Iterable[int]) -> Path:
    """Write the video anew with other pictures."""
    return write_numbered_avi(video(root), numbers)


def renamed(root: Path, suffix: str, codec: str, **options: object) -> Path:
    """Write the same pictures with another codec and container, and name it .avi."""
    other = video(root).with_suffix(suffix)
    write_video(other, codec, COUNT, **options)  # pyright: ignore[reportArgumentType]
    return other.replace(video(root))


@SEWA.refused("a video is cut in the middle")
def cut_video(root):
    return cut(video(root))


@SEWA.refused("a video lacks its last kilobyte")
def cut_end(root):
    path = video(root)
    path.write_bytes(path.read_bytes()[:-1024])
    return path


@SEWA.refused("a video is cut between two frames")
def cut_between(root):
    path = video(root)
    place, size = packets(path)[15]
    path.write_bytes(path.read_bytes()[: place + size + size % 2])
    return path


@SEWA.refused("the header of a video is zeros")
def zero_header(root):
    return overwrite(video(root), bytes(64), 0)


@SEWA.refused("the header of a video is noise")
def noise_header(root):
    return overwrite(video(root), np.random.default_rng(0).bytes(2000), 4)


@SEWA.refused("the codec of a video has an unknown name")
def unknown_codec(root):
    path = video(root)
    raw = path.read_bytes().replace(b"XVID", b"XX9Q")
    path.write_bytes(raw)
    return path


@SEWA.refused("a block of 512 bytes in a video is zeros")
def zero_block(root):
    path = video(root)
    place, _ = packets(path)[0]
    return overwrite(path, bytes(512), place + 600)


@SEWA.refused("a block of 512 bytes in a video is noise")
def noise_block(root):
    path = video(root)
    place, _ = packets(path)[0]
    return overwrite(path, np.random.default_rng(0).bytes(512), place + 600)


@SEWA.refused("a picture in the middle of a video is damaged, and later ones lean on it")
def damaged_reference(root):
    path = video(root)
    place, size = packets(path)[9]
    return overwrite(path, np.random.default_rng(1).bytes(size - 12), place + 10)


@SEWA.refused("a bit flips in a video and breaks its syntax")
def loud_flip(root):
    return flip(video(root), loud=True)


@SEWA.refused("a bit flips in every video and breaks its syntax", whole=True)
def all_flipped(root):
    return tuple(flip(root / key / f"{key}.avi", loud=True) for key in KEYS[:3])


@SEWA.unseen("a bit flips in a video and leaves its syntax whole")
def silent_flip(root):
    return flip(video(root), loud=False)


@SEWA.refused("frames were dropped from a video")
def dropped_frames(root):
    return numbered(root, [n for n in range(COUNT) if n not in (7, 8)])


@SEWA.refused("frames were dropped from a video and its header still counts them")
def dropped_with_header(root):
    path = video(root)
    raw, places = path.read_bytes(), packets(path)
    first, last = places[8][0] - 8, places[10][0] - 8
    path.write_bytes(
        raw[:first] + b"JUNK" + (last - first - 8).to_bytes(4, "little") + bytes(last - first - 8) + raw[last:]
    )
    return path


@SEWA.refused("a frame of a video is an empty packet, as a camera writes for a frame it lost")
def empty_packet(root):
    path = video(root)
    places = packets(path)
    place, size = places[-2]
    raw = bytearray(path.read_bytes())
    raw[place - 4 : place] = bytes(4)
    raw[place : place + 8] = b"JUNK" + (size + size % 2 - 8).to_bytes(4, "little")
    path.write_bytes(raw)
    return path


@SEWA.refused("frames were doubled in a video")
def doubled_frames(root):
    return numbered(root, [*range(12), 11, 11, *range(12, COUNT)])


@SEWA.unseen("a frame was dropped and another doubled, as a change of the frame rate does")
def dropped_and_doubled(root):
    return numbered(root, [*range(5), *range(6, 15), 14, *range(15, COUNT)])


@SEWA.refused("the frame rate was halved")
def halved_rate(root):
    return numbered(root, range(0, COUNT, 2))


@SEWA.refused("the video of another segment is copied over", records=KEYS[:2])
def video_of_another(root):
    video(root).write_bytes((root / OTHER / f"{OTHER}.avi").read_bytes())
    return video(root)


@SEWA.unseen("the videos of two segments of one length are exchanged")
def exchanged_videos(root):
    one, other = video(root), root / OTHER / f"{OTHER}.avi"
    raw = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(raw)
    return one


@SEWA.harmless("H.264 in MP4 is named .avi")
def h264_in_mp4(root):
    renamed(root, ".mp4", "libx264")


@SEWA.harmless("Motion JPEG in AVI")
def motion_jpeg(root):
    renamed(root, ".mjpeg.avi", "mjpeg", pix_fmt="yuvj420p")


@SEWA.harmless("FFV1 in Matroska is named .avi")
def lossless(root):
    renamed(root, ".mkv", "ffv1")


@SEWA.harmless("a video of variable frame rate")
def variable_rate(root):
    times = np.cumsum(np.random.default_rng(0).integers(20, 90, COUNT))
    renamed(root, ".mkv", "ffv1", milliseconds=(times - times[0]).tolist())


@SEWA.harmless("a video whose pixels are said not to be square")
def pixel_aspect(root):
    renamed(root, ".mp4", "libx264", pixel_aspect=Fraction(16, 15))


@SEWA.harmless("a video in grey")
def grey(root):
    renamed(root, ".mkv", "ffv1", pix_fmt="gray")


def _write_sound(path: Path) -> Path:
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("pcm_s16le", rate=8000)
        stream.layout = "mono"  # pyright: ignore[reportAttributeAccessIssue]
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 8000), np.int16), layout="mono")
        frame.sample_rate = 8000
        container.mux(stream.encode(frame))  # pyright: ignore[reportAttributeAccessIssue]
    return path


@SEWA.refused("a file holds sound and no picture")
def sound_only(root):
    return _write_sound(video(root))


@SEWA.refused("a video changes its size in the middle")
def changing_size(root):
    path = video(root)
    pictures = [draw_number(n) if n < 12 else draw_number(n)[:120, :160] for n in range(COUNT)]
    with av.open(str(path), "w", format="avi") as container:
        stream = container.add_stream("mjpeg", rate=25)
        stream.width, stream.height, stream.pix_fmt = 320, 240, "yuvj420p"
        encoders = {}
        for number, picture in enumerate(pictures):
            height, width = picture.shape[:2]
            if width not in encoders:
                encoder = av.CodecContext.create("mjpeg", "w")
                encoder.width, encoder.height, encoder.pix_fmt = width, height, "yuvj420p"
                encoder.time_base = Fraction(1, 25)
                encoders[width] = encoder
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format="yuvj420p")
            frame.pts, frame.time_base = number, Fraction(1, 25)
            for packet in encoders[width].encode(frame):
                packet.stream = stream
                container.mux(packet)
    return path


@SEWA.refused("a video was made smaller, its landmarks were not")
def smaller_video(root):
    write_video(video(root), "mpeg4", COUNT, draw=lambda n: np.ascontiguousarray(draw_number(n)[::2, ::2]))
    return landmarks(root)


@SEWA.refused("a video of one frame")
def one_frame(root):
    return numbered(root, range(1))


@SEWA.harmless("a video is a link")
def linked_video(root):
    through_link(video(root))


@SEWA.harmless("bytes follow on the end of a video")
def longer_file(root):
    with video(root).open("ab") as file:
        file.write(b"\0" * 5000)
