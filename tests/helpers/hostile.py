"""Files that no honest client uploads, drawn from one seed: damaged videos, bombs, playlists, what is no video at all.

material = Material.made_in(folder, address)
file = FILES["flipped"](random.Random(7), material)       # File(name, content, refused)
"""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tests.helpers.quicktime import box, chunk, mov, packed_pictures
from tests.helpers.toy import write_naming_video

# Container and codec of the good videos that are spoilt.
GOOD = [
    ("clip.avi", {"codec": "mpeg4", "b_frames": 2}),
    ("clip.mp4", {"codec": "libx264"}),
    ("moving.mp4", {"codec": "libx264", "b_frames": 2, "rotation": 90}),
    ("clip.mkv", {"codec": "libx264"}),
    ("clip.webm", {"codec": "libvpx", "options": {"deadline": "realtime", "cpu-used": "8"}}),
    ("clip.ts", {"codec": "libx264"}),
    ("clip.mpg", {"codec": "mpeg2video"}),
    ("clip.flv", {"codec": "flv"}),
    ("clip.wmv", {"codec": "wmv2"}),
    ("clip.mov", {"codec": "mjpeg", "pix_fmt": "yuvj420p"}),
    ("clip.gif", {"codec": "gif", "pix_fmt": "rgb8"}),
]
MAGIC = [
    b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41",
    b"RIFF\xff\xff\xff\x7fAVI LIST",
    b"\x1a\x45\xdf\xa3\x01\0\0\0\0\0\0\x1f\x42\x86\x81\x01",
    b"GIF89a",
    b"FLV\x01\x05\0\0\0\x09\0\0\0\0",
    b"\0\0\x01\xba\x44\0\x04",
    b"\0\0\0\x01\x67\x42\xc0\x0d",
    b"OggS\0\x02",
    b"\x30\x26\xb2\x75\x8e\x66\xcf\x11\xa6\xd9\0\xaa\0\x62\xce\x6c",
    b"YUV4MPEG2 W99999 H99999 F25:1 Ip A1:1\nFRAME\n",
    b"DKIF\0\0\x20\0AV01\xff\xff\xff\xff",
]


@dataclass(frozen=True)
class File:
    """refused: an answer on it would be wrong."""

    name: str
    content: bytes
    refused: bool = False


@dataclass(frozen=True)
class Material:
    """What hostile files are made of: whole videos, a video and an address that nobody may be led to."""

    videos: Sequence[tuple[str, bytes]]
    secret: Path
    address: str  # host:port

    @classmethod
    def made_in(cls, folder: Path, address: str) -> "Material":
        paths = [write_naming_video(folder / name, 20, size=(80, 60), **how) for name, how in GOOD]
        secret = write_naming_video(folder / "secret.ts", 20, size=(80, 60), codec="libx264")
        return cls([(path.name, path.read_bytes()) for path in paths], secret, address)


# --- damaged videos


def truncated(rng: Random, material: Material) -> File:
    name, content = rng.choice(material.videos)
    return File(name, content[: rng.randrange(len(content))])


def flipped(rng: Random, material: Material) -> File:
    """A few bytes are others, often in the header, which has most to say."""
    name, content = rng.choice(material.videos)
    spoilt = bytearray(content)
    reach = len(spoilt) if rng.random() < 0.5 else min(len(spoilt), 1000)
    for _ in range(rng.choice([1, 3, 10, 100])):
        spoilt[rng.randrange(reach)] = rng.randrange(256)
    return File(name, bytes(spoilt))


