"""UCF101. Soomro, Zamir, Shah: "UCF101: A Dataset of 101 Human Actions Classes From Videos in The Wild", 2012.

Videos are named v_<Class>_gNN_cNN.avi: gNN is the recording. Each official split tests on seven groups, which the list
files spell out; without them the groups decide.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import read_lines
from dataloaders.sources.layout import Archive, Download, Layout, Source, Video, register_layout, split_by_lists

NAME = re.compile(r"v_.+_g(\d\d)_c\d\d")
TEST_GROUPS = {"1": range(1, 8), "2": range(8, 15), "3": range(15, 22)}
VAL_GROUPS = range(23, 26)  # no official split tests on them
CRCV = "https://www.crcv.ucf.edu"


@register_layout
class Ucf101(Layout):
    name = "ucf101"
    splits = tuple(TEST_GROUPS)
    list_files = "trainlist0*.txt"
    list_folders = ("ucfTrainTestlist", "UCF101TrainTestSplits-RecognitionTask")
    names_hold_group = True
    same_groups = True
    duplicates_note = (
        " (UCF101 itself has some: with its lists as 'splits' in mypath.py they are reported and are no error)"
    )
    # checksums: those of torchvision's prototype data sets
    download = Download(
        page=f"{CRCV}/data/UCF101.php",
        videos=Archive(
            "UCF101.rar",
            "UCF-101",
            (f"{CRCV}/data/UCF101/UCF101.rar", f"{CRCV}/datasets/human-actions/ucf101/UCF101.rar"),
            "ca8dfadb4c891cb11316f94d52b6b0ac2a11994e67a0cae227180cd160bd8e55",
            6_932_971_618,
        ),
        lists=Archive(
            "UCF101TrainTestSplits-RecognitionTask.zip",
            "ucfTrainTestlist",
            (
                f"{CRCV}/data/UCF101/UCF101TrainTestSplits-RecognitionTask.zip",
                f"{CRCV}/wp-content/uploads/2019/03/UCF101TrainTestSplits-RecognitionTask.zip",
            ),
            "5c0d1a53b8ed364a2ac830a73f405e51bece7d98ce1254fd19ed4a36b224bd27",
            114_000,
        ),
        num_videos=13_320,
        num_classes=101,
        num_lists=3,
        unpacked=7_300_000_000,
    )

    def matches(self, stem: str) -> bool:
        return NAME.fullmatch(stem) is not None

    def group(self, label: str, stem: str) -> str:
        """Qualified by class: group 1 of two classes are two recordings."""
        match = NAME.fullmatch(stem)
        if match is None:
            raise UserError(
                f"'{stem}' in class {label} is not named as UCF101 names its videos: v_<Class>_gNN_cNN. Take it out, "
                "or give the data set an entry with layout 'folder' in mypath.py."
            )
        return f"{label}/g{match.group(1)}"

    def official_split(self, source: Source, videos: Sequence[Video], split: str) -> tuple[dict[str, str], list[str]]:
        if source.splits is not None:
            return split_by_lists(source, videos, partial(read_ucf101_lists, split=split))
        return {v.video: "test" if self.group_number(v) in TEST_GROUPS[split] else "train" for v in videos}, []

    def validates(self, video: Video) -> bool:
        return self.group_number(video) in VAL_GROUPS

    def group_number(self, video: Video) -> int:
        """NN of gNN in the name; mypath.py may give the video another group."""
        return int(self.group(video.label, video.stem).rpartition("g")[2])


def read_ucf101_lists(folder: Path, split: str) -> dict[str, str]:
    """{"<class>/<stem>": "train" | "test"} from trainlist0<split>.txt (`class/video.avi id`) and testlist0<split>.txt
    (`class/video.avi`). The ids, which count from 1, are not needed: the class is the folder."""
    listed = {}
    for part in ("train", "test"):
        path = folder / f"{part}list0{split}.txt"
        if not path.is_file():
            raise UserError(
                f"There is no list {path}. mypath.py's 'splits' should be the folder ucfTrainTestlist of UCF101's "
                "official download; with splits=None the rule that the lists follow is used."
            )
        for line in filter(str.strip, read_lines(path)):
            label, _, name = line.split()[0].partition("/")
            if not name or "/" in name:
                raise UserError(
                    f"{path}: '{line}' is not a line of UCF101's lists, such as Biking/v_Biking_g01_c01.avi."
                )
            listed[f"{label}/{Path(name).stem}"] = part
    return listed
