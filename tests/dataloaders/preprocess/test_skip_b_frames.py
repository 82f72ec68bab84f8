from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.video.frame import PictureType

from dataloaders.preprocess import extract
from dataloaders.preprocess.extract import extract_video
from dataloaders.preprocess.mpeg4_headers import B_PICTURE
from dataloaders.preprocess.resample import Irregular
from dataloaders.preprocess.skip_b_frames import wanted_frames
from dataloaders.video import VideoReader, to_array
from tests.helpers.toy import frames_of, write_naming_video

SIZE = (80, 60)
PICTURE = b"\x00\x00\x01\xb6"  # the start code of a picture; its kind is in the two bits that follow


def picture_types(path: Path) -> str:
    with av.open(str(path)) as container:
        return "".join(PictureType(frame.pict_type).name for frame in container.decode(video=0))


def jpegs(folder: Path) -> list[bytes]:
    return [path.read_bytes() for path in sorted(folder.iterdir())]


def skipping(path: Path, every: int) -> list[tuple[int, object]]:
    with VideoReader(path) as reader:
        return [(index, to_array(frame)) for index, frame in wanted_frames(reader, lambda i: i % every == 0)]


def referred(types: str, wanted: set[int]) -> set[int]:
    """Wanted frames and those that they refer to: P-frames to the last I or P before, B-frames to the next one too."""
    needed, new = set(), set(wanted)
    while new:
        index = new.pop()
        needed.add(index)
        others = [i for i, kind in enumerate(types) if kind != "B"]
        if types[index] != "I":
            new.add(max(i for i in others if i < index))
        if types[index] == "B":
            new.add(min(i for i in others if i > index))
        new -= needed
    return needed


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4", "clip.mkv"])
@pytest.mark.parametrize("b_frames", [0, 1, 2, 3])
@pytest.mark.parametrize("every", [2, 3, 4, 50])
def test_only_what_is_wanted_and_referred_to_is_decoded_and_is_as_in_the_whole_video(
    tmp_path, monkeypatch, name, b_frames, every
):
    path = write_naming_video(tmp_path / name, 41, b_frames=b_frames, options={"g": "10"})
    types = picture_types(path)
    assert ("B" in types) == (b_frames > 0) and types.count("I") > 2

    found = skipping(path, every)
    extract_video(path, tmp_path / "few", SIZE, every=every)
    monkeypatch.setattr(extract, "_without_unwanted", extract._all_decoded)
    extract_video(path, tmp_path / "all", SIZE, every=every)

    assert frames_of(pixels for _, pixels in found) == [index for index, _ in found]
    assert [index for index, _ in found] == sorted(referred(types, set(range(0, 41, every)))) != list(range(41))
    assert jpegs(tmp_path / "few") == jpegs(tmp_path / "all")


def copy_packets(source: Path, path: Path, change: Callable[[list[bytes]], list[bytes]]) -> Path:
    """The same stream with other packets."""
    with av.open(str(source)) as read, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(read.streams.video[0])
        for number, content in enumerate(change([bytes(packet) for packet in read.demux(video=0) if packet.size])):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            container.mux(packet)
    return path


NOTHING = b"\x00\x00\x01\xb6\x50\x4f"  # a P-frame that is not coded


def write_packed(path: Path, num_frames: int) -> Path:
    """As DivX and XviD write AVI files with B-frames: a packet with a P- and a B-frame, then one of a few bytes."""

    def packed(contents: list[bytes]) -> list[bytes]:
        packed: list[bytes] = []
        owing = False
        for content in contents:
            is_b = content[content.find(PICTURE) + 4] >> 6 == B_PICTURE
            if is_b and not owing:
                packed[-1] += content
            else:
                packed += [NOTHING] * (owing and not is_b) + [content]
            owing = is_b
        return [b"\x00\x00\x01\xb2DivX503b1393p" + packed[0], *packed[1:], *[NOTHING] * owing]

    return copy_packets(write_naming_video(path.with_suffix(".mkv"), num_frames, b_frames=1), path, packed)


