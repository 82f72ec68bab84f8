"""A large file from one of its addresses, over as many connections as it takes, and checked."""

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path

from common.console import gigabytes, progress
from common.errors import Stopped, UserError, out_of_space
from common.files import printable
from dataloaders.sources.layout import Archive

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte, after which a connection counts as lost
TRIES = 5  # connections lost without a byte gained, before it is given up


def size(num_bytes: float) -> str:
    """6.9 GB, 35 MB, 114 KB"""
    return gigabytes(num_bytes) if num_bytes >= 1e6 else f"{num_bytes / 1e3:.0f} KB"


def num_bytes_there(path: Path) -> int:
    """Bytes of a file that are fetched already."""
    return next((file.stat().st_size for file in (path, part_of(path)) if file.is_file()), 0)


def part_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.part")


class Unreachable(Exception):
    """A file that cannot be had from any of its addresses, and why."""


def fetch(archive: Archive, path: Path, mirror: str | None = None, check_certificate: bool = True) -> None:
    """Fetches an archive to <path>.part, going on where an earlier run stopped, and renames it when it is whole.

    mirror: the folder of another server, instead of the official addresses. Raises Unreachable where no address gives
    the file, UserError where the disk is full.
    """
    urls = [f"{mirror.rstrip('/')}/{archive.name}"] if mirror else archive.urls
    context = ssl.create_default_context() if check_certificate else ssl._create_unverified_context()
    reasons = []
    for url in urls:
        print(f"Fetching {printable(url)}")
        try:
            _fetch_from(url, archive, path, context)
            part_of(path).replace(path)
            return
        except Refused as error:
            print(f"  {error}")
            reasons.append(str(error))
        except (KeyboardInterrupt, Stopped):
            print(f"Stopped at {size(num_bytes_there(path))}; the same command continues.")
            raise
        except OSError as error:
            if out_of_space(error):
                left = archive.about - num_bytes_there(path)
                raise UserError(
                    f"The disk of {path.parent} is full. The downloaded part is kept: free some space (about "
                    f"{size(left)} more for {archive.name}) and repeat the command."
                ) from error
            raise
    raise Unreachable("; ".join(dict.fromkeys(reasons)))


class Refused(Exception):
    """Why an address does not give the file."""


def _fetch_from(url: str, archive: Archive, path: Path, context: ssl.SSLContext) -> None:
    """Fetches a whole file over as many connections as it takes, as long as each of them gains some bytes."""
    fails = 0  # in a row, without a byte gained
    while True:
        before = num_bytes_there(path)
        try:
            if _fetch_some(url, archive, path, context):
                return
            lost = f"{_host(url)}: the connection broke off"
        except urllib.error.HTTPError as error:
            raise Refused(f"{_host(url)} answers {error.code} {error.reason}") from error
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            lost = _why_lost(url, error)
        fails = 0 if num_bytes_there(path) > before else fails + 1
        if fails == TRIES:
            raise Refused(f"{lost}, {TRIES} times at {size(num_bytes_there(path))}")
        print(f"  {lost} at {size(num_bytes_there(path))}; trying again")
        time.sleep(2**fails - 1)


def _host(url: str) -> str:
    return urllib.parse.urlsplit(url).netloc.rpartition("@")[2]  # without a password


def _why_lost(url: str, error: Exception) -> str:
    """The reason of a lost connection, in a few words. Raises Refused where trying again cannot help."""
    host = _host(url)
    reason = getattr(error, "reason", error)
    if isinstance(reason, ssl.SSLCertVerificationError):
        raise Refused(
            f"the certificate of {host} cannot be verified ({reason.verify_message}). It may lack an intermediate "
            "certificate; with --no-check-certificate the file is checked by its SHA-256 only"
        ) from error
    if isinstance(reason, OSError) and reason.errno is not None and reason.errno < 0:  # names that are not resolved
        raise Refused(f"{host} cannot be reached ({reason.strerror})") from error
    if isinstance(reason, ConnectionRefusedError):
        raise Refused(f"{host} refused the connection") from error
    return f"{host}: {reason or 'the connection broke off'}"


def _fetch_some(url: str, archive: Archive, path: Path, context: ssl.SSLContext) -> bool:
    """One connection: appends to the part what it gives. True where the file is whole."""
    part = part_of(path)
    have = part.stat().st_size if part.is_file() else 0
    request = urllib.request.Request(url, headers={"User-Agent": "video-action-recognition"})
    if have:
        request.add_header("Range", f"bytes={have}-")
    try:
        answer = urllib.request.urlopen(request, timeout=TIMEOUT, context=context)
    except urllib.error.HTTPError as error:
        if error.code != http.client.REQUESTED_RANGE_NOT_SATISFIABLE:
            raise
        if error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return True  # it was whole, and the run was stopped before it got its name
        part.unlink()
        return False
    with answer:
        if answer.headers.get_content_type() == "text/html":
            raise Refused(f"{_host(url)} sent a web page instead of {archive.name}")
        goes_on = answer.status == http.client.PARTIAL_CONTENT
        if have and not goes_on:
            print(f"  the server cannot resume at {size(have)}; starting again")
            have = 0
        length = answer.headers.get("Content-Length")
        total = have + int(length) if length else None
        if total is not None and not archive.about // 2 <= total <= archive.about * 2:
            raise Refused(f"the file there has {size(total)}, where {size(archive.about)} are expected")
        num_chunks = -(-((total or archive.about) - have) // CHUNK)
        with part.open("ab" if goes_on else "wb") as file:
            for chunk in progress(_chunks(answer), num_chunks, archive.name, "MB"):
                file.write(chunk)
        return total is None or part.stat().st_size == total


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    while chunk := answer.read(CHUNK):
        yield chunk


def check(archive: Archive, path: Path) -> None:
    """Raises UserError where a file is not the archive, by its SHA-256."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        num_chunks = -(-path.stat().st_size // CHUNK)
        for chunk in progress(iter(lambda: file.read(CHUNK), b""), num_chunks, f"Checking {archive.name}", "MB"):
            digest.update(chunk)
    if digest.hexdigest() != archive.sha256:
        raise UserError(
            f"{path} ({size(path.stat().st_size)}) is not the official archive, or damaged: its SHA-256 is "
            f"{digest.hexdigest()[:16]}... and not {archive.sha256[:16]}... Delete it and repeat the command, or use "
            "another server (--from URL)."
        )