def with_great_numbers(rng: Random, material: Material) -> File:
    """Fields of four bytes, lengths and counts among them, say as much as they can."""
    name, content = rng.choice(material.videos)
    spoilt = bytearray(content)
    for _ in range(rng.choice([1, 2, 5])):
        place = rng.randrange(min(len(spoilt), 2000) - 4)
        spoilt[place : place + 4] = rng.choice(
            [b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\xff\xff\xff\x7f", bytes(4)]
        )
    return File(name, bytes(spoilt))


def with_a_hole(rng: Random, material: Material) -> File:
    name, content = rng.choice(material.videos)
    first, last = sorted(rng.sample(range(len(content)), 2))
    filling = bytes(last - first) if rng.random() < 0.5 else rng.randbytes(last - first)
    return File(name, content[:first] + filling + content[last:])


def shuffled(rng: Random, material: Material) -> File:
    """Pieces of one video, or of several, in a wrong order."""
    parts = []
    name, _ = rng.choice(material.videos)
    for _ in range(rng.choice([2, 3, 8])):
        _, content = rng.choice(material.videos)
        first, last = sorted(rng.sample(range(len(content)), 2))
        parts.append(content[first:last])
    return File(name, b"".join(parts))


def misnamed(rng: Random, material: Material) -> File:
    _, content = rng.choice(material.videos)
    return File(rng.choice(["clip.m3u8", "clip.txt", "clip.jpg", "clip", "clip.concat", "clip.%03d.png"]), content)


# --- bombs: small to send, large to open


def of_many_frames(rng: Random, _: Material) -> File:
    """300,000 frames in a megabyte or so, at a rate that makes them last three seconds, or hours."""
    number, width = rng.choice([100_000, 300_000]), 4
    sample = rng.randbytes(width * 1 * 3)
    rate = rng.choice([25, 100_000])
    return File("many.mov", mov(b"raw ", width, 1, sample * number, number, len(sample), rate))


def of_nothing_but_damage(rng: Random, _: Material) -> File:
    """Millions of samples of a byte each, of which none becomes a frame: there is no frame that could be counted."""
    number = rng.choice([1_000_000, 6_000_000])
    return File(
        "damage.mov", mov(b"mp4v", 64, 64, rng.randbytes(1000) * (number // 1000), number, 1, number), refused=True
    )


def of_many_pictures(rng: Random, _: Material) -> File:
    """A GIF of one pixel, shown 200,000 times."""
    head = b"GIF89a\x01\0\x01\0\x80\0\0\0\0\0\xff\xff\xff"
    picture = (
        b"\x21\xf9\x04\0" + bytes([rng.choice([0, 1])]) + b"\0\0\0" + b"\x2c\0\0\0\0\x01\0\x01\0\0\x02\x02\x44\x01\0"
    )
    return File("many.gif", head + picture * 200_000 + b"\x3b")


def of_claimed_frames(rng: Random, _: Material) -> File:
    """Some hundred bytes, whose index says that there are hundreds of millions of frames."""
    number = rng.choice([10**7, 10**8, 0x0FFFFFFF, 0x7FFFFFFF, 0xFFFFFFFF])
    return File("claims.mp4", mov(b"raw ", 16, 16, bytes(1000), number, rng.choice([1, 768]), 25))


def of_huge_frames(rng: Random, _: Material) -> File:
    """Frames of up to 65535x65535 that are packed by zlib to some kilobytes, or that are only claimed."""
    side = rng.choice([8_000, 16_000, 30_000, 65_000])
    if rng.random() < 0.5:
        return File("huge.mov", mov(b"raw ", side, side, bytes(3000), 3, 1000, 25), refused=True)
    return File("huge.mov", packed_pictures(side), refused=True)


def of_packed_header(rng: Random, _: Material) -> File:
    """A movie's header may itself be packed; this one says that it becomes 2 GB."""
    packed = zlib.compress(bytes(10_000_000), 9)
    cmvd = box(b"cmvd", struct.pack(">I", rng.choice([2**31 - 1, 2**32 - 1, 10**9])), packed)
    return File("packed.mov", box(b"moov", box(b"cmov", box(b"dcom", b"zlib"), cmvd)), refused=True)


def of_deep_boxes(rng: Random, _: Material) -> File:
    content = b""
    for _ in range(rng.choice([100, 5_000])):
        content = box(rng.choice([b"moov", b"trak", b"mdia", b"udta", b"minf"]), content)
    return File("deep.mp4", box(b"ftyp", b"isom", bytes(4)) + content, refused=True)


# --- files that name others


def playlist(rng: Random, material: Material) -> File:
    """FFmpeg would open what it names: a video of this machine, or an address."""
    targets = [
        material.secret.name,
        str(material.secret),
        f"file://{material.secret}",
        f"concat:{material.secret}|{material.secret}",
        f"subfile,,start,0,end,100000,,:{material.secret}",
        f"http://{material.address}/secret.ts",
        f"tcp://{material.address}",
        f"crypto:http://{material.address}/secret.ts",
        "/etc/passwd",
        "/dev/zero",
        "/proc/self/environ",
    ]
    target = rng.choice(targets)
    host, port = material.address.split(":")
    dash = (
        '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011" type="static" mediaPresentationDuration="PT1S"'
        ' profiles="urn:mpeg:dash:profile:isoff-on-demand:2011"><Period><AdaptationSet mimeType="video/mp4">'
        '<Representation id="1" bandwidth="1000" width="80" height="60" codecs="avc1.42c00d">'
        f"<BaseURL>{target}</BaseURL></Representation></AdaptationSet></Period></MPD>"
    )
    forms = {
        "list.m3u8": f"#EXTM3U\n#EXT-X-TARGETDURATION:9\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n",
        "key.m3u8": f'#EXTM3U\n#EXT-X-KEY:METHOD=AES-128,URI="{target}"\n#EXTINF:9,\n{target}\n#EXT-X-ENDLIST\n',
        "master.m3u8": f"#EXTM3U\n#EXT-X-STREAM-INF:BANDWIDTH=1\n{target}\n",
        "list.ffconcat": f"ffconcat version 1.0\nfile '{target}'\n",
        "list.mpd": dash,
        "list.sdp": f"v=0\no=- 0 0 IN IP4 {host}\ns=x\nc=IN IP4 {host}\nt=0 0\nm=video {port} RTP/AVP 96\n"
        "a=rtpmap:96 H264/90000\n",
        "list.pls": f"[playlist]\nFile1={target}\n",
        "list.asx": f'<asx version="3.0"><entry><ref href="{target}"/></entry></asx>',
        "list.ram": f"http://{material.address}/secret.ts\n",
        "list.rtsp": f"rtsptextrtsp://{material.address}/secret",
        "list.ism": f'<SmoothStreamingMedia MajorVersion="2"><StreamIndex Url="{target}"/></SmoothStreamingMedia>',
        "list.avs": f'AVISource("{target}")\n',
        "list.idx": f"# VobSub index file, v7 (do not modify this line!)\nid: en, index: 0\nfilename: {target}\n",
        "list.svg": f'<svg xmlns="http://www.w3.org/2000/svg"><image href="{target}"/></svg>',
    }
    name, text = rng.choice(sorted(forms.items()))
    if rng.random() < 0.4:  # a name that fits every list, or none
        name = rng.choice(["clip.mp4", "clip.avi", "clip.ts", "clip.m3u8", "clip"])
    return File(name, text.encode(), refused=True)


def with_reference(rng: Random, material: Material) -> File:
    """A movie whose frames are said to lie in another file."""
    alias = f"url {material.secret}\0".encode()
    dref = box(b"dref", bytes(4), struct.pack(">I", 1), box(b"url ", bytes(4), alias))
    return File("reference.mov", mov(b"raw ", 16, 16, b"", 4, 768, 25, dref=dref), refused=True)


# --- no videos


def noise(rng: Random, _: Material) -> File:
    return File(
        rng.choice(["a.mp4", "a.avi", "a.mkv", "a.bin"]), rng.randbytes(rng.choice([1, 10, 1000, 60_000])), True
    )


def noise_behind_magic(rng: Random, _: Material) -> File:
    """What looks like a picture to one decoder or another may get an answer."""
    return File("clip.mp4", rng.choice(MAGIC) + rng.randbytes(rng.choice([0, 100, 30_000])))


def nothing(rng: Random, _: Material) -> File:
    return File(rng.choice(["clip.mp4", "clip.avi", "clip"]), b"", refused=True)


def text(rng: Random, _: Material) -> File:
    texts = [b"just a text\n" * 200, b'{"video": true}', b"<html><script>alert(1)</script></html>", b"\x1b[2J" * 500]
    texts += [b"%PDF-1.7\n%\xe2\xe3", b"#!/bin/sh\nrm -rf /\n", b"\x7fELF\x02\x01\x01" + bytes(50), b"a,b\n1,2\n" * 100]
    return File(rng.choice(["a.mp4", "a.txt", "a.nfo", "a.ans", "a.html", "a.sh"]), rng.choice(texts), refused=True)


def picture(rng: Random, _: Material) -> File:
    rows = zlib.compress((b"\0" + bytes(8)) * 64)
    png = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 64, 1, 0, 0, 0, 0)) + chunk(b"IDAT", rows)
    bmp = struct.pack("<2sIHHIIiiHHIIiiII", b"BM", 54 + 48, 0, 0, 54, 40, 4, 4, 1, 24, 0, 48, 0, 0, 0, 0) + bytes(48)
    ppm = b"P6 4 4 255\n" + bytes(48)
    return File(rng.choice(["a.png", "a.mp4", "a%03d.jpg", "a.avi"]), rng.choice([png, bmp, ppm]), refused=True)


def archive(rng: Random, _: Material) -> File:
    """A zip or gzip file, of something that would become 10 MB."""
    if rng.random() < 0.5:
        return File("clip.mp4.gz", gzip.compress(bytes(10_000_000)), refused=True)
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("../../clip.mp4", bytes(10_000_000))
    return File(rng.choice(["clip.zip", "clip.mp4"]), packed.getvalue(), refused=True)


FILES: dict[str, Callable[[Random, Material], File]] = {
    "truncated": truncated,
    "flipped": flipped,
    "great numbers": with_great_numbers,
    "hole": with_a_hole,
    "shuffled": shuffled,
    "misnamed": misnamed,
    "many frames": of_many_frames,
    "nothing but damage": of_nothing_but_damage,
    "many pictures": of_many_pictures,
    "claimed frames": of_claimed_frames,
    "huge frames": of_huge_frames,
    "packed header": of_packed_header,
    "deep boxes": of_deep_boxes,
    "playlist": playlist,
    "reference": with_reference,
    "noise": noise,
    "noise behind magic": noise_behind_magic,
    "nothing": nothing,
    "text": text,
    "picture": picture,
    "archive": archive,
}
