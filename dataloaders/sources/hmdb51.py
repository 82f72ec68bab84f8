"""HMDB51. Kuehne et al.: "HMDB: A Large Video Database for Human Motion Recognition", ICCV 2011.

Videos are named <film>_<class>_<tags>_<number>.avi. The official splits are in list files, one per class and split.
"""

import re
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from common.errors import UserError
from common.files import read_lines
from dataloaders.sources.layout import (
    SPLIT_NUMBERS,
    Archive,
    Download,
    Layout,
    Source,
    Video,
    register_layout,
    split_by_lists,
)

NAME = re.compile(r".+_[fhlu]_(?:cm|nm)_np\d_(?:ba|fr|le|ri)_(?:bad|goo|med)_\d+")
PARTS = {"0": "unused", "1": "train", "2": "test"}  # numbers of the list files
# Brown's own server has lost the files of 2013; the Serre lab keeps them on Hugging Face now.
SERRE = "https://huggingface.co/datasets/Serrelab/hmdb51/resolve/main"
BROWN = "https://serre-lab.clps.brown.edu/wp-content/uploads/2013/10"


@register_layout
class Hmdb51(Layout):
    name = "hmdb51"
    splits = SPLIT_NUMBERS
    list_files = "*_test_split1.txt"
    list_folders = ("testTrainMulti_7030_splits", "test_train_splits")
    needs_lists = True
    same_groups = True
    # checksums: those of torchvision's prototype data sets
    download = Download(
        page="https://serre.lab.brown.edu/hmdb51.html",
        videos=Archive(
            "hmdb51_org.rar",
            "hmdb51",
            (f"{SERRE}/hmdb51_org.rar", f"{BROWN}/hmdb51_org.rar"),
            "9e714a0d8b76104d76e932764a7ca636f929fff66279cda3f2e326fa912a328e",
            2_130_000_000,
        ),
        lists=Archive(
            "test_train_splits.rar",
            "testTrainMulti_7030_splits",
            (f"{SERRE}/test_train_splits.rar", f"{BROWN}/test_train_splits.rar"),
            "229c94f845720d01eb3946d39f39292ea962d50a18136484aa47c1eba251d2b7",
            200_000,
        ),
        num_videos=6_766,
        num_classes=51,
        num_lists=51,
        unpacked=2 * 2_200_000_000,  # the 51 archives in the archive, and what is in them
    )

    def matches(self, stem: str) -> bool:
        return NAME.fullmatch(stem) is not None

    def group(self, label: str, stem: str) -> str:
        """The film: the name before the last _<class>_; a title may hold the word too (How_to_pour_..._pour_u)."""
        return f"{label}/{stem.rsplit(f'_{label}_', 1)[0]}"

    def official_split(self, source: Source, videos: Sequence[Video], split: str) -> tuple[dict[str, str], list[str]]:
        if source.splits is None:
            raise UserError(
                f"The splits of HMDB51 need its list files, which are not in {source.videos}, beside it or beside "
                f"{source.frames}. Download and unpack test_train_splits.rar (python -m dataloaders.download hmdb51 "
                "--lists-only does both), or set 'splits' in mypath.py to its folder; without lists: --split random, "
                "which keeps films whole."
            )
        return split_by_lists(source, videos, partial(read_hmdb51_lists, split=split))

    def unpack_commands(self, archive: str) -> str | None:
        """hmdb51_org.rar holds 51 archives, one per class."""
        if archive != self.download.videos.name:
            return None
        inner = f'unrar x ../{archive} && for f in *.rar; do unrar x "$f" && rm "$f"; done'
        return f"mkdir -p hmdb51 && cd hmdb51 && {inner}; cd .."


def read_hmdb51_lists(folder: Path, split: str) -> dict[str, str]:
    """{"<class>/<stem>": "train" | "test" | "unused"} from <class>_test_split<split>.txt (`video.avi 1`, 2 or 0)."""
    ending = f"_test_split{split}.txt"
    paths = sorted(folder.glob(f"*{ending}")) if folder.is_dir() else []
    if not paths:
        raise UserError(
            f"There are no lists *{ending} in {folder}. Fetch test_train_splits.rar from the HMDB51 page, unpack it, "
            "and name the folder testTrainMulti_7030_splits in mypath.py's 'splits'."
        )
    listed = {}
    for path in paths:
        label = path.name.removesuffix(ending)
        for line in filter(str.strip, read_lines(path)):
            words = line.rsplit(maxsplit=1)
            if len(words) != 2 or words[1] not in PARTS:
                raise UserError(f"{path}: '{line}' is not a line of HMDB51's lists: a name, and 0, 1 or 2.")
            listed[f"{label}/{Path(words[0]).stem}"] = PARTS[words[1]]
    return listed
