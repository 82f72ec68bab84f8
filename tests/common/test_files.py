"""Files that are written whole, and names as a disk has them."""

import os
from pathlib import Path
from types import SimpleNamespace

import pytest

from common import files
from common.files import named_errors, printable, temporary_name, unfit_for_windows, write_atomically


def test_a_temporary_name_never_grows_beyond_what_a_disk_takes(tmp_path):
    for length in (1, 251, 252, 255):
        path = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
        write_atomically(path, "content")
        assert path.read_text() == "content" and temporary_name(path).parent == tmp_path
    assert len({temporary_name(tmp_path / ("x" * 254 + last)) for last in "ab"}) == 2


def test_names_are_printed_on_one_line_whatever_bytes_they_hold():
    assert printable(os.fsdecode(b"h\xf6he")) == "h\\xf6he" and printable("a\nb\x1b") == "a\\nb\\x1b"
    assert printable("跑步 a") == "跑步 a"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs a device that is always full")
def test_an_error_of_writing_names_the_file_as_one_of_opening_does(tmp_path):
    path = tmp_path / "result.json"
    temporary_name(path).symlink_to("/dev/full")
    with pytest.raises(OSError, match="No space left on device") as raised:
        write_atomically(path, "content")
    assert raised.value.filename == str(path)
    with pytest.raises(OSError, match="Input/output error") as raised, named_errors(path):
        raise OSError(5, "Input/output error")
    assert raised.value.filename == str(path)


def test_a_file_that_is_open_on_windows_is_replaced_when_it_is_closed(tmp_path, monkeypatch):
    """Windows refuses to rename a file over one that another program has open."""
    real, refusals = Path.replace, [PermissionError(13, "in use")] * 2

    def replace(path: Path, target: Path) -> Path:
        if refusals:
            raise refusals.pop()
        return real(path, target)

    waited = []
    monkeypatch.setattr(Path, "replace", replace)
    monkeypatch.setattr(files.time, "sleep", waited.append)
    monkeypatch.setattr(files, "os", SimpleNamespace(**vars(os) | {"name": "nt"}))
    write_atomically(tmp_path / "last.pth", "new")
    assert (tmp_path / "last.pth").read_text() == "new" and waited == [0.05, 0.1]
    refusals += [PermissionError(13, "in use")] * 9
    with pytest.raises(PermissionError):
        write_atomically(tmp_path / "last.pth", "newer")
    assert (tmp_path / "last.pth").read_text() == "new" and len(waited) == 8


@pytest.mark.parametrize(
    ("name", "unfit"),
    [("walk", False), ("aux", True), ("NUL.txt", True), ("com1", True), ("auxiliary", False), ("a:b", True)]
    + [("end.", True), ("what?", True), ("nul_x", False), (".hidden", False), ("a b", False), ("end ", True)],
)
def test_names_that_windows_does_not_take(name, unfit):
    assert unfit_for_windows(name) == unfit
