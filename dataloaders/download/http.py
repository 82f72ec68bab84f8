"""A large file from one of its addresses, over as many connections as it takes, and checked."""

import hashlib
import http.client
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path

from common.console import duration, gigabytes, progress
from common.errors import Stopped, UserError, out_of_space
from common.files import named_errors, printable, put_in_place, sha256_of
from dataloaders.sources.layout import Archive

CHUNK = 1 << 20
TIMEOUT = 60  # seconds without a byte, after which a connection counts as lost
LONGEST_PAUSE = 600.0  # seconds for which a busy server is waited for
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
            put_in_place(part_of(path), path)
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
        before, pause = num_bytes_there(path), None
        try:
            if _fetch_some(url, archive, path, context):
                return
            lost = f"{_host(url)}: the connection broke off"
        except urllib.error.HTTPError as error:
            lost = f"{_host(url)} answers {error.code} {error.reason}"
            if error.code not in (http.client.TOO_MANY_REQUESTS, http.client.SERVICE_UNAVAILABLE):
                raise Refused(lost) from error
            pause = _retry_after(error.headers.get("Retry-After"))
            if pause > LONGEST_PAUSE:
                raise Refused(f"{lost} and asks to come back in {duration(pause)}") from error
        except (urllib.error.URLError, http.client.HTTPException, ssl.SSLError, TimeoutError, ConnectionError) as error:
            lost = _why_lost(url, error)
        fails = 0 if num_bytes_there(path) > before else fails + 1
        if fails == TRIES:
            if part_of(path).is_file() and sha256_of(part_of(path)) == archive.sha256:
                return  # and the server stated a wrong length
            raise Refused(f"{lost}, {TRIES} times at {size(num_bytes_there(path))}")
        pause = 2**fails - 1 if pause is None else pause
        when = f" in {duration(pause)}" if pause > 1 else ""
        print(f"  {lost} at {size(num_bytes_there(path))}; trying again{when}")
        time.sleep(pause)


def _retry_after(header: str | None) -> float:
    """Seconds to wait, of a number or a date; 30 where the server does not say."""
    if header and header.strip().isdecimal():
        return float(header)
    try:
        return max((parsedate_to_datetime(header) - datetime.now(UTC)).total_seconds(), 1.0)
    except (TypeError, ValueError):
        return 30.0


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
        length = answer.headers.get("Content-Length", "")
        total = have + int(length) if length.isdecimal() else None
        if total is not None and not archive.about // 2 <= total <= archive.about * 2:
            raise Refused(f"the file there has {size(total)}, where {size(archive.about)} are expected")
        num_chunks = -(-((total or archive.about) - have) // CHUNK)
        with named_errors(part), part.open("ab" if goes_on else "wb") as file:
            for chunk in progress(_chunks(answer), num_chunks, archive.name, "MB"):
                file.write(chunk)
                have += len(chunk)
                if have > 2 * archive.about:
                    break
    if have > 2 * archive.about:
        part.unlink()
        raise Refused(f"the file there has more than {size(have)}, where {size(archive.about)} are expected")
    return have == total if total is not None else sha256_of(part) == archive.sha256  # it may have broken off


def _chunks(answer: http.client.HTTPResponse) -> Iterator[bytes]:
    try:
        while chunk := answer.read(CHUNK):
            yield chunk
    except http.client.IncompleteRead as error:  # of an answer in pieces
        yield error.partial
        raise


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
