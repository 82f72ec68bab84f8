"""Lines of lists and class files, however they were saved."""

import pytest

from common.class_names import read_class_names
from common.errors import UserError
from common.files import is_comment, read_lines, same_spelling


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfrun\r\njump\r\n", b"run\njump\n", b"run\rjump\r"])
def test_a_byte_order_mark_and_any_line_end_change_nothing(tmp_path, content):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    assert read_lines(path) == ["run", "jump", ""]
    assert read_class_names(path) == {0: "run", 1: "jump"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run\nh\u00f6he\n".encode("cp1252"), "line 2: the byte 0xF6 is not UTF-8, but of an older encoding"),
        ("run\n".encode("utf-16"), "is UTF-16 text. Save it as UTF-8."),
        (b"\0\1\2", "is not a text file."),
    ],
)
def test_other_encodings_are_told_by_name(tmp_path, content, message):
    path = tmp_path / "classes.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=message):
        read_class_names(path)


def test_a_hash_begins_a_comment_only_before_a_space():
    assert [is_comment(line) for line in ("# note", "#", "##", "#\tnote")] == [True] * 4
    assert [is_comment(line) for line in ("#shorts 1.avi,jack", "a # b", "1 #run")] == [False] * 3


def test_classes_that_begin_with_a_hash_keep_their_numbers(tmp_path):
    """They were dropped, and all later classes shifted."""
    path = tmp_path / "classes.txt"
    path.write_text("# classes of the set\n#shorts\nrun\n")
    assert read_class_names(path) == {0: "#shorts", 1: "run"}


def test_composed_and_decomposed_letters_are_one_name(tmp_path):
    path = tmp_path / "classes.txt"
    path.write_text("ho\u0308he\n")
    assert read_class_names(path) == {0: "h\u00f6he"} and same_spelling("ho\u0308he") == "h\u00f6he"
