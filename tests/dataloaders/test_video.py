import re
import struct
from pathlib import Path

import av
import numpy as np
import pytest
from av.stream import Disposition

from common.files import ROOT
from dataloaders.video import VideoError, VideoReader, decode_frames, is_video_name, open_input, to_array
from tests.helpers.toy import frame_naming, frames_of, naming_video, read_naming, write_naming_video, write_video

CODECS = [
    ("clip.avi", "mpeg4"),
    ("clip.mp4", "libx264"),
    ("clip.mkv", "libx264"),
    ("clip.webm", "libvpx"),
    ("clip.ts", "libx264"),
    ("clip.mpg", "mpeg2video"),
    ("clip.flv", "flv"),
    ("clip.wmv", "wmv2"),
    ("clip.h264", "libx264"),
]


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_every_frame_comes_once_and_in_order(tmp_path, name, codec):
    path = write_naming_video(tmp_path / name, 30, codec=codec)

    assert frames_of(decode_frames(path)) == list(range(30))


@pytest.mark.parametrize(("name", "codec"), [("clip.avi", "mpeg4"), ("clip.mkv", "libx264")])
def test_frames_come_in_the_order_shown_though_b_frames_are_stored_in_another(tmp_path, name, codec):
    options = {"x264-params": "scenecut=0"} if codec == "libx264" else {}
    path = write_naming_video(tmp_path / name, 40, codec=codec, b_frames=2, options=options)
    with av.open(str(path)) as container:
        assert container.streams.video[0].codec_context.has_b_frames

    assert frames_of(decode_frames(path)) == list(range(40))


def test_the_header_is_not_believed_about_the_number_of_frames(tmp_path):
    """Trap 10: CAP_PROP_FRAME_COUNT trusted."""
    path = write_naming_video(tmp_path / "clip.avi", 25)
    content = bytearray(path.read_bytes())
    for tag, offset in ((b"avih", 8 + 16), (b"strh", 8 + 32)):  # dwTotalFrames of the file, dwLength of the stream
        place = content.index(tag) + offset
        assert int.from_bytes(content[place : place + 4], "little") == 25
        content[place : place + 4] = (60).to_bytes(4, "little")
    path.write_bytes(content)

    with VideoReader(path) as reader:
        assert reader.stream.frames == 60
        assert len(list(reader)) == 25


def test_pixels_are_rgb_unless_bgr_is_asked_for(tmp_path):
    red = np.zeros((48, 64, 3), np.uint8)
    red[..., 0] = 250
    path = write_video(tmp_path / "red.avi", [red] * 3)

    rgb, bgr = (np.stack(list(decode_frames(path, pixel_format=name))) for name in ("rgb24", "bgr24"))

    assert rgb.shape == (3, 48, 64, 3) and rgb.dtype == np.uint8
    assert rgb[..., 0].min() > 240 and rgb[..., 2].max() < 10
    assert np.array_equal(rgb, bgr[..., ::-1])


@pytest.mark.parametrize(("rotation", "quarter_turns"), [(90, 1), (180, 2), (-90, 3)])
def test_a_turned_video_comes_upright(tmp_path, rotation, quarter_turns):
    """A telephone stores what it saw lying on its side, and a display matrix that says how to turn it."""
    lying = [np.ascontiguousarray(np.rot90(frame, -quarter_turns)) for frame in naming_video(5)]
    path = write_video(tmp_path / "turned.mp4", lying, codec="libx264", rotation=rotation)

    with VideoReader(path) as reader:
        frames = [to_array(frame) for frame in reader]

    assert (reader.width, reader.height) == (160, 120)
    assert [frame.shape for frame in frames] == [(120, 160, 3)] * 5
    for number, frame in enumerate(frames):
        named = read_naming(frame)
        assert (named.frame, named.mirrored, named.upside_down) == (number, False, False)


def test_a_truncated_video_gives_its_frames_up_to_the_damage_and_counts_the_damage(tmp_path):
    path = write_naming_video(tmp_path / "clip.avi", 40)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])

    with VideoReader(path) as reader:
        frames = [to_array(frame) for frame in reader]

    assert 15 < len(frames) < 30
    assert frames_of(frames[:-1]) == list(range(len(frames) - 1))
    assert reader.num_damaged == 1


