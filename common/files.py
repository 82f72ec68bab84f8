"""Atomic writes, locks, lines of text files, and paths as text."""

import codecs
import csv
import errno
import hashlib
import io
import json
import os
import re
import socket
import time
import unicodedata
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from common.console import print_once
from common.errors import UsageError, UserError

if TYPE_CHECKING:
    from filelock import BaseFileLock

NO_LOCKS = (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS)  # what disks without flock answer
VIDEO_SUFFIXES = frozenset(".avi .mp4 .mkv .mov .webm .mpg .mpeg .m4v .wmv .flv .3gp .ts .mts .gif".split())


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes text (see utf8) or bytes under a temporary name, then renames the file to `path`."""
    with atomic_write(path) as temporary:
        temporary.write_bytes(utf8(content) if isinstance(content, str) else content)


def utf8(text: str) -> bytes:
    """Text as UTF-8. Bytes of file names that are no UTF-8 become escapes such as \\udcf6, which JSON reads back."""
    return text.encode("utf-8", "backslashreplace")


def write_json(path: Path, content: dict | list[dict]) -> None:
    """Writes a result that the user asked for as indented JSON. Raises UserError where the file cannot be written."""
    with atomic_output(path) as temporary:
        temporary.write_bytes(utf8(json.dumps(content, ensure_ascii=False, indent=2) + "\n"))


def csv_text(rows: Iterable[Sequence]) -> str:
    """Rows of cells as the text of a .csv file, with line ends as on Linux."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(rows)
    return file.getvalue()


@contextmanager
def atomic_write(path: Path, temporary: Path | None = None) -> Iterator[Path]:
    """Yields a temporary name beside `path` and renames it at the end, so a reader finds the old or the new content.

    temporary: another temporary name, for several writers of `path` or a suffix that must stay.
    """
    temporary = temporary or temporary_name(path)
    try:
        with named_errors(path):
            yield temporary
            put_in_place(temporary, path)
    except OSError as error:
        if error.filename != str(temporary):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error  # the name that the user knows
    finally:
        temporary.unlink(missing_ok=True)


def put_in_place(temporary: Path, path: Path) -> None:
    """Renames a file or folder, over a file that exists. On Windows another program may have that one open for a moment
    (TensorBoard, a virus scanner), so it is tried again."""
    for seconds in WINDOWS_PAUSES if os.name == "nt" else ():
        try:
            temporary.replace(path)
            return
        except PermissionError:
            time.sleep(seconds)
    temporary.replace(path)


def unfit_for_windows(name: str) -> bool:
    """Whether a file or folder on Windows cannot have this name: aux, nul, "a:b", "end." and others."""
    return bool(re.search(r'[<>:"|?*]|[. ]$', name) or re.match(r"(con|prn|aux|nul|(com|lpt)[1-9])(\.|$)", name, re.I))


@contextmanager
def named_errors(path: Path) -> Iterator[None]:
    """An OSError of writing to an open file names the file, as one of opening it does."""
    try:
        yield
    except OSError as error:
        if error.filename is not None or error.errno is None:
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def atomic_output(path: Path, errors: tuple[type[Exception], ...] = (OSError,)) -> Iterator[Path]:
    """atomic_write for a file that the user named: `errors` of the disk or of an encoder become a UserError."""
    try:
        with atomic_write(path) as temporary:
            yield temporary
    except errors as error:
        raise UserError(f"{printable(path)} cannot be written: {error.strerror}.") from error


WINDOWS_PAUSES = (0.05, 0.1, 0.2, 0.5, 1.0, 2.0)  # seconds before a rename is tried again
WINDOWS_PATH = 260  # characters of a path, unless long paths are enabled
MAX_NAME = 255  # bytes of a file's name on most disks


def temporary_name(path: Path) -> Path:
    """The name beside `path` under which this process writes its content first."""
    ending = f".{os.getpid()}.tmp"
    if len(os.fsencode(path.name)) <= MAX_NAME - len(ending):
        return path.with_name(path.name + ending)
    return path.with_name(hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16] + ending)


def is_forbidden(error: OSError) -> bool:
    """Whether the permission was missing, to read, to write or to enter a folder."""
    return error.errno in (errno.EACCES, errno.EPERM)


def blocked_by(path: str | Path) -> str:
    """What to do about a path at which the permission was missing: it names what may not be read, entered or
    written."""
    path = Path.cwd() / path
    folder = next(parent for parent in path.parents if identity(parent))
    if not os.access(folder, os.X_OK):
        return f"You may not enter the folder {printable(folder)}: ask its owner for the permission."
    if identity(path) and not os.access(path, os.R_OK):
        return "You may not read it: ask its owner for the permission, or take it out of the folder."
    return "Choose a folder that you may write, or ask for the permission."


