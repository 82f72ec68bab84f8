"""HTTP requests that no honest client sends, drawn from one seed.

attack = ATTACKS["slow body"](random.Random(7), material)
answer = send(attack.request, port)
"""

import gzip
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from tests.helpers.hostile import FILES, Material
from tests.helpers.raw_http import BOUNDARY, END, FORM, Request, head, part, upload

REFUSED = frozenset({400, 408, 411, 413, 415, 422, 431, 504})  # 503 may come at any time
DAMAGED = REFUSED | {200}  # of a video that is spoilt something may be left to answer on


@dataclass(frozen=True)
class Attack:
    """allowed: status codes that are right.    is_http: else the connection may be closed without an answer, too."""

    request: Request
    allowed: frozenset[int]
    is_http: bool = True


def hostile_file(kind: str) -> Callable[[Random, Material], Attack]:
    def make(rng: Random, material: Material) -> Attack:
        file = FILES[kind](rng, material)
        return Attack(Request(upload(file.content, file.name)), REFUSED if file.refused else DAMAGED)

    return make


def good_video(rng: Random, material: Material) -> bytes:
    return rng.choice(material.videos)[1]


# --- forms


def wrong_type(rng: Random, material: Material) -> Attack:
    body = part(b"video", good_video(rng, material), b"clip.mp4") + END
    kinds = [b"application/json", b"text/plain", b"application/x-www-form-urlencoded", b"", b"/", b"multipart/mixed"]
    kinds += [b"multipart/form-data", b"multipart/form-data; boundary=", b"multipart/form-data; boundary=other"]
    kinds += [b"multipart/form-data; boundary=" + b"x" * 5000, b'multipart/form-data; boundary="\xff\xfe"']
    kinds += [b"video/mp4", b"image/png", b"\xff\xff/\xff", FORM + b"; charset=utf-7; boundary=second"]
    return Attack(Request([head(len(body), rng.choice(kinds)) + body]), DAMAGED)


def broken_form(rng: Random, material: Material) -> Attack:
    """Cut, without an end, without a beginning, with bytes turned, with lengths that do not fit."""
    video = good_video(rng, material)
    whole = part(b"video", video, b"clip.mp4") + END
    flipped = bytearray(whole)
    for _ in range(5):
        flipped[rng.randrange(200)] = rng.randrange(256)
    bodies = [
        whole[: rng.randrange(len(whole))],
        whole.removesuffix(END),
        whole[rng.randrange(1, 60) :],
        bytes(flipped),
        whole.replace(b"\r\n", b"\n"),
        END,
        b"",
        END + whole,
        b"--" + BOUNDARY + b"\r\n\r\n" + END,
        (b"--" + BOUNDARY + b"\r\n") * 1000,
        part(b"video", part(b"video", video, b"inner.mp4"), b"outer.mp4") + END,
    ]
    body = rng.choice(bodies)
    return Attack(Request([head(len(body)) + body]), DAMAGED)


def wrong_fields(rng: Random, material: Material) -> Attack:
    video = good_video(rng, material)
    clip = part(b"video", video, b"clip.mp4")
    bodies = [
        part(b"file", video, b"clip.mp4"),
        part(b"", video, b"clip.mp4"),
        part(b"VIDEO", video, b"clip.mp4"),
        part(b"video", video),
        part(b"video", b"clip.mp4"),
        clip + clip,
        clip * 20,
        b"".join(part(b"field%d" % number, b"x") for number in range(2000)) + clip,
        part(b"x" * 100_000, b"x") + clip,
        part(b"video" + b"\0" * 50, video, b"clip.mp4"),
        part(b"video", video, b"clip.mp4", kind=b"x" * 100_000),
        part(b"other", b"x" * 1_000_000) + clip,
    ]
    body = rng.choice(bodies) + END
    return Attack(Request([head(len(body)) + body]), REFUSED)