def test_a_hole_in_a_video_costs_the_frames_there_and_no_others(tmp_path):
    path = write_naming_video(tmp_path / "clip.mp4", 40, codec="mpeg4", options={"g": "4"})
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + len(content) // 10] = bytes(len(content) // 10)
    path.write_bytes(content)

    with VideoReader(path) as reader:
        frames = [to_array(frame) for frame in reader]

    assert reader.num_damaged > 0
    assert frames_of(frames[:15]) == list(range(15))
    assert frames_of(frames[-10:]) == list(range(30, 40))


def test_a_whole_video_counts_no_damage(tmp_path):
    with VideoReader(write_naming_video(tmp_path / "clip.avi", 40, b_frames=2)) as reader:
        assert len(list(reader)) == 40
        assert reader.num_damaged == 0


@pytest.mark.parametrize(("ending", "options"), [("avi", {}), ("mkv", {}), ("mp4", {"movflags": "faststart"})])
def test_a_file_that_breaks_off_says_so(tmp_path, ending, options):
    """Copied or downloaded in part: the header has the length of the whole."""
    path = tmp_path / f"clip.{ending}"
    with av.open(str(path), "w", options=options) as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = 160, 120, "yuv420p"
        for pixels in naming_video(100, 0, (160, 120)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(path) as reader:
        assert len(list(reader)) == 100 and reader.lost is None
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with VideoReader(path) as reader:
        num_frames = len(list(reader))
        assert 30 < num_frames < 70
        assert reader.lost == f"it breaks off after {num_frames / 25:.0f} of 4 s"


@pytest.mark.parametrize(
    ("name", "codec", "kind", "expected"),
    [("a.h264", "libx264", "h264", 10), ("a.mjpeg", "mjpeg", "mjpeg", None), ("a.avi", "mjpeg", "avi", 10)],
)
def test_a_rate_that_no_header_states_is_not_made_up(tmp_path, name, codec, kind, expected):
    """FFmpeg says 25 for any stream without a container."""
    with av.open(str(tmp_path / name), "w", format=kind) as container:
        stream = container.add_stream(codec, rate=10)
        stream.width, stream.height = 160, 120
        stream.pix_fmt = "yuvj420p" if codec == "mjpeg" else "yuv420p"
        for pixels in naming_video(30, 0, (160, 120)):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    with VideoReader(tmp_path / name) as reader:
        assert len(list(reader)) == 30 and reader.fps == expected and reader.lost is None


def test_what_is_no_video_is_refused_with_the_reason(tmp_path):
    (tmp_path / "empty.avi").touch()
    (tmp_path / "text.avi").write_text("not a video\n" * 100)
    (tmp_path / "noise.mp4").write_bytes(np.random.default_rng(0).bytes(5000))
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 44100), np.float32), format="fltp", layout="mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode())

    reasons = {}
    for path in tmp_path.iterdir():
        with pytest.raises(VideoError) as error:
            list(decode_frames(path))
        reasons[path.name] = str(error.value)

    assert reasons == {
        "empty.avi": "the file is empty (0 bytes)",
        "text.avi": "it cannot be opened as a video",
        "noise.mp4": "it cannot be opened as a video",
        "sound.mp4": "it has no video stream",
    }


@pytest.mark.parametrize("name", ["list.mp4", "list.m3u8", "list.ffconcat", "list"])
@pytest.mark.parametrize("kind", ["ffconcat", "hls", "hls with an address"])
def test_a_playlist_opens_no_other_file(tmp_path, name, kind):
    other = write_naming_video(tmp_path / "other.ts", 10, codec="libx264")
    content = {
        "ffconcat": "ffconcat version 1.0\nfile other.ts\n",
        "hls": "#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nother.ts\n#EXT-X-ENDLIST\n",
        "hls with an address": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\nfile://{other}\n#EXT-X-ENDLIST\n",
    }[kind]
    (tmp_path / name).write_text(content)

    with pytest.raises(VideoError, match="cannot be opened as a video"):
        list(decode_frames(tmp_path / name))


