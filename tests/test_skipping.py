from fractions import Fraction
from pathlib import Path

import av
import pytest
from av.video.frame import PictureType

from dataloaders import extract
from dataloaders.extract import extract_video
from dataloaders.mpeg4 import B_PICTURE
from dataloaders.sampling import Irregular
from dataloaders.skipping import wanted_frames
from dataloaders.video import VideoReader, to_array
from tests.toy import frames_of, write_naming_video

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


@pytest.mark.parametrize("name", ["clip.avi", "clip.mp4", "clip.mkv"])
@pytest.mark.parametrize("b_frames", [1, 2, 3])
@pytest.mark.parametrize("every", [2, 3, 4, 50])
def test_frames_without_the_b_frames_between_are_those_of_the_whole_video(tmp_path, monkeypatch, name, b_frames, every):
    path = write_naming_video(tmp_path / name, 41, b_frames=b_frames, options={"g": "20"})
    types = picture_types(path)
    assert "B" in types

    found = skipping(path, every)
    extract_video(path, tmp_path / "few", SIZE, every=every)
    monkeypatch.setattr(extract, "_without_unwanted", extract._all_decoded)
    extract_video(path, tmp_path / "all", SIZE, every=every)

    unwanted = [i for i, kind in enumerate(types) if kind == "B" and i % every]
    assert unwanted and not {index for index, _ in found} & set(unwanted)  # they were not decoded
    assert frames_of(pixels for _, pixels in found) == [index for index, _ in found]
    assert {index for index, _ in found} == set(range(41)) - set(unwanted)
    assert jpegs(tmp_path / "few") == jpegs(tmp_path / "all")


def write_packed(path: Path, num_frames: int) -> Path:
    """As DivX and XviD write AVI files with B-frames: a packet with a P- and a B-frame, then one of a few bytes."""
    plain = write_naming_video(path.with_suffix(".mkv"), num_frames, b_frames=1)
    nothing = b"\x00\x00\x01\xb6\x50\x4f"  # a P-frame that is not coded
    packed: list[bytes] = []
    owing = False
    with av.open(str(plain)) as source, av.open(str(path), "w") as container:
        stream = container.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            content = bytes(packet)
            is_b = content and content[content.find(PICTURE) + 4] >> 6 == B_PICTURE
            if is_b and not owing:
                packed[-1] += content
            elif content:
                packed += [nothing] * (owing and not is_b) + [content]
            owing = bool(is_b)
        packed[0] = b"\x00\x00\x01\xb2DivX503b1393p" + packed[0]
        for number, content in enumerate(packed):
            packet = av.Packet(content)
            packet.stream, packet.time_base = stream, Fraction(1, 25)
            packet.pts = packet.dts = number
            packet.is_keyframe = number == 0
            container.mux(packet)
    return path


def test_packets_of_two_pictures_are_taken_apart_first(tmp_path):
    path = write_packed(tmp_path / "clip.avi", 30)
    with av.open(str(path)) as container:
        assert sum(bytes(packet).count(PICTURE) == 2 for packet in container.demux(video=0)) > 5
    with VideoReader(path) as reader:
        assert frames_of(map(to_array, reader)) == list(range(30))

    found = skipping(path, 4)

    assert frames_of(pixels for _, pixels in found) == [index for index, _ in found]
    assert len(found) < 25


def test_a_video_without_b_frames_is_decoded_as_a_whole(tmp_path):
    with VideoReader(write_naming_video(tmp_path / "clip.avi", 12)) as reader, pytest.raises(Irregular):
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