def test_packets_of_two_pictures_are_taken_apart_first(tmp_path):
    path = write_packed(tmp_path / "clip.avi", 30)
    with av.open(str(path)) as container:
        assert sum(bytes(packet).count(PICTURE) == 2 for packet in container.demux(video=0)) > 5
    with VideoReader(path) as reader:
        assert frames_of(map(to_array, reader)) == list(range(30))

    found = skipping(path, 4)

    assert frames_of(pixels for _, pixels in found) == [index for index, _ in found]
    assert len(found) < 25


@pytest.mark.parametrize("b_frames", [0, 1])
def test_packets_without_a_picture_give_no_frame_and_move_none(tmp_path, b_frames):
    """NOTHING as cameras and XviD write it for a frame that repeats the last; one byte as the DivX files of HMDB51."""
    plain = write_naming_video(tmp_path / "plain.mkv", 31, b_frames=b_frames, options={"g": "10"})
    user_data = b"\x00\x00\x01\xb2DivX503b1393"
    path = copy_packets(
        plain,
        tmp_path / "clip.avi",
        lambda all_: [user_data + all_[0], b"\x7f", *all_[1:10], *[NOTHING] * (not b_frames), *all_[10:]],
    )
    with VideoReader(path) as reader:
        assert frames_of(map(to_array, reader)) == list(range(31))

    found = skipping(path, 4)

    assert frames_of(pixels for _, pixels in found) == [index for index, _ in found]
    assert set(range(0, 31, 4)) < {index for index, _ in found} < set(range(31))


def test_a_stream_that_ends_without_a_picture_is_decoded_as_a_whole(tmp_path):
    plain = write_naming_video(tmp_path / "plain.mkv", 12)
    path = copy_packets(plain, tmp_path / "clip.avi", lambda contents: [*contents, NOTHING])
    with VideoReader(path) as reader, pytest.raises(Irregular):
        list(wanted_frames(reader, lambda i: i % 4 == 0))


def test_a_stream_whose_frame_size_changes_is_decoded_as_a_whole(tmp_path):
    plain = write_naming_video(tmp_path / "plain.mkv", 12)
    other = write_naming_video(tmp_path / "other.mkv", 12, size=(96, 72))
    with av.open(str(other)) as container:
        setup = container.streams.video[0].codec_context.extradata
        more = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    path = copy_packets(plain, tmp_path / "clip.avi", lambda contents: [*contents, setup + more[0], *more[1:]])
    with VideoReader(path) as reader:
        assert len({(frame.width, frame.height) for frame in reader}) == 2
    with VideoReader(path) as reader, pytest.raises(Irregular):
        list(wanted_frames(reader, lambda i: i % 4 == 0))


def test_another_codec_is_decoded_as_a_whole(tmp_path):
    path = write_naming_video(tmp_path / "clip.mp4", 12, codec="libx264", b_frames=2)
    with VideoReader(path) as reader, pytest.raises(Irregular):
        list(wanted_frames(reader, lambda i: i % 4 == 0))


@pytest.mark.parametrize("place", [0.3, 0.5, 0.7, 0.9])
@pytest.mark.parametrize("damage", ["hole", "cut"])
def test_a_damaged_video_gives_what_it_gives_when_decoded_as_a_whole(tmp_path, monkeypatch, place, damage):
    path = write_naming_video(tmp_path / "clip.avi", 60, b_frames=2)
    content = bytearray(path.read_bytes())
    at = int(len(content) * place)
    content = content[:at] if damage == "cut" else content[:at] + bytes(3000) + content[at + 3000 :]
    path.write_bytes(content)

    few = extract_video(path, tmp_path / "few", SIZE, every=4)
    monkeypatch.setattr(extract, "_without_unwanted", extract._all_decoded)
    whole = extract_video(path, tmp_path / "all", SIZE, every=4)

    assert few.num_frames == whole.num_frames and few.refused == whole.refused
    assert jpegs(tmp_path / "few") == jpegs(tmp_path / "all")
