"""A request's body -> a file in a private folder, counted as it comes in."""

import asyncio
import contextlib
import errno
import os
import re
import shutil
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote_to_bytes
from uuid import uuid4

from engine.serving.limits import ClientDisconnected, Limits, Refused

FIELD = "video"
FRAMING = 64 << 10  # bytes that a form may take around its file
PREFIX = "video-serve-"
NAME_LENGTH = 120
PATIENCE, SLOWEST = 20.0, 16 << 10  # seconds without a byte, and bytes a second, that an upload may come with
HEADER_LENGTH = 4096  # bytes of a header with parameters, which take quadratic time to read


@dataclass(frozen=True)
class Upload:
    """path: of a file with a name of our own. name: the client's, for people to read."""

    path: Path
    name: str
    num_bytes: int


class Body:
    """The body that a client sends, and whether it is complete."""

    def __init__(self, scope: dict, receive: Callable):
        self.receive = receive
        self.headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        self.is_complete = False

    @property
    def length(self) -> int | None:
        """Length of the body as the client states it."""
        length = self.headers.get("content-length", "")
        return int(length) if length.isdecimal() else None

    async def chunks(self) -> AsyncIterator[bytes]:
        while not self.is_complete:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise ClientDisconnected
            self.is_complete = not message.get("more_body", False)
            yield message.get("body", b"")

    async def gone(self) -> None:
        """Returns when the client goes away; after the last chunk only."""
        while (await self.receive())["type"] != "http.disconnect":
            pass

    async def drain(self, seconds: float, num_bytes: int) -> None:
        """Reads on without keeping anything: a client that still sends would not see an answer before it is through,
        but that the connection broke. Not for ever: an endless stream is cut."""
        if "expect" in self.headers:  # it asked before it sent
            return
        with contextlib.suppress(ClientDisconnected, TimeoutError):
            async with asyncio.timeout(seconds):
                async for chunk in self.chunks():
                    num_bytes -= len(chunk)
                    if num_bytes < 0:
                        return


@contextmanager
def upload_folder() -> Iterator[Path]:
    """A folder that only this process uses, removed in the end; what a killed server left is removed, too."""
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        if _is_left(left):
            shutil.rmtree(left, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))
    _IN_USE.add(folder)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        _IN_USE.discard(folder)


_IN_USE: set[Path] = set()  # by this process


def _is_left(folder: Path) -> bool:
    """Whether it is our user's, and of a process that is no more."""
    pid = folder.name.removeprefix(PREFIX).partition("-")[0]
    if os.name == "nt" or not pid.isdecimal() or folder.lstat().st_uid != os.getuid():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return int(pid) == os.getpid() and folder not in _IN_USE  # in a container each server has the same number


@contextmanager
def stored(folder: Path) -> Iterator[Path]:
    """A name for a new file, which is removed in the end."""
    path = folder / uuid4().hex
    folder.mkdir(0o700, exist_ok=True)  # what cleans up /tmp may have taken it after some idle days
    try:
        yield path
    finally:
        with contextlib.suppress(PermissionError):  # Windows, as long as a killed decoder has it open
            path.unlink(missing_ok=True)


async def receive_upload(body: Body, path: Path, limits: Limits) -> Upload:
    """Writes the body's video to `path`. Raises Refused for what is none, too large or too slow; Gone."""
    kind = body.headers.get("content-type", "")
    plain = kind.partition(";")[0].strip().lower()
    if body.headers.get("content-encoding", "identity").lower() != "identity":
        raise Refused(415, "Send the video as it is, without Content-Encoding.")
    if body.length is not None and body.length > limits.max_bytes + FRAMING:
        raise too_large(limits)
    try:
        with path.open("xb") as file:
            if plain == "multipart/form-data":
                sink = FormSink(file.write, kind, limits)
            elif plain.startswith("video/") or plain == "application/octet-stream":
                sink = PlainSink(file.write, limits)
            else:
                raise Refused(
                    415,
                    f"The body is '{client_name(plain, 80)}'. Send multipart/form-data with the file in a field "
                    f"'{FIELD}' (curl -F {FIELD}=@clip.mp4), or the file itself as video/mp4.",
                )
            async with asyncio.timeout(limits.upload_timeout) as clock:
                async for chunk in paced(body.chunks(), clock):
                    sink.write(chunk)
            sink.finish()
            return Upload(path, sink.name, sink.num_bytes)
    except TimeoutError:
        raise Refused(
            408,
            f"The upload took more than {limits.upload_timeout:g} s, the limit of this server, or was slower than "
            f"{SLOWEST >> 10} KB per second.",
        ) from None
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise Refused(503, "This server's disk is full.", retry_after=60) from error
        raise


