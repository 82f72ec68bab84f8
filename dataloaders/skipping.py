"""Some frames of an MPEG-4 video (XviD, DivX: UCF101, HMDB51), without decoding the B-frames that nobody wants.

In MPEG-4 part 2 no frame refers to a B-frame, so one that is not wanted need not be decoded, and the others come out
the same to the bit. What the stream says of its order is checked against what comes out; anything unforeseen is
Irregular, and the video is then decoded as a whole. H.264 has such frames too, but there the place of a frame that is
not decoded is known only from time stamps, which are not always right.
"""

from collections.abc import Callable, Iterator

import av
from av.bitstream import BitStreamFilterContext

from dataloaders.mpeg4 import B_PICTURE, read_pictures
from dataloaders.sampling import Irregular
from dataloaders.video import VideoReader

PICTURE_START = b"\x00\x00\x01\xb6"
SMALL = 16  # bytes; more than a picture that is not coded has
MOST_BYTES = 256 << 20  # of a file whose packets are held in memory


def wanted_frames(reader: VideoReader, wanted: Callable[[int], bool]) -> Iterator[tuple[int, av.VideoFrame]]:
    """(index in the order shown, frame) of all frames but B-frames for which wanted(index) is false, in order.

    Raises Irregular, at any moment, where the video must be decoded as a whole.
    """
    decoder = reader.stream.codec_context
    if decoder.name != "mpeg4" or reader.path.stat().st_size > MOST_BYTES:
        raise Irregular
    packets = _one_picture_each(reader)
    kinds = [picture.kind for picture in read_pictures(decoder.extradata or b"", [bytes(packet) for packet in packets])]
    places = _places_shown(kinds)
    skipped = [kind == B_PICTURE and not wanted(place) for kind, place in zip(kinds, places, strict=True)]
    expected = sorted((number for number, skip in enumerate(skipped) if not skip), key=places.__getitem__)

    num_frames = 0
    for number, packet in enumerate([*packets, None]):
        if packet is not None:
            decoder.skip_frame = "NONREF" if skipped[number] else "DEFAULT"
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


def _one_picture_each(reader: VideoReader) -> list[av.Packet]:
    """The packets, each with one picture. AVI cannot store pictures in another order than they are shown, so DivX and
    XviD put a P- and a B-frame into one packet; behind that, and behind the B-frames that follow, stands a packet of a
    few bytes, a picture that is not coded.

    I  PB  B  -  PB  -      becomes      I  P  B  B  P  B
    """
    filter_ = BitStreamFilterContext("mpeg4_unpack_bframes", reader.stream)
    packets, num_packed, is_owing = [], 0, False
    for packet in reader.packets():
        if packet.size:
            content = bytes(packet)
            num_pictures = content.count(PICTURE_START)
            if packet.is_corrupt or packet.is_discard or not 1 <= num_pictures <= 2:
                raise Irregular
            if is_owing:
                if num_pictures != 1 or (packet.size > SMALL and not _is_b_frame(content)):
                    raise Irregular
                is_owing = packet.size > SMALL
            else:
                is_owing = num_pictures == 2
            num_packed += 1
            packets += filter_.filter(packet)
    packets += filter_.filter(None)
    if reader.num_damaged or len(packets) != num_packed:
        raise Irregular
    return packets


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
