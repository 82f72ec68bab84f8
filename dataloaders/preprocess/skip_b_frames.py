"""Some frames of an MPEG-4 video (XviD, DivX: UCF101, HMDB51), without decoding those that nobody needs.

In MPEG-4 part 2 no frame refers to a B-frame, and none but the B-frames shown just before an I-frame to what was stored
before it. So what is neither wanted nor referred to by a wanted frame need not be decoded, and the others come out the
same to the bit:

    shown    I P P P P P P I P P      I B B P B B P
    wanted   x . . . x . . . x .      x . . . x . .
    decoded  x x x x x . . x x .      x . . x x . x

What the stream says of its order is checked against what comes out; anything unforeseen is Irregular, and the video is
then decoded as a whole. H.264 has such frames too, but there the place of a frame that is not decoded is known only
from time stamps, which are not always right.
"""

import re
from collections.abc import Callable, Iterator, Sequence

import av

from dataloaders.preprocess.mpeg4_headers import B_PICTURE, I_PICTURE, NO_PICTURE, PICTURE_START, read_kinds
from dataloaders.preprocess.resample import Irregular
from dataloaders.video import VideoReader

PACKED = re.compile(rb"\xb2DivX\d+(?:b|Build)\d+p")  # without it decoders look at one picture a packet
SMALL = 16  # bytes; more than a picture that is not coded has
MOST_BYTES = 256 << 20  # of a file whose packets are held in memory


def may_skip(reader: VideoReader) -> bool:
    """False where wanted_frames would raise Irregular at once, without having read a packet."""
    return reader.stream.codec_context.name == "mpeg4" and reader.path.stat().st_size <= MOST_BYTES


def wanted_frames(reader: VideoReader, wanted: Callable[[int], bool]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(index in the order shown, frame) of all frames for which wanted(index) is true, and of those that they refer to,
    in order.

    Raises Irregular, at any moment, where the video must be decoded as a whole.
    """
    if not may_skip(reader):
        raise Irregular
    decoder = reader.stream.codec_context
    packets, contents = _one_picture_each(reader)
    kinds = read_kinds(decoder.extradata or b"", contents)
    del contents  # as large as the file
    places = _places_shown(kinds)
    is_needed = _needed(kinds, [place >= 0 and wanted(place) for place in places])
    expected = sorted((number for number, needed in enumerate(is_needed) if needed), key=places.__getitem__)

    num_frames = 0
    skips = False
    for number, packet in enumerate([*packets, None]):
        if packet is not None:
            if skips is is_needed[number]:
                skips = not skips
                decoder.skip_frame = "ALL" if skips else "DEFAULT"  # of ALL, headers are read
            packet.pts = packet.dts = number  # so that a frame says which packet it was
        try:
            frames = decoder.decode(packet)
        except av.error.FFmpegError as error:
            raise Irregular from error
        for frame in frames:
            if num_frames == len(expected) or frame.pts != expected[num_frames] or frame.is_corrupt:
                raise Irregular
            num_frames += 1
            yield places[frame.pts], frame
    if num_frames != len(expected):
        raise Irregular


def _one_picture_each(reader: VideoReader) -> tuple[list[av.Packet], list[bytes]]:
    """The packets, each with one picture, and what they hold. AVI cannot store pictures in another order than they are
    shown, so DivX and XviD put a P- and a B-frame into one packet; behind that, and behind the B-frames that follow,
    stands a packet of a few bytes, a picture that is not coded.

    I  PB  B  -  PB  -      becomes      I  P  B  B  P  B
    """
    is_packed = PACKED.search(reader.stream.codec_context.extradata or b"")
    packets, contents = [], []
    owed = None  # the B-frame that comes out with the next packet
    for packet in reader.packets():
        if not packet.size:
            continue
        if packet.is_corrupt or packet.is_discard:
            raise Irregular
        content = bytes(packet)
        if not is_packed and not content.startswith(PICTURE_START):
            is_packed = PACKED.search(content, 0, content.find(PICTURE_START))
        if is_packed:
            second = content.find(PICTURE_START, content.find(PICTURE_START) + 1)
            if owed is not None:
                content, owed = owed, (content if len(content) > SMALL else None)
                if second >= 0 or (owed and not _is_b_frame(owed)):
                    raise Irregular
                packet = _packet(content)
            elif second >= 0:
                content, owed = content[:second], content[second:]
                if owed.count(PICTURE_START) != 1 or not _is_b_frame(owed):
                    raise Irregular
                packet = _packet(content)
        packets.append(packet)
        contents.append(content)
    if reader.num_damaged:
        raise Irregular
    return packets, contents


def _packet(content: bytes) -> av.Packet:
    packet = av.Packet(len(content))  # Packet(content) would lie where the bytes lie, without the zeros behind its end
    packet.update(content)  # that decoders read
    return packet


def _is_b_frame(content: bytes) -> bool:
    kind = content.find(PICTURE_START) + len(PICTURE_START)
    return kind < len(content) and content[kind] >> 6 == B_PICTURE


def _places_shown(kinds: Sequence[int]) -> list[int]:
    """The position of each picture in display order. A B-frame is shown at once, any other picture when the next such
    picture comes.

    stored  I0 P3 B1 B2 - P5 B4      places   0 3 1 2 -1 5 4
    """
    if not kinds or kinds[0] != I_PICTURE or kinds[-1] == NO_PICTURE:  # decoders repeat the last one then, or not
        raise Irregular
    places = [-1] * len(kinds)
    place, waiting = 0, None
    for number, kind in enumerate(kinds):
        if kind == B_PICTURE:
            places[number] = place
            place += 1
        elif kind != NO_PICTURE:
            if waiting is not None:
                places[waiting] = place
                place += 1
            waiting = number
    places[waiting] = place
    return places


def _needed(kinds: Sequence[int], is_wanted: Sequence[bool]) -> list[bool]:
    """The pictures that must be decoded, in stored order: the wanted ones and those that they refer to. A B-frame
    refers to the last two pictures that are no B-frames, a P-frame to the last one.

    stored  I P P P I P P      wanted  x x . . . x .      needed  x x . . x x .
    """
    is_needed = list(is_wanted)
    num_referred = 0  # so many of the pictures before, without the B-frames, are referred to
    for number in reversed(range(len(kinds))):
        kind = kinds[number]
        if kind == B_PICTURE:
            if is_needed[number]:
                num_referred = 2
        elif kind != NO_PICTURE:
            is_needed[number] = is_needed[number] or num_referred > 0
            num_referred = max(num_referred - 1, int(is_needed[number] and kind != I_PICTURE))
    return is_needed