def check_writable(path: Path) -> None:
    """Makes the folder of `path` and creates a file in it. Raises UsageError or UserError where it cannot."""
    if identity(path) and path.is_dir():
        raise UsageError(f"{printable(path)} is a folder, not a file name. Choose another name.")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = temporary_name(path)
        temporary.touch()
        temporary.unlink(missing_ok=True)  # another process may try the same
    except OSError as error:
        raise UserError(f"{printable(path)} cannot be written: {error.strerror}. Choose another folder.") from error


class Busy(UserError):
    """Another process holds the lock."""


def take_lock(path: Path, patience: float = 0.0) -> "BaseFileLock":
    """Locks the file `path`, whose name contains "lock", until release() is called or the process ends.

    On a disk without locks (some over a network) a file beside it stands for the lock, which a process that is killed
    leaves behind. Raises Busy, which names the holder, where another process keeps it for `patience` seconds.
    """
    from filelock import FileLock, SoftFileLock, Timeout  # which a server does without

    owner = path.with_name(path.name.replace("lock", "owner"))
    soft = path.with_name(f"{path.name}-file")
    lock = FileLock(path)
    try:
        try:
            lock.acquire(timeout=patience)
        except (OSError, NotImplementedError) as error:
            if isinstance(error, Timeout) or (isinstance(error, OSError) and error.errno not in NO_LOCKS):
                raise
            print_once(f"Note: the disk of {path.parent} has no file locks. The file {soft.name} stands for one.")
            lock = SoftFileLock(soft)
            lock.acquire(timeout=patience)
            path.touch()
        owner.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
    except Timeout as error:
        who = owner.read_text(encoding="utf-8") if owner.exists() else "another process"
        left = f" If it has ended, delete {soft}." if isinstance(lock, SoftFileLock) else ""
        raise Busy(f"{who} is writing into {path.parent} right now.{left}") from error
    except OSError as error:
        raise OSError(error.errno, error.strerror, str(path)) from error
    return lock


@contextmanager
def held(path: Path, patience: float = 0.0) -> Iterator[None]:
    """take_lock for the time inside."""
    lock = take_lock(path, patience)
    try:
        yield
    finally:
        lock.release()


def same_file(left: Path, right: Path) -> bool:
    """Whether both paths exist and lead to one file."""
    return left.exists() and right.exists() and left.samefile(right)


def identity(path: Path) -> tuple[int, int] | None:
    """(device, inode) of a file; None where it does not exist or may not be read."""
    try:
        stat = path.stat()
    except OSError:
        return None
    return stat.st_dev, stat.st_ino


def printable(path: str | Path) -> str:
    """A path, name or address as text of one line that can be printed and drawn; bytes that are no UTF-8 and control
    characters become backslash escapes, and an address loses its user and password."""
    text = os.fsencode(path).decode("utf-8", "backslashreplace")
    text = re.sub(r"(?<=://)[^/\s]*@", "", text)
    return re.sub(r"[\x00-\x1f\x7f]", lambda found: repr(found[0])[1:-1], text)


def relative_to_cwd(path: Path) -> str:
    """The path relative to the current folder where it lies below it, else unchanged."""
    try:
        return str(path.resolve().relative_to(Path.cwd()))
    except ValueError:
        return str(path)


ROOT = Path(__file__).resolve().parent.parent


def sha256_of(path: Path) -> str:
    """SHA-256 of a file's content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_lines(path: Path, undecodable: str = "strict") -> list[str]:
    """Lines of a text file without their ends (CRLF too) and without a byte-order mark.

    undecodable: "surrogateescape" keeps bytes that are not UTF-8, as names of files may hold them; otherwise they are a
    UserError, and so is UTF-16.
    """
    content = path.read_bytes()
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise UserError(f"{path} is UTF-16 text. Save it as UTF-8.")
    if b"\0" in content[:8192]:
        raise UserError(f"{path} is not a text file.")
    try:
        text = content.decode("utf-8-sig", undecodable)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{path}, line {line}: the byte 0x{content[error.start]:02X} is not UTF-8, but of an older encoding such "
            "as cp1252. Save the file as UTF-8."
        ) from error
    return re.split(r"\r\n|\r|\n", text)


def is_comment(line: str) -> bool:
    """Whether a line of a list is a comment: # alone, or with a space or another # behind it. (#shorts 1.avi is a
    name.)"""
    return re.match(r"#(?:[\s#]|$)", line) is not None


def file_size(path: Path) -> int:
    """Bytes; 0 for a link to nothing, and where it may not be known."""
    try:
        return path.stat().st_size
    except (FileNotFoundError, PermissionError):
        return 0


def same_spelling(name: str) -> str:
    """The composed form (NFC) of a name: file systems and lists may spell an accented letter as one sign or as two."""
    return unicodedata.normalize("NFC", name)
