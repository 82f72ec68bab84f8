"""Some frames of an MPEG-4 video (XviD, DivX: UCF101, HMDB51), without decoding the B-frames that nobody wants.

In MPEG-4 part 2 no frame refers to a B-frame, so one that is not wanted need not be decoded, and the others come out
the same to the bit. What the stream says of its order is checked against what comes out; anything unforeseen is
Irregular, and the video is then decoded as a whole. H.264 has such frames too, but there the place of a frame that is
not decoded is known only from time stamps, which are not always right.
"""

from collections.abc import Callable, Iterator

import av
from av.bitstream import BitStreamFilterContext

from dataloaders.mpeg4 import B_PICTURE, PICTURE_START, read_kinds
from dataloaders.sampling import Irregular
from dataloaders.video import VideoReader

SMALL = 16  # bytes; more than a picture that is not coded has
MOST_BYTES = 256 << 20  # of a file whose packets are held in memory


def wanted_frames(reader: VideoReader, wanted: Callable[[int], bool]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(index in the order shown, frame) of all frames but B-frames for which wanted(index) is false, in order.

    Raises Irregular, at any moment, where the video must be decoded as a whole.
    """
    decoder = reader.stream.codec_context
    if decoder.name != "mpeg4" or reader.path.stat().st_size > MOST_BYTES:
        raise Irregular
    packets, contents = _one_picture_each(reader)
    kinds = read_kinds(decoder.extradata or b"", contents)
    places = _places_shown(kinds)
    is_shown_b = [kind == B_PICTURE and wanted(place) for kind, place in zip(kinds, places, strict=True)]
    decoded = [number for number, kind in enumerate(kinds) if kind != B_PICTURE or is_shown_b[number]]
    expected = sorted(decoded, key=places.__getitem__)

    num_frames = 0
    decoder.skip_frame = "NONREF"  # the decoder then passes over B-frames, and over nothing else
    for number, packet in enumerate([*packets, None]):
        if packet is not None:
            if is_shown_b[number]:
                decoder.skip_frame = "DEFAULT"
            packet.pts = packet.dts = number  # so that a frame says which packet it was
        try:
            frames = decoder.decode(packet)
        except av.error.FFmpegError as error:
            raise Irregular from error
        if packet is not None and is_shown_b[number]:
            decoder.skip_frame = "NONREF"
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
    filter_ = BitStreamFilterContext("mpeg4_unpack_bframes", reader.stream)
    packets, contents = [], []
    owed = None  # the B-frame that comes out with the next packet
    for packet in reader.packets():
        if not packet.size:
            continue
        content = bytes(packet)
        if packet.is_corrupt or packet.is_discard:
            raise Irregular
        unpacked = filter_.filter(packet)
        if len(unpacked) != 1:
            raise Irregular
        size = unpacked[0].size
        if owed is not None:
            contents.append(owed)
            owed = content if len(content) > SMALL else None
            if content.count(PICTURE_START) != 1 or (owed and not _is_b_frame(owed)):
                raise Irregular
        elif size < len(content):  # it is cut before the second picture
            contents.append(content[:size])
            owed = content[size:]
            if owed.count(PICTURE_START) != 1:
                raise Irregular
        else:
            contents.append(content)
        if size != len(contents[-1]):
            raise Irregular
        packets += unpacked
    if reader.num_damaged or filter_.filter(None):
        raise Irregular
    return packets, contents


def _is_b_frame(content: bytes) -> bool:
    kind = content.find(PICTURE_START) + len(PICTURE_START)
    return kind < len(content) and content[kind] >> 6 == B_PICTURE


def _places_shown(kinds: list[int]) -> list[int]:
    """Where each picture comes in the order shown. A B-frame is shown at once, any other when the next other one comes.

    stored  I0 P3 B1 B2 P5 B4      places   0 3 1 2 5 4
    """
    if B_PICTURE not in kinds:  # nothing to skip
        raise Irregular
    places = [0] * len(kinds)
    place, waiting = 0, None
    for number, kind in enumerate(kinds):
        if kind == B_PICTURE:
            places[number] = place
            place += 1
        else:
            if waiting is not None:
                places[waiting] = place
                place += 1
            waiting = number
    places[waiting] = place
    return places
