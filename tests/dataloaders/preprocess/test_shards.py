import shutil
from pathlib import Path

import pytest

from common.errors import UserError
from common.input_spec import InputSpec
from dataloaders.frame_set import open_frames
from dataloaders.frames.manifest import NAME, names, read_manifest, replace_all
from dataloaders.frames.settings import Settings
from dataloaders.preprocess import locks
from dataloaders.preprocess.__main__ import main
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.preprocess.locks import only_one_run, whole_folder
from dataloaders.preprocess.run import preprocess
from dataloaders.preprocess.shards import Shard, read_shard
from dataloaders.sources.data_source import DataSource
from tests.helpers.preprocess import contents, start_cli
from tests.helpers.toy import TOY_SIZE, write_naming_video

SMALL = Settings(TOY_SIZE)
SPEC = InputSpec(clip_len=4, resize=TOY_SIZE, crop_size=56)


def source_into(toy_source: DataSource, frames: Path) -> DataSource:
    return DataSource("toy", toy_source.videos, frames, layout="ucf101", frames_given=True)


@pytest.mark.parametrize(
    ("total", "order"), [(1, [1]), (3, [3, 1, 2]), pytest.param(8, [2, 1, 3, 4, 5, 8, 7, 6], marks=pytest.mark.slow)]
)
def test_any_number_of_shards_makes_the_tree_of_none(toy_source, toy_frames, tmp_path, capsys, total, order):
    source = source_into(toy_source, tmp_path / "frames")
    for done, number in enumerate(order, 1):
        rows = preprocess(source, SMALL, workers=1, shard=Shard(number, total))
        assert all(Shard(number, total).takes(row.video) for row in rows)
        assert names(source.frames) == (
            [NAME] if done == total else sorted(f"manifest.{n}-of-{total}.csv" for n in order[:done])
        )
        if done == total - 1:
            assert f"Missing: shard {order[-1]} of {total}. The last shard to end" in capsys.readouterr().out

    assert f"Merged {total} shard{'s' if total > 1 else ''}: 24 videos in " in capsys.readouterr().out
    assert contents(source.frames) == contents(toy_frames)


def test_shards_divide_the_videos_and_the_place_of_a_video_never_changes():
    videos = [f"Biking/v_Biking_g{group:02d}_c{clip:02d}.avi" for group in range(1, 26) for clip in range(1, 8)]
    shares = [sum(Shard(number, 8).takes(video) for video in videos) for number in range(1, 9)]

    assert sum(shares) == len(videos) and min(shares) > 0
    assert [n for n in range(1, 9) if Shard(n, 8).takes("Biking/v_Biking_g01_c01.avi")] == [1]


@pytest.mark.slow
def test_shards_at_the_same_time_make_the_tree_of_none(toy_videos, toy_frames, tmp_path):
    args = ("--dataset", toy_videos, "--size", "80x60", "--workers", "1", "--frames", tmp_path / "frames")
    processes = [start_cli(*args, "--shard", f"{number}/3") for number in (1, 2, 3)]
    results = [(*process.communicate(timeout=120), process.returncode) for process in processes]

    assert [status for _, _, status in results] == [0, 0, 0], results
    assert sum("Merged 3 shards: 24 videos" in output for output, _, _ in results) == 1
    assert contents(tmp_path / "frames") == contents(toy_frames)


def test_training_finds_shards_that_nobody_merged_and_says_which_are_missing(toy_source, toy_frames, tmp_path, capsys):
    """As where each machine had a disk of its own, and the trees were copied together."""
    for number in (1, 2, 3):
        alone = source_into(toy_source, tmp_path / f"machine{number}")
        preprocess(alone, SMALL, workers=1, shard=Shard(number, 3))
    source = source_into(toy_source, tmp_path / "frames")
    for number in (1, 3):
        shutil.copytree(tmp_path / f"machine{number}", source.frames, dirs_exist_ok=True)

    with pytest.raises(UserError, match=r"is extracted in shards, and shard 2 of 3 is missing"):
        ensure_frames(source, TOY_SIZE)
    with pytest.raises(UserError, match="was interrupted"):
        open_frames(source, SPEC)
    shutil.copytree(tmp_path / "machine2", source.frames, dirs_exist_ok=True)
    ensure_frames(source, TOY_SIZE)

    assert "Nothing to do: 24 videos" in capsys.readouterr().out
    assert contents(source.frames) == contents(toy_frames)
    assert len(open_frames(source, SPEC).rows) == 24