def strange_name(rng: Random, material: Material) -> Attack:
    """Names that would lead somewhere, were they ever used as one. The video is good."""
    names = [
        b"../../../../etc/passwd",
        b"/etc/passwd",
        b"..\\..\\windows\\system.ini",
        b"C:\\clip.mp4",
        b"clip.mp4\0.exe",
        b"con",
        b".",
        b"..",
        b"",
        b"x" * 5_000,
        b"http://127.0.0.1/clip.mp4",
        b"concat:a|b",
        b"%s%s%n%x",
        b"$(touch hacked)`id`;clip.mp4",
        b"<script>alert(1)</script>.mp4",
        b"\xff\xfe\xfd.mp4",
        "\u202e4pm.exe \U0001f3a5 体操.mp4".encode(),
        b'a\\"; name=\\"other.mp4',
        b"-rf",
        b"clip%00.mp4",
        b"\x1b[2J\x07.mp4",
    ]
    name, video = material.videos[rng.randrange(len(material.videos))]
    body = part(b"video", video, rng.choice(names)) + END
    return Attack(Request([head(len(body)) + body]), DAMAGED)


# --- lengths and streams


def wrong_length(rng: Random, material: Material) -> Attack:
    body = part(b"video", good_video(rng, material), b"clip.mp4") + END
    sizes = [b"-1", b"1e3", b"0x10", b"", b"9" * 30, b"1, 2", b"\xb2", b"+5", b"5\r\nContent-Length: 7"]
    sizes += [str(10 ** rng.randrange(9, 19)).encode(), b"5\r\nTransfer-Encoding: chunked"]
    start = head(None, more=b"Content-Length: " + rng.choice(sizes) + b"\r\n")
    return Attack(Request([start + body]), REFUSED, is_http=False)


def short_of_its_length(rng: Random, material: Material) -> Attack:
    """More is announced than comes, and then the client waits, or goes away."""
    body = part(b"video", good_video(rng, material), b"clip.mp4")
    leaves = rng.choice(["", "close", "close", "reset", "reset"])
    return Attack(Request([head(len(body) + 100_000) + body], leaves=leaves), REFUSED)


def chunked(rng: Random, material: Material) -> Attack:
    """Without a length; whole, or with sizes that are wrong."""
    body = part(b"video", good_video(rng, material), b"clip.mp4") + END
    pieces, sizes = [], [b"%x", b"%x;x=y", b"%x", b"-%x", b"%xg", b"fffffffffffffff%x", b""]
    size = rng.choice(sizes)
    for first in range(0, len(body), 4000):
        piece = body[first : first + 4000]
        pieces.append((size % len(piece) if b"%" in size else size) + b"\r\n" + piece + b"\r\n")
    start = head(None, more=b"Transfer-Encoding: chunked\r\n")
    return Attack(Request([start, *pieces, b"0\r\n\r\n"]), DAMAGED, is_http=False)


def endless(rng: Random, _: Material) -> Attack:
    """Goes on until the server has had enough, or for 64 MB."""
    kind = rng.choice([FORM, b"video/mp4"])
    start = b"--" + BOUNDARY + b'\r\nContent-Disposition: form-data; name="video"; filename="a.mp4"\r\n\r\n'
    if rng.random() < 0.3:  # endless before the file
        start = part(b"other", b"x" * 1000) * 30 + start.replace(b'"video"', b'"other"')
    block = rng.randbytes(1 << 20)
    chunk = b"%x\r\n" % len(block) + block + b"\r\n"
    first = b"%x\r\n" % len(start) + start + b"\r\n"
    pieces = [head(None, kind, more=b"Transfer-Encoding: chunked\r\n"), first, *[chunk] * 64]
    return Attack(Request(pieces), REFUSED)


def too_large(rng: Random, _: Material) -> Attack:
    """Says how large it is, and sends some of it."""
    return Attack(Request([head(rng.choice([10**8, 10**12])) + bytes(100_000)]), REFUSED)


def packed_body(rng: Random, material: Material) -> Attack:
    body = gzip.compress(part(b"video", bytes(5_000_000), b"clip.mp4") + END)
    encoding = rng.choice([b"gzip", b"deflate", b"br", b"gzip, gzip"])
    return Attack(Request([head(len(body), more=b"Content-Encoding: " + encoding + b"\r\n") + body]), REFUSED)


def slow_header(rng: Random, _: Material) -> Attack:
    """A request that never gets to its end."""
    lines = [b"X-%d: %d\r\n" % (number, number) for number in range(30)]
    return Attack(Request([b"POST /predict HTTP/1.1\r\nHost: here\r\n", *lines], pause=0.3), REFUSED, is_http=False)


def slow_body(rng: Random, material: Material) -> Attack:
    body = part(b"video", good_video(rng, material), b"clip.mp4") + END
    size = len(body) // 60 + 1
    pieces = [body[first : first + size] for first in range(0, len(body), size)]
    return Attack(Request([head(len(body)), *pieces], pause=0.2), REFUSED)


