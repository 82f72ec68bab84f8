"""Preprocessing as a command, and the frames that it leaves."""

import subprocess
import sys
from pathlib import Path

from common.files import ROOT
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import find_source


def start_cli(*args: object) -> subprocess.Popen:
    command = [sys.executable, "-m", "dataloaders.preprocess", *map(str, args)]
    STARTED.append(subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    return STARTED[-1]


def make_source(videos: Path) -> DataSource:
    return find_source(str(videos), {}, ROOT)


def contents(frames: Path) -> dict[str, bytes]:
    """Every file but the lock's."""
    return {
        path.relative_to(frames).as_posix(): path.read_bytes()
        for path in frames.rglob("*")
        if path.is_file() and not path.name.startswith(".")
    }


STARTED: list[subprocess.Popen] = []
