"""The environment of a run: versions, hardware, commit of the code, command."""

import platform
import shlex
import shutil
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version

import torch

from common.files import ROOT
from common.torchrun import world_size
from engine.hardware.device import device_name

PACKAGES = ("torch", "torchvision", "numpy", "opencv-python", "av")


def environment(device: torch.device) -> dict:
    """The environment as plain values for config.json; None for what is missing."""
    on_gpu = device.type == "cuda"
    return {
        "command": shlex.join([_program(), *sys.argv[1:]]),
        "git": git_state(),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "cuda": torch.version.cuda if on_gpu else None,
        "cudnn": torch.backends.cudnn.version() if on_gpu else None,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "processes": world_size(),
        "system": platform.platform(),
    }


def git_state() -> dict | None:
    """The commit of this code and whether files differ from it; None where it is no clone, or without git."""
    if shutil.which("git") is None:
        return None
    try:
        commit = _git("rev-parse", "HEAD")
        changed = _git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!mypath.py")  # made to be edited
        return {"commit": commit, "dirty": bool(changed)}
    except (subprocess.SubprocessError, OSError):
        return None


def _git(*words: str) -> str:
    command = ["git", "-C", str(ROOT), *words]
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=20).stdout.strip()


def _program() -> str:
    return sys.argv[0].removeprefix(f"{ROOT}/") or "python"


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None
