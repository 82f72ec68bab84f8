"""Files that are written whole, and names as a disk has them."""

import os

from common.files import printable, temporary_name, write_atomically


def test_a_temporary_name_never_grows_beyond_what_a_disk_takes(tmp_path):
    for length in (1, 251, 252, 255):
        path = tmp_path / ("é" * (length // 2) + "x" * (length % 2))
        write_atomically(path, "content")
        assert path.read_text() == "content" and temporary_name(path).parent == tmp_path
    assert len({temporary_name(tmp_path / ("x" * 254 + last)) for last in "ab"}) == 2


def test_names_are_printed_on_one_line_whatever_bytes_they_hold():
    assert printable(os.fsdecode(b"h\xf6he")) == "h\\xf6he" and printable("a\nb\x1b") == "a\\nb\\x1b"
    assert printable("跑步 a") == "跑步 a"
