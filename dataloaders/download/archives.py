"""Archives into folders, with what is installed here: Python for .zip, other programs for .rar."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from common.errors import UserError

# Programs that unpack .rar, best first; bsdtar is what macOS and Windows call tar.
RAR_TOOLS = {
    "unrar": ["x", "-o+", "-inul", "{archive}", "{folder}/"],
    "unar": ["-quiet", "-force-overwrite", "-no-directory", "-output-directory", "{folder}", "{archive}"],
    "7zz": ["x", "-y", "-bd", "-o{folder}", "{archive}"],
    "7z": ["x", "-y", "-bd", "-o{folder}", "{archive}"],
    "bsdtar": ["-x", "-f", "{archive}", "-C", "{folder}"],
    "tar": ["-x", "-f", "{archive}", "-C", "{folder}"],
}


def needs_unpacker(archive: Path) -> bool:
    """Whether Python alone will not do; seen from the name where the archive is not there yet."""
    return archive.suffix.lower() == ".rar" and not (archive.is_file() and zipfile.is_zipfile(archive))


def rar_tools() -> list[str]:
    """The programs that are here, best first."""
    found = [name for name in RAR_TOOLS if shutil.which(name)]
    if "tar" in found and not _is_bsdtar("tar"):
        found.remove("tar")
    return found


def _is_bsdtar(name: str) -> bool:
    answer = subprocess.run([name, "--version"], capture_output=True, text=True, errors="replace", check=False)
    return "bsdtar" in answer.stdout


def install_advice() -> str:
    """Advice on how to install a program that unpacks .rar."""
    if sys.platform == "darwin":
        return "Install one: brew install unar"
    if os.name == "nt":
        return "Install 7-Zip (https://7-zip.org) and put its folder into PATH."
    return "Install one: apt-get install unar (or unrar, or libarchive-tools), dnf install unar, or conda's unar."


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks into a folder, which it makes. What the file is called does not count. Raises UserError with what each
    program said where none can."""
    folder.mkdir(parents=True, exist_ok=True)
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as file:
            file.extractall(folder)
        return

    said = []
    for name in rar_tools():
        words = [word.format(archive=archive, folder=folder) for word in RAR_TOOLS[name]]
        answer = subprocess.run(
            [name, *words], capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL, check=False
        )
        if answer.returncode == 0:
            return
        lines = (answer.stderr.strip() or answer.stdout.strip()).splitlines()
        said.append(f"{name}: {lines[-1].strip() if lines else f'status {answer.returncode}'}")
    if not said:
        raise UserError(f"No program here unpacks {archive}. {install_advice()}")
    raise UserError(f"{archive} cannot be unpacked here ({'; '.join(said)}). {install_advice()}")
