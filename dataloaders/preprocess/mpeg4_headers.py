"""Headers of MPEG-4 part 2 pictures (ISO/IEC 14496-2, 6.2): enough to know, without decoding a picture, whether and
when it is shown."""

from collections.abc import Iterable, Iterator

from dataloaders.preprocess.resample import Irregular

I_PICTURE, P_PICTURE, B_PICTURE, S_PICTURE, NO_PICTURE = range(5)
START = b"\x00\x00\x01"
LAYERS = range(0x20, 0x30)  # start codes: video object layer, group of pictures, picture
GROUP, PICTURE = 0xB3, 0xB6
PICTURE_START = START + bytes([PICTURE])
PICTURE_BITS = 64  # of a picture's header that are looked at


def read_kinds(setup: bytes, packets: Iterable[bytes]) -> list[int]:
    """Packets -> I_PICTURE ... of the first picture of each; NO_PICTURE where it is not coded: nothing comes out, the
    frame before is shown longer. setup: headers that stand before the packets (extradata).

    Raises Irregular for whatever a plain stream does not have: a packet without a picture, shapes, another frame size,
    broken markers, a B-frame whose time is not between those of the two pictures around it (decoders drop it).
    """
    layer, base = _read_headers(setup, None, 0)
    resolution = _resolution(layer) if layer else 0  # ticks a second
    last_base = 0
    before = after = None  # times, in ticks, of the last two pictures that are coded and no B-frames
    kinds = []
    for content in packets:
        if len(content) == 1:  # DivX's way to say that there is none
            kinds.append(NO_PICTURE)
            continue
        place = 0
        if not content.startswith(PICTURE_START):
            place = content.find(PICTURE_START)
            if place < 0:
                raise Irregular
            layer, base = _read_headers(content[:place], layer, base)
        if not resolution:
            if not layer:
                raise Irregular
            resolution = _resolution(layer)
        kind, seconds, ticks, is_coded = _read_picture(content[place + 4 : place + 4 + PICTURE_BITS // 8], resolution)
        if kind != B_PICTURE:
            last_base, base = base, base + seconds
            before, after = (after, base * resolution + ticks) if is_coded else (None, None)
        elif not is_coded or before is None or not before < (last_base + seconds) * resolution + ticks < after:
            raise Irregular
        kinds.append(kind if is_coded else NO_PICTURE)
    return kinds


def _read_headers(content: bytes, layer: bytes | None, base: int) -> tuple[bytes | None, int]:
    """Reads the headers before a picture; returns the header of the video object layer and the time base in whole
    seconds, unchanged where neither is found."""
    for code, header in _headers(content):
        if code in LAYERS:
            if layer not in (None, header):
                raise Irregular
            layer = header
        elif code == GROUP:
            bits = Bits(header)
            hours, minutes = bits.take(5), bits.take(6)
            bits.marker()
            base = bits.take(6) + 60 * (minutes + 60 * hours)
        elif code == PICTURE:
            raise Irregular
    return layer, base


def _read_picture(content: bytes, resolution: int) -> tuple[int, int, int, bool]:
    """Reads the bytes after a picture's start code; returns (kind, whole seconds since the last time base, ticks,
    whether it is coded).

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
    if not rest >> 1 & rest >> width + 2 & 1:  # a marker that is none
        raise Irregular
    return value >> PICTURE_BITS - 2, seconds, rest >> 2 & (1 << width) - 1, bool(rest & 1)


def _headers(content: bytes) -> Iterator[tuple[int, bytes]]:
    """(start code, what follows it)"""
    place = content.find(START)
    while place >= 0 and place + 4 <= len(content):
        following = content.find(START, place + 4)
        yield content[place + 3], content[place + 4 : len(content) if following < 0 else following].rstrip(b"\0")
        place = following


def _resolution(layer: bytes) -> int:
    """Header of a video object layer -> ticks a second"""
    bits = Bits(layer)
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
