"""HTTP requests byte by byte: what a client library would not send, or not so."""

import contextlib
import http.client
import json
import select
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass, field

BOUNDARY = b"----------boundary7dc9f4"
FORM = b"multipart/form-data; boundary=" + BOUNDARY
PATIENCE = 90.0  # seconds for which an answer is waited for


@dataclass(frozen=True)
class Request:
    """A request as it goes over the wire.

    pieces    bytes, sent one after the other, `pause` seconds between them
    leaves    "" waits for the answer; "close" and "reset" end the connection when all is sent
    """

    pieces: Sequence[bytes]
    pause: float = 0.0
    leaves: str = ""


@dataclass
class Answer:
    status: int = 0
    content: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)

    @property
    def json(self) -> dict:
        return json.loads(self.content)


def send(request: Request, port: int) -> Answer:
    """Raises TimeoutError where no answer comes."""
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as connection:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # its answer may be there nevertheless
            for piece in request.pieces:
                connection.sendall(piece)
                if select.select([connection], [], [], request.pause)[0]:  # an answer, before everything is sent
                    break
        if request.leaves == "reset":  # no FIN: the connection is gone at once
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if request.leaves:
            return Answer()
        try:
            response = http.client.HTTPResponse(connection)
            response.begin()
            return Answer(response.status, response.read(), {k.lower(): v for k, v in response.getheaders()})
        except (http.client.HTTPException, ConnectionResetError):
            return Answer()


def part(name: bytes, content: bytes, filename: bytes | None = None, kind: bytes = b"video/mp4") -> bytes:
    """One field of a form."""
    named = b"" if filename is None else b'; filename="' + filename + b'"'
    head = b'Content-Disposition: form-data; name="' + name + b'"' + named + b"\r\nContent-Type: " + kind
    return b"--" + BOUNDARY + b"\r\n" + head + b"\r\n\r\n" + content + b"\r\n"


END = b"--" + BOUNDARY + b"--\r\n"


def head(length: int | None, kind: bytes = FORM, path: bytes = b"/predict", more: bytes = b"") -> bytes:
    sized = b"" if length is None else b"Content-Length: %d\r\n" % length
    return b"POST " + path + b" HTTP/1.1\r\nHost: here\r\nContent-Type: " + kind + b"\r\n" + sized + more + b"\r\n"


def upload(content: bytes, name: str = "clip.mp4", path: bytes = b"/predict") -> list[bytes]:
    """As an honest client sends a file."""
    body = part(b"video", content, name.encode()) + END
    return [head(len(body), path=path) + body]
