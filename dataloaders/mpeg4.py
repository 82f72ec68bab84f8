"""What the headers of MPEG-4 part 2 pictures say (ISO/IEC 14496-2, 6.2): enough to know, without decoding it, that a
B-frame will come out and where."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from dataloaders.sampling import Irregular

I_PICTURE, P_PICTURE, B_PICTURE, S_PICTURE = range(4)
START = b"\x00\x00\x01"
LAYERS = range(0x20, 0x30)  # start codes: video object layer, group of pictures, picture
GROUP, PICTURE = 0xB3, 0xB6
HEADER_BYTES = 64  # more than any of the headers that are read here


@dataclass(frozen=True)
class Picture:
    """kind: I_PICTURE ...; time in ticks of the stream's own clock"""

    kind: int
    time: int


def read_pictures(setup: bytes, packets: Sequence[bytes]) -> list[Picture]:
    """The first picture of each packet. setup: headers that stand before the packets (extradata).

    Raises Irregular for whatever a plain stream does not have: a packet without a picture, one that is not coded,
    shapes, broken markers, a B-frame whose time is not between those of the two pictures around it (decoders drop it).
    """
    resolution = None  # ticks a second
    base = last_base = 0  # whole seconds
    before = after = None  # times of the last two pictures that are no B-frames
    pictures = []
    for number, content in enumerate([setup, *packets]):
        has_picture = number == 0
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
                if number == 0 or not resolution:
                    raise Irregular
                has_picture = True
                kind, seconds, ticks = _picture(bits, resolution)
                if kind == B_PICTURE:
                    time = (last_base + seconds) * resolution + ticks
                    if before is None or not before < time < after:
                        raise Irregular
                else:
                    last_base, base = base, base + seconds
                    time = base * resolution + ticks
                    before, after = after, time
                pictures.append(Picture(kind, time))
                break
        if not has_picture:
            raise Irregular
    return pictures


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


def _picture(bits: "Bits", resolution: int) -> tuple[int, int, int]:
    """(kind, whole seconds since the last time base, ticks)"""
    kind, seconds = bits.take(2), 0
    while bits.take(1):
        seconds += 1
    bits.marker()
    ticks = bits.take(max((resolution - 1).bit_length(), 1))
    bits.marker()
    if not bits.take(1):  # not coded: nothing comes out
        raise Irregular
    return kind, seconds, ticks


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
