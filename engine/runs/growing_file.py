"""Files that grow during a run: curves, and a line for each epoch."""

import os
from contextlib import suppress
from pathlib import Path

from common.files import relative_to_cwd


class GrowingFile:
    """Appends to a file. A disk that is full or gone stops nothing: it is said once, what could not be written stays
    in memory, and the next flush tries again. No half-written record stays in the file."""

    def __init__(self, path: Path):
        self.path = path
        self.size = path.stat().st_size if path.is_file() else 0  # up to here the records are whole
        self.waiting: list[bytes] = []
        self.is_failing = False

    def add(self, record: bytes) -> None:
        self.waiting.append(record)

    def flush(self) -> None:
        if not self.waiting:
            return
        try:
            with self.path.open("ab") as file:
                if file.tell() > self.size:
                    file.truncate(self.size)
                file.write(b"".join(self.waiting))
                file.flush()
                os.fsync(file.fileno())  # some disks, over a network too, say only now that they are full
                size = file.tell()
        except OSError as error:
            with suppress(OSError):
                os.truncate(self.path, self.size)
            if not self.is_failing:
                print(
                    f"WARNING: {relative_to_cwd(self.path)} cannot be written: {error.strerror}. The program goes on; "
                    "what is missing there is tried again.",
                    flush=True,
                )
            self.is_failing = True
            return
        self.size, self.is_failing = size, False
        self.waiting.clear()

    def close(self) -> None:
        """Writes what is waiting, or says that it is lost."""
        self.flush()
        if self.waiting:
            print(f"WARNING: the end of {relative_to_cwd(self.path)} is lost: {len(self.waiting):,} records.")