async def paced(chunks: AsyncIterator[bytes], clock: asyncio.Timeout) -> AsyncIterator[bytes]:
    """The same; the clock goes off early where they come too slowly. They hold a place that others wait for."""
    now = asyncio.get_running_loop().time
    end, due = clock.when(), now() + PATIENCE
    clock.reschedule(min(end, due))
    async for chunk in chunks:
        yield chunk
        due = min(due + len(chunk) / SLOWEST, now() + PATIENCE)
        clock.reschedule(min(end, due))


class PlainSink:
    """The body is the file."""

    name = "video"

    def __init__(self, write: Callable[[bytes], int], limits: Limits):
        self.write_file, self.limits = write, limits
        self.num_bytes = 0

    def write(self, chunk: bytes) -> None:
        self.num_bytes += len(chunk)
        if self.num_bytes > self.limits.max_bytes:
            raise too_large(self.limits)
        self.write_file(chunk)

    def finish(self) -> None:
        pass


class FormSink:
    """The body is a form, the file one of its fields: parsed as it comes, nothing but the file is kept."""

    def __init__(self, write: Callable[[bytes], int], content_type: str, limits: Limits):
        from python_multipart.exceptions import FormParserError
        from python_multipart.multipart import MultipartParser, parse_options_header

        self.file, self.parse_options, self.error = PlainSink(write, limits), parse_options_header, FormParserError
        self.name = ""
        self.num_files = self.num_around = 0
        self.is_ended = False
        boundary = self._options(content_type).get(b"boundary")
        if not boundary:
            raise Refused(400, "The form's Content-Type names no boundary.")
        names = "part_begin header_field header_value header_end headers_finished part_data end".split()
        try:
            self.parser = MultipartParser(boundary, {f"on_{name}": getattr(self, f"_{name}") for name in names})
        except FormParserError as error:
            raise Refused(400, f"The form cannot be read: {error}.") from error

    @property
    def num_bytes(self) -> int:
        return self.file.num_bytes

    def write(self, chunk: bytes) -> None:
        before = self.num_bytes
        try:
            self.parser.write(chunk)
        except self.error as error:
            raise Refused(400, f"The form cannot be read: {client_name(str(error))}.") from error
        self.num_around += len(chunk) - (self.num_bytes - before)
        if self.num_around > FRAMING:
            raise Refused(413, f"The form has more than {FRAMING >> 10} KB beside its file.")

    def finish(self) -> None:
        if not self.is_ended:
            raise Refused(400, "The form is cut off: its end is missing.")
        if not self.num_files:
            raise Refused(400, f"The form has no field '{FIELD}' with a file: curl -F {FIELD}=@clip.mp4")

    def _part_begin(self) -> None:
        self.headers: dict[bytes, bytes] = {}
        self.field = self.value = b""

    def _header_field(self, data: bytes, start: int, end: int) -> None:
        self.field += data[start:end]

    def _header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def _header_end(self) -> None:
        self.headers[self.field.lower()] = self.value
        self.field = self.value = b""

    def _headers_finished(self) -> None:
        header = self.headers.get(b"content-disposition", b"").decode("latin-1")
        options = self._options(header)
        if b"filename" not in options and (extended := _extended_name(header)):
            options[b"filename"] = extended
        name, file_name = (options.get(key, b"").decode("utf-8", "replace") for key in (b"name", b"filename"))
        if name != FIELD:
            raise Refused(400, f"Unknown field '{client_name(name)}'. The form has one field, '{FIELD}', with a file.")
        if b"filename" not in options:
            raise Refused(400, f"The field '{FIELD}' is no file: curl -F {FIELD}=@clip.mp4 (with the @)")
        self.num_files += 1
        if self.num_files > 1:
            raise Refused(400, f"The form has more than one field '{FIELD}'. Send one video per request.")
        self.name = client_name(file_name) or "video"

    def _options(self, header: str) -> dict[bytes, bytes]:
        if len(header) > HEADER_LENGTH:
            raise Refused(400, f"A header of the form has more than {HEADER_LENGTH:,} bytes.")
        return self.parse_options(header)[1]

    def _part_data(self, data: bytes, start: int, end: int) -> None:
        self.file.write(data[start:end])

    def _end(self) -> None:
        self.is_ended = True


def _extended_name(header: str) -> bytes | None:
    """The name in filename*=UTF-8''%e2%82%ac.mp4 (RFC 5987), where some clients give no other one."""
    found = re.search(r"""filename\*\s*=\s*["']?utf-8'[^']*'([^;"'\s]*)""", header, re.IGNORECASE)
    return unquote_to_bytes(found[1]) if found else None


def too_large(limits: Limits) -> Refused:
    return Refused(413, f"The file is larger than {megabytes(limits.max_bytes)}, the limit of this server.")


def megabytes(num_bytes: int) -> str:
    return f"{round(num_bytes / 1e6, 1):,g} MB"


def client_name(text: str, length: int = NAME_LENGTH) -> str:
    """A client's text as one short line without control characters."""
    text = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return text if len(text) <= length else f"{text[: length - 3]}..."
