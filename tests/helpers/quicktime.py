"""QuickTime movies by hand, for what no writer would write."""

import struct
import zlib


def packed_pictures(side: int, number: int = 3) -> bytes:
    """A movie of black PNGs of a bit a pixel, at most 16 MB of it: more than makes a decoder allocate the picture."""
    rows = zlib.compress(bytes(min(side * (side // 8 + 1), 16_000_000)), 9)
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")
    return mov(b"png ", side, side, png * number, number, len(png), 25)


def box(kind: bytes, *parts: bytes) -> bytes:
    content = b"".join(parts)
    return struct.pack(">I4s", 8 + len(content), kind) + content


def mov(
    codec: bytes,
    width: int,
    height: int,
    content: bytes,
    num_samples: int,
    sample_size: int,
    rate: int,
    dref: bytes = box(b"dref", bytes(4), struct.pack(">I", 1), box(b"url ", struct.pack(">I", 1))),
) -> bytes:
    """A movie of `num_samples` frames of `sample_size` bytes each, one behind the other in `content`."""
    ftyp = box(b"ftyp", b"qt  ", bytes(4), b"qt  ")
    mdat = box(b"mdat", content)
    size = struct.pack(">HH", width, height)
    entry = box(
        codec, bytes(6), struct.pack(">H", 1), bytes(16), size, bytes(12), b"\0\x01", bytes(32), b"\0\x18\xff\xff"
    )
    one = struct.pack(">I", 1)
    tables = [
        box(b"stsd", bytes(4), one, entry),
        box(b"stts", bytes(4), one, struct.pack(">II", num_samples, 1)),
        box(b"stsc", bytes(4), one, struct.pack(">III", 1, num_samples, 1)),
        box(b"stsz", bytes(4), struct.pack(">II", sample_size, num_samples)),
        box(b"stco", bytes(4), one, struct.pack(">I", len(ftyp) + 8)),
    ]
    times = bytes(12) + struct.pack(">II", rate, num_samples)
    matrix = struct.pack(">9i", 65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30)
    mvhd = box(b"mvhd", times, struct.pack(">iH", 65536, 256), bytes(10), matrix, bytes(24), struct.pack(">I", 2))
    shown = struct.pack(">II", width << 16, height << 16)
    tkhd = box(b"tkhd", struct.pack(">I", 7), bytes(8), one, bytes(4), times[-4:], bytes(16), matrix, shown)
    handler = box(b"hdlr", bytes(8), b"vide", bytes(13))
    minf = box(b"minf", box(b"vmhd", struct.pack(">I", 1), bytes(8)), box(b"dinf", dref), box(b"stbl", *tables))
    mdia = box(b"mdia", box(b"mdhd", times, bytes(4)), handler, minf)
    return ftyp + mdat + box(b"moov", mvhd, box(b"trak", tkhd, mdia))


def chunk(kind: bytes, content: bytes) -> bytes:
    """Of a PNG."""
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
