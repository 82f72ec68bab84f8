"""Preprocessing as a command, the frames that it leaves, and a user who may not read everything."""

import contextlib
import ctypes
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from common.files import ROOT
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import find_source

READ_AND_WRITE_EVERYTHING = 0b110  # CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH
VERSION = 0x20080522  # of the capabilities' structures
SECUREBITS, ROOT_IS_NOBODY = 28, 0b101  # neither a program that is started nor access() has them back


def start_cli(*args: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "dataloaders.preprocess", *map(str, args)]
    STARTED.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def run_cli(*args: object) -> tuple[int, str, str]:
    """(exit status, standard output, standard error)"""
    process = start_cli(*args)
    output, errors = process.communicate(timeout=60)
    return process.returncode, output, errors


def make_source(videos: Path) -> DataSource:
    return find_source(str(videos), {}, ROOT)


def break_decoding(folder: Path, monkeypatch: pytest.MonkeyPatch, fault: str) -> Path:
    """Runs `fault`, lines of Python that know the video's `name`, in every child process that opens a video.

    Returns a log with a line for each video that was opened, its name.
    """
    folder.mkdir()
    log, lines = folder / "opened.txt", "\n".join(f"    {line}" for line in fault.splitlines())
    (folder / "sitecustomize.py").write_text(
        f"""
import os, pathlib, signal, av
real = av.open
def first_time(name):
    return pathlib.Path({str(log)!r}).read_text().split().count(name) == 1
def broken(file, *arguments, **options):
    name = pathlib.Path(file).name
    with open({str(log)!r}, "a") as out:
        out.write(name + chr(10))
{lines}
    return real(file, *arguments, **options)
av.open = broken
"""
    )
    monkeypatch.setenv("PYTHONPATH", str(folder))
    return log


def contents(frames: Path) -> dict[str, bytes]:
    """Every file but the lock's."""
    return {
        path.relative_to(frames).as_posix(): path.read_bytes()
        for path in frames.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


STARTED: list[subprocess.Popen] = []


@contextlib.contextmanager
def as_plain_user() -> Iterator[None]:
    """Inside, the permissions of files hold for this thread and for what it starts, although it may be root's."""
    if sys.platform != "linux":
        pytest.skip("no capabilities here")
    if os.geteuid() != 0:
        yield
        return
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(VERSION, 0)
    had = (ctypes.c_uint32 * 6)()  # effective, permitted, inheritable of the lower 32, then of the upper ones
    libc.capget(header, had)
    less = (ctypes.c_uint32 * 6)(*had)
    less[0] &= ~READ_AND_WRITE_EVERYTHING
    if libc.prctl(SECUREBITS, ROOT_IS_NOBODY, 0, 0, 0) or libc.capset(header, less):
        pytest.skip("root's rights cannot be given up here")
    try:
        yield
    finally:
        libc.capset(header, had)
        libc.prctl(SECUREBITS, 0, 0, 0, 0)


@contextlib.contextmanager
def mounted(folder: Path, options: str):
    """A file system in memory; the test is skipped where that may not be mounted."""
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting takes root on Linux")
    command = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)]
    if subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("mounting is not permitted here")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)  # a process that a failed test left may be in it