def test_without_shard_the_rest_is_done_and_nothing_twice(toy_source, toy_frames, tmp_path, capsys):
    source = source_into(toy_source, tmp_path / "frames")
    rows = preprocess(source, SMALL, shard=Shard(2, 3))
    capsys.readouterr()

    preprocess(source, SMALL)

    assert f"Extracted {24 - len(rows)} videos" in capsys.readouterr().out
    assert contents(source.frames) == contents(toy_frames)


def test_shards_of_another_division_are_refused(toy_source, tmp_path):
    source = source_into(toy_source, tmp_path / "frames")
    preprocess(source, SMALL, shard=Shard(2, 8))

    with pytest.raises(UserError, match="is extracted in 8 shards, not as 1/3"):
        preprocess(source, SMALL, shard=Shard(1, 3))


@pytest.mark.slow
def test_a_video_added_later_comes_by_shards_too(toy_source, toy_frames, tmp_path):
    videos = tmp_path / "videos"
    shutil.copytree(toy_source.videos, videos)
    source = DataSource("toy", videos, tmp_path / "frames", layout="ucf101", frames_given=True)
    for number in (1, 2):
        preprocess(source, SMALL, shard=Shard(number, 2))
    before = contents(source.frames)
    write_naming_video(videos / "Biking" / "v_Biking_g09_c07.avi", 5)

    for number in (1, 2):
        preprocess(source, SMALL, shard=Shard(number, 2))

    assert len(read_manifest(source.frames)) == 25
    after = contents(source.frames)
    assert {name: content for name, content in after.items() if name in before and name != NAME} == {
        name: content for name, content in before.items() if name != NAME
    }


def test_a_shard_and_a_whole_run_keep_out_of_each_others_way(two_videos_frames, monkeypatch):
    monkeypatch.setattr(locks, "PATIENCE", 0.1)
    with only_one_run(two_videos_frames, Shard(1, 3)):
        with pytest.raises(UserError, match="process .* is writing into"), only_one_run(two_videos_frames):
            pass
        with pytest.raises(UserError, match="process .* is writing"), only_one_run(two_videos_frames, Shard(1, 3)):
            pass
        with only_one_run(two_videos_frames, Shard(2, 3)), whole_folder(two_videos_frames):
            pass
    refused = pytest.raises(UserError, match="is writing")
    with only_one_run(two_videos_frames), refused, only_one_run(two_videos_frames, Shard(1, 3)):
        pass


@pytest.fixture
def two_videos_frames(tmp_path) -> Path:
    (tmp_path / "frames").mkdir()
    return tmp_path / "frames"


def test_a_merge_that_was_killed_is_gone_on_with(toy_source, toy_frames, tmp_path, monkeypatch):
    source = source_into(toy_source, tmp_path / "frames")
    preprocess(source, SMALL, shard=Shard(1, 2))
    left = (source.frames / "manifest.1-of-2.csv").read_bytes()
    preprocess(source, SMALL, shard=Shard(2, 2))
    (source.frames / "manifest.1-of-2.csv").write_bytes(left)  # of the two, one was deleted when the power went
    (source.frames / ".manifest-merged").touch()

    assert len(open_frames(source, SPEC).rows) == 24
    preprocess(source, SMALL)
    assert contents(source.frames) == contents(toy_frames)
    assert not (source.frames / ".manifest-merged").exists()
    replace_all(source.frames, read_manifest(source.frames))
    assert names(source.frames) == [NAME]


@pytest.mark.parametrize("text", ["0/8", "9/8", "3", "3/", "a/b", "-1/8", "1/0"])
def test_a_shard_that_is_none_is_bad_usage(text, capsys):
    with pytest.raises(SystemExit) as exit_:
        main(["--shard", text])
    assert exit_.value.code == 2
    assert "write 3/8" in capsys.readouterr().err or text == "-1/8"


def test_a_shard_is_read_as_it_is_written():
    assert str(read_shard("3/8")) == "3/8"