def test_a_text_and_a_picture_are_no_videos_whatever_their_names(tmp_path):
    (tmp_path / "text.nfo").write_text("letters, not pictures\n" * 100)
    with av.open(str(tmp_path / "picture.png"), "w") as container:
        stream = container.add_stream("png")
        stream.width, stream.height, stream.pix_fmt = 160, 120, "rgb24"
        container.mux(stream.encode(av.VideoFrame.from_ndarray(next(iter(naming_video(1))), format="rgb24")))
    (tmp_path / "picture.png").rename(tmp_path / "picture.avi")

    for path in (tmp_path / "text.nfo", tmp_path / "picture.avi"):
        with pytest.raises(VideoError, match="cannot be opened as a video"):
            list(decode_frames(path))


def test_a_header_without_frames_is_refused(tmp_path):
    path = write_naming_video(tmp_path / "clip.mkv", 20, codec="libx264")
    path.write_bytes(path.read_bytes()[:800])

    with pytest.raises(VideoError, match="no frame of it can be decoded|cannot be opened as a video"):
        list(decode_frames(path))


@pytest.mark.parametrize(("name", "codec"), CODECS)
def test_a_video_that_breaks_off_anywhere_is_no_error_of_the_disk(tmp_path, name, codec):
    """Which would end the whole run; FFmpeg calls a cut header of Matroska an input/output error."""
    content = write_naming_video(tmp_path / name, 8, codec=codec, size=(64, 48)).read_bytes()
    cut = tmp_path / f"cut{name}"
    refused = 0
    for length in [*range(1, min(len(content), 700), 11), len(content) // 2]:
        cut.write_bytes(content[:length])
        try:
            list(decode_frames(cut))
        except VideoError:
            refused += 1
    assert refused


def test_a_missing_file_is_an_error_of_the_disk_and_not_a_bad_video(tmp_path):
    with pytest.raises(FileNotFoundError):
        list(decode_frames(tmp_path / "none.avi"))


@pytest.mark.parametrize(
    "name",
    [
        "a clip.avi",
        "clip [1] (2).avi",
        "v1.2.final.avi",
        "100%_%03d.avi",
        "-dash.avi",
        "Übung 体操.avi",
        "a'b\"c;&#?.avi",
        "12:30.avi",
        "http:.avi",
    ],
)
def test_awkward_names_are_read_like_others(tmp_path, monkeypatch, name):
    path = write_naming_video(tmp_path / "odd folder" / "x.avi", 4).rename(tmp_path / "odd folder" / name)
    monkeypatch.chdir(path.parent)

    assert frames_of(decode_frames(path)) == [0, 1, 2, 3]
    assert frames_of(decode_frames(name)) == [0, 1, 2, 3]


def test_metadata_that_is_no_utf8_does_not_spoil_a_video(tmp_path):
    path = write_naming_video(tmp_path / "clip.avi", 4, metadata={"title": "TITLEXXX"})
    content = path.read_bytes()
    assert content.count(b"TITLEXXX") == 1
    path.write_bytes(content.replace(b"TITLEXXX", b"caf\xe9\xff\xfe\x80!"))
    if int(av.__version__.partition(".")[0]) < 19:
        with pytest.raises(UnicodeDecodeError):
            av.open(str(path))

    assert frames_of(decode_frames(path)) == [0, 1, 2, 3]


@pytest.mark.parametrize("version", ["14.1.0", "18.1.0", "19.0.0rc1", "19.0.2", "20.1.0"])
def test_videos_open_with_the_arguments_that_this_pyav_has(tmp_path, monkeypatch, version):
    """PyAV 19 has no metadata_errors; a TypeError there was taken for a fault of every video."""
    path, real = write_naming_video(tmp_path / "clip.avi", 4), av.open

    def open_18(file, mode=None, container_options=None, timeout=None, *, metadata_errors):
        assert metadata_errors == "replace"
        return real(file, mode, container_options=container_options, timeout=timeout)

    def open_19(file, mode=None, container_options=None, timeout=None):
        return real(file, mode, container_options=container_options, timeout=timeout)

    monkeypatch.setattr(av, "__version__", version)
    monkeypatch.setattr(av, "open", open_19 if int(version[:2]) >= 19 else open_18)
    assert frames_of(decode_frames(path)) == [0, 1, 2, 3]
    with open_input(f"file:{path}", timeout=5) as container:
        assert len(list(container.decode(video=0))) == 4


def test_nothing_else_opens_a_video_for_reading():
    """Else its arguments would have to fit every version of PyAV there too."""
    modules = [
        path for folder in ("common", "network", "dataloaders", "engine") for path in (ROOT / folder).rglob("*.py")
    ]
    calls = {f"{path.name}: {call}" for path in modules for call in re.findall(r"av\.open\(.*", path.read_text())}
    assert {call for call in calls if ', "w"' not in call} == {"video.py: av.open(address, **options)"}


def test_the_frame_rate_is_the_files_own(tmp_path):
    with VideoReader(write_naming_video(tmp_path / "clip.avi", 4, fps=30)) as reader:
        assert reader.fps == 30


def test_hidden_files_and_texts_are_not_taken_for_videos(tmp_path):
    names = ["clip.avi", "clip.MP4", "clip", "clip.xyz", "._clip.avi", ".clip.avi", ".DS_Store", "README.txt", "a.JPG"]

    assert [name for name in names if is_video_name(tmp_path / name)] == ["clip.avi", "clip.MP4", "clip", "clip.xyz"]


def with_cover(path: Path, *, moving: bool = True) -> Path:
    """A file whose first stream is a cover picture, as drones and music players write it."""
    with av.open(str(path), "w") as container:
        cover = container.add_stream("mjpeg", rate=1)
        cover.width, cover.height, cover.pix_fmt, cover.disposition = 64, 48, "yuvj420p", Disposition.attached_pic
        other = container.add_stream("mpeg4" if moving else "aac", rate=25 if moving else 44100)
        if moving:
            other.width, other.height, other.pix_fmt = 64, 48, "yuv420p"
        picture = av.VideoFrame.from_ndarray(np.full((48, 64, 3), 200, np.uint8), format="rgb24")
        for packet in cover.encode(picture.reformat(format="yuvj420p")):
            container.mux(packet)
        if moving:
            for index in range(7):
                frame = av.VideoFrame.from_ndarray(frame_naming(index, size=(64, 48)), format="rgb24")
                container.mux(other.encode(frame))
            container.mux(other.encode(None))
        container.mux(cover.encode(None))
    return path


def boxes(content: bytes) -> list[tuple[bytes, bytes]]:
    """The boxes of an MP4 file, or inside of one: (kind, whole box)."""
    found, start = [], 0
    while start < len(content):
        size, kind = struct.unpack(">I4s", content[start : start + 8])
        found.append((kind, content[start : start + size]))
        start += size
    return found


def cover_first(path: Path) -> Path:
    """Moves the metadata, which hold the cover, in front of the tracks, as cameras of drones write them."""
    order = (b"mvhd", b"udta", b"trak")
    parts = []
    for kind, box in boxes(path.read_bytes()):
        if kind == b"moov":
            box = box[:8] + b"".join(part for _, part in sorted(boxes(box[8:]), key=lambda part: order.index(part[0])))
        parts.append(box)
    path.write_bytes(b"".join(parts))
    return path


def test_a_cover_picture_in_front_is_not_the_video(tmp_path):
    """It was answered on: 1 frame, 9e+04 frames a second."""
    path = cover_first(with_cover(tmp_path / "drone.mp4"))
    with VideoReader(path) as reader:
        assert reader.container.streams.video[0].disposition & Disposition.attached_pic
        assert len(list(reader)) == 7 and reader.fps == 25


def test_a_song_with_a_cover_says_that_it_has_nothing_else(tmp_path):
    with pytest.raises(VideoError, match="it has no video stream, only a cover picture"):
        VideoReader(with_cover(tmp_path / "song.mp4", moving=False))
