"""Fixtures for the tests of frame extraction."""

import pytest

from dataloaders.sources.data_source import DataSource
from tests.helpers.preprocess import make_source
from tests.helpers.toy import write_naming_video


@pytest.fixture
def two_videos(tmp_path) -> DataSource:
    write_naming_video(tmp_path / "videos" / "run" / "a.avi", 6)
    write_naming_video(tmp_path / "videos" / "walk" / "b.avi", 8, label=1)
    return make_source(tmp_path / "videos")
