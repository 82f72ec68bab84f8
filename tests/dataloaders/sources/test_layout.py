"""A data set of one's own with official splits: one registered class, as docs/data.md shows it."""

import re

import pytest

from common.errors import UsageError
from common.files import ROOT
from dataloaders import open_dataset
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import detect_layout, find_source, find_videos
from dataloaders.sources.layout import LAYOUTS, layouts
from dataloaders.sources.recordings import groups_of
from dataloaders.sources.splits import split_videos
from network import InputSpec
from tests.helpers.toy import write_naming_video


@pytest.fixture
def diving(monkeypatch):
    """The layout of docs/data.md, registered for one test."""
    [code] = re.findall(
        r"```python\n(.*?@register_layout.*?)```", (ROOT / "docs/data.md").read_text("utf-8"), re.DOTALL
    )
    layouts()
    monkeypatch.setattr("dataloaders.sources.layout.LAYOUTS", dict(LAYOUTS))
    exec(compile(code, "docs/data.md", "exec"), {"__name__": "dataloaders.sources.diving"})


def test_a_registered_layout_is_recognised_grouped_split_preprocessed_and_opened(diving, tmp_path):
    videos = tmp_path / "diving"
    for label in ("pike", "tuck"):
        for meet in ("london", "rome", "tokyo"):
            for number in (1, 2):
                path = videos / label / f"{meet}_dive{number}.avi"
                path.parent.mkdir(parents=True, exist_ok=True)
                write_naming_video(path, 20, 0)
    assert detect_layout(videos) == "diving"

    source = find_source(str(videos), {}, ROOT)
    assert source.layout == "diving"
    assert {video.group for video in find_videos(source)} == {"london", "rome", "tokyo"}
    spec = InputSpec(clip_len=4, resize=(80, 60), crop_size=32)
    frame_set = open_dataset(str(videos), spec, datasets={})
    assert frame_set.split.name == "1"
    tested = {row.video for row in frame_set.part("test")}
    assert tested == {f"{label}/rome_dive{number}.avi" for label in ("pike", "tuck") for number in (1, 2)}
    with pytest.raises(UsageError, match="--split 2 is an official split"):
        split_videos(source, find_videos(source), "2")


def test_every_layout_is_found_without_a_list_of_them():
    assert set(layouts()) == {"folder", "ucf101", "hmdb51"}
    for name, kind in layouts().items():
        assert kind.name == name
        assert not kind.splits or kind.list_files or not kind.needs_lists


def test_a_folder_without_a_layout_has_a_group_for_each_video(tmp_path):
    source = DataSource("own", tmp_path, tmp_path / "frames")
    assert groups_of(source, [("run", "a_01")])[0] == "run/a_01"
