"""What may not be read, entered or written: one line that says which, and nothing lost."""

import pytest

from common.cli import fail
from common.errors import UserError
from common.files import write_atomically
from dataloaders.audit.run import audit_source
from dataloaders.frames.manifest import read_manifest
from dataloaders.frames.settings import Settings
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.find import find_source
from tests.helpers.preprocess import as_plain_user
from tests.helpers.toy import make_toy_videos

SIZE = (80, 60)


def said_of(action, capsys) -> str:
    with as_plain_user():
        with pytest.raises(OSError) as caught:
            action()
        assert fail(caught.value) == 1
    [line] = capsys.readouterr().err.splitlines()
    return line


def test_the_advice_is_about_what_was_not_allowed(tmp_path, capsys):
    read, entered, written = tmp_path / "read", tmp_path / "entered", tmp_path / "written"
    read.write_text("x")
    read.chmod(0)
    for folder, mode in ((entered, 0o600), (written, 0o500)):
        folder.mkdir()
        folder.chmod(mode)

    line = said_of(read.read_text, capsys)
    assert line.startswith(f"Permission denied: {read}. You may not read it")
    line = said_of(lambda: (entered / "sub" / "x").read_text(), capsys)
    assert line.endswith(f"You may not enter the folder {entered}: ask its owner for the permission.")
    line = said_of(lambda: write_atomically(written / "x", "x"), capsys)
    assert line == f"Permission denied: {written / 'x'}. Choose a folder that you may write, or ask for the permission."


@pytest.mark.slow
def test_a_video_that_may_not_be_read_is_refused_and_taken_when_it_may(tmp_path, capsys):
    videos = make_toy_videos(tmp_path / "videos")
    source = find_source(str(videos), {}, tmp_path)
    closed = sorted(videos.glob("*/*.avi"))[1]
    name = closed.relative_to(videos).as_posix()
    closed.chmod(0)

    with as_plain_user():
        rows = preprocess(source, Settings(SIZE))
        assert f"  {name}: you may not read it" in capsys.readouterr().out
        assert [row.video for row in rows if row.status == "refused"] == [name]
        assert audit_source(source).facts[name].unreadable == "permission denied"
        ensure_frames(source, SIZE)
        assert not capsys.readouterr().out  # nothing has changed: nothing to say

        closed.chmod(0o600)
        assert not audit_source(source).facts[name].unreadable
        ensure_frames(source, SIZE)
    assert "tried again: 1 video" in capsys.readouterr().out
    assert {row.status for row in read_manifest(source.frames_for(SIZE))} == {"ok"}


def test_a_data_set_of_which_nothing_may_be_read_is_refused(tmp_path):
    videos = make_toy_videos(tmp_path / "videos")
    for video in videos.glob("*/*.avi"):
        video.chmod(0)
    with as_plain_user(), pytest.raises(UserError, match="None of the .* can be used"):
        preprocess(find_source(str(videos), {}, tmp_path), Settings(SIZE))
