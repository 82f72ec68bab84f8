"""What the headers of MPEG-4 part 2 pictures say (ISO/IEC 14496-2, 6.2): enough to know, without decoding it, that a
B-frame will come out and where."""

from collections.abc import Iterable, Iterator

from dataloaders.sampling import Irregular

I_PICTURE, P_PICTURE, B_PICTURE, S_PICTURE = range(4)
START = b"\x00\x00\x01"
LAYERS = range(0x20, 0x30)  # start codes: video object layer, group of pictures, picture
GROUP, PICTURE = 0xB3, 0xB6
PICTURE_START = START + bytes([PICTURE])
HEADER_BYTES = 64  # more than any of the headers that are read here
PICTURE_BITS = 64  # of a picture's header that are looked at


def read_kinds(setup: bytes, packets: Iterable[bytes]) -> list[int]:
    """Packets -> I_PICTURE ... of the first picture of each. setup: headers that stand before the packets (extradata).

    Raises Irregular for whatever a plain stream does not have: a packet without a picture, one that is not coded,
    shapes, broken markers, a B-frame whose time is not between those of the two pictures around it (decoders drop it).
    """
    resolution, base = _read_headers(setup, None, 0)  # ticks a second, whole seconds
    last_base = 0
    before = after = None  # times, in ticks, of the last two pictures that are no B-frames
    kinds = []
    for content in packets:
        place = 0
        if not content.startswith(PICTURE_START):
            place = content.find(PICTURE_START)
            if place < 0:
                raise Irregular
            resolution, base = _read_headers(content[:place], resolution, base)
        if not resolution:
            raise Irregular
        kind, seconds, ticks = _read_picture(content[place + 4 : place + 4 + PICTURE_BITS // 8], resolution)
        if kind == B_PICTURE:
            if before is None or not before < (last_base + seconds) * resolution + ticks < after:
                raise Irregular
        else:
            last_base, base = base, base + seconds
            before, after = after, base * resolution + ticks
        kinds.append(kind)
    return kinds


def _read_headers(content: bytes, resolution: int | None, base: int) -> tuple[int | None, int]:
    """What stands before a picture -> (ticks a second, time base in whole seconds), as given where it says neither."""
    for code, bits in _headers(content):
        if code in LAYERS:
            found = _resolution(bits)
            if resolution not in (None, found):
                raise Irregular
            resolution = found
        elif code == GROUP:
            hours, minutes = bits.take(5), bits.take(6)
            bits.marker()
            base = bits.take(6) + 60 * (minutes + 60 * hours)
        elif code == PICTURE:
            raise Irregular
    return resolution, base


def _read_picture(content: bytes, resolution: int) -> tuple[int, int, int]:
    """What follows a picture's start code -> (kind, whole seconds since the last time base, ticks)

    kind 2 bits, a 1 for each second, 0, marker, ticks, marker, whether it is coded
    """
    value = int.from_bytes(content, "big") << PICTURE_BITS - 8 * len(content)
    # one number for all of it, since this is done for each frame; what is missing at the end reads as not coded
    left = (~value & (1 << PICTURE_BITS - 2) - 1).bit_length() - 1  # bits behind the 0
    seconds = PICTURE_BITS - 3 - left
    width = max((resolution - 1).bit_length(), 1)
    left -= width + 3
    if left < 0:
        raise Irregular
    rest = value >> left
    if not rest & rest >> 1 & rest >> width + 2 & 1:  # not coded (nothing comes out), or a marker that is none
        raise Irregular
    return value >> PICTURE_BITS - 2, seconds, rest >> 2 & (1 << width) - 1


def _headers(content: bytes) -> Iterator[tuple[int, "Bits"]]:
    """(start code, what follows it)"""
    place = content.find(START)
    while place >= 0 and place + 4 <= len(content):
        yield content[place + 3], Bits(content[place + 4 : place + 4 + HEADER_BYTES])
        place = content.find(START, place + 4)


def _resolution(bits: "Bits") -> int:
    bits.take(1 + 8)  # random access, type
    if bits.take(1):
        bits.take(4 + 3)  # version, priority
    if bits.take(4) == 15:  # aspect of the pixels
        bits.take(8 + 8)
    if bits.take(1):
        bits.take(2 + 1)  # chroma, low delay
        if bits.take(1):
            bits.take(79)  # buffer sizes
    if bits.take(2) != 0:  # not a rectangle
        raise Irregular
    bits.marker()
    return bits.take(16)


class Bits:
    """Reads numbers of any width, the first bit first. Beyond the end: Irregular."""

    def __init__(self, content: bytes):
        self.value, self.left = int.from_bytes(content, "big"), 8 * len(content)

    def take(self, width: int) -> int:
        self.left -= width
        if self.left < 0:
            raise Irregular
        return self.value >> self.left & ((1 << width) - 1)

    def marker(self) -> None:
        if not self.take(1):
            raise Irregular
