"""Preprocessing as a command, and the frames that it leaves."""

import subprocess
import sys
from pathlib import Path

import pytest

from common.files import ROOT
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import find_source


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