def gone_in_the_middle(rng: Random, material: Material) -> Attack:
    [whole] = upload(good_video(rng, material))
    cut = whole[: rng.randrange(1, len(whole))]
    return Attack(Request([cut], leaves=rng.choice(["close", "reset"])), frozenset())


def gone_before_its_answer(rng: Random, material: Material) -> Attack:
    content = FILES["many frames"](rng, material).content if rng.random() < 0.3 else good_video(rng, material)
    return Attack(Request(upload(content), 0.02, leaves=rng.choice(["close", "reset"])), frozenset())


# --- the rest of HTTP


def wrong_parameter(rng: Random, material: Material) -> Attack:
    queries = [b"top=0", b"top=-1", b"top=x", b"top=1e400", b"top=" + b"9" * 400, b"threshold=nan", b"threshold=2"]
    queries += [b"threshold=-inf", b"stride=0", b"stride=-5", b"stride=1.5", b"stride=" + b"9" * 30, b"top="]
    queries += [b"other=1", b"top=5%00", b"top=\xff", b"x" * 5000, b"path=/etc/passwd", b"top=1&top=y"]
    video = good_video(rng, material)
    return Attack(Request(upload(video, path=b"/predict?" + rng.choice(queries))), REFUSED, is_http=False)


def wrong_address(rng: Random, _: Material) -> Attack:
    paths = [
        b"/../../etc/passwd",
        b"/%2e%2e/%2e%2e/etc/passwd",
        b"//etc/passwd",
        b"/predict/../../x",
        b"/static/../serve.py",
    ]
    paths += [
        b"/.git/config",
        b"/nowhere",
        b"http://example.com/",
        b"*",
        b"/" + b"x" * 8000,
        b"/\xff\xfe",
        b"/predict/",
    ]
    methods = [b"GET", b"PUT", b"DELETE", b"TRACE", b"PATCH", b"PROPFIND", b"OPTIONS", b"CONNECT"]
    request = rng.choice(methods) + b" " + rng.choice([*paths, b"/predict"]) + b" HTTP/1.1\r\nHost: here\r\n\r\n"
    return Attack(Request([request]), REFUSED | {301, 307, 404, 405}, is_http=False)


def many_headers(rng: Random, material: Material) -> Attack:
    body = part(b"video", good_video(rng, material), b"clip.mp4") + END
    floods = [
        b"".join(b"X-%d: x\r\n" % number for number in range(5000)),
        b"X: " + b"x" * 300_000 + b"\r\n",
        b"Cookie: " + b"a=b; " * 2000 + b"\r\n",
        b"X: y\r\n" * 3000,
        b"X: \0\x01\x02\r\n",
        b": nothing\r\n",
        b" folded: \r\n\t line\r\n",
        b"Expect: the unexpected\r\n",
    ]
    return Attack(Request([head(len(body), more=rng.choice(floods)) + body]), DAMAGED, is_http=False)


def no_http(rng: Random, _: Material) -> Attack:
    tls = b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03" + rng.randbytes(500)
    lines = [b"\r\n" * 100, b"GET / HTTP/9.9\r\n\r\n", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"GET /\r\n", b"\0" * 1000]
    return Attack(Request([rng.choice([tls, rng.randbytes(2000) + b"\r\n\r\n", *lines])], 0.2, "close"), REFUSED)


def two_at_once(rng: Random, material: Material) -> Attack:
    """The second request comes before the first is answered."""
    [first] = upload(good_video(rng, material))
    return Attack(Request([first + b"GET /health HTTP/1.1\r\nHost: here\r\n\r\n"]), DAMAGED)


ATTACKS: dict[str, Callable[[Random, Material], Attack]] = {kind: hostile_file(kind) for kind in FILES} | {
    "wrong type": wrong_type,
    "broken form": broken_form,
    "wrong fields": wrong_fields,
    "strange name": strange_name,
    "wrong length": wrong_length,
    "short of its length": short_of_its_length,
    "chunked": chunked,
    "endless": endless,
    "too large": too_large,
    "packed body": packed_body,
    "slow header": slow_header,
    "slow body": slow_body,
    "gone in the middle": gone_in_the_middle,
    "gone before its answer": gone_before_its_answer,
    "wrong parameter": wrong_parameter,
    "wrong address": wrong_address,
    "many headers": many_headers,
    "no HTTP": no_http,
    "two at once": two_at_once,
}
