"""A data set as its owner has it: a folder of class folders with videos in them, and where its frames go."""

import re
from dataclasses import dataclass, replace
from pathlib import Path

from dataloaders import manifest
from dataloaders.video import is_video_name
from engine.errors import UsageError, UserError, unknown_name

DEFAULT_SIZE = (171, 128)  # width, height: what C3D, R3D and R(2+1)D were trained on
LAYOUTS = ("ucf101", "hmdb51", "folder")
PARTS = {"train": "train", "training": "train", "val": "val", "valid": "val", "validation": "val", "test": "test"}

UCF101_NAME = re.compile(r"v_.+_g(\d\d)_c\d\d")


@dataclass(frozen=True)
class DataSource:
    """One data set.

    layout   ucf101: files are named v_<Class>_gNN_cNN; hmdb51: official list files decide; folder: anything else
    videos   <videos>/<class>/<video>, or <videos>/<train|val|test>/<class>/<video>
    frames   where its frames lie at 171x128; other sizes go beside it, with the size in the name
    splits   folder of the official list files, or None
    flip     whether a mirrored video still shows the same action; None: not known
    groups   regular expression on the file name without ending; videos whose match (first bracket, if any) is equal
             were cut from one recording and stay together in every split. None: each video is its own group
    """

    name: str
    videos: Path
    frames: Path
    layout: str = "folder"
    splits: Path | None = None
    flip: bool | None = None
    groups: str | None = None
    frames_given: bool = False  # by --frames: that very folder, whatever the size

    def frames_for(self, size: tuple[int, int]) -> Path:
        """The frames folder for another stored size (width, height)."""
        if size == DEFAULT_SIZE or self.frames_given:
            return self.frames
        return self.frames.with_name(f"{self.frames.name}-{size[0]}x{size[1]}")


@dataclass(frozen=True)
class SourceVideo:
    """A file among the videos: its path relative to the videos folder, class, group, and the part its folder gives."""

    video: str
    label: str
    group: str
    given: str

    @property
    def stem(self) -> str:
        return Path(self.video).stem


def find_source(name: str, datasets: dict[str, dict], root: Path, frames: str | None = None) -> DataSource:
    """A name from mypath.py, or a folder of class folders. Relative paths in mypath.py count from its own folder.

    frames: where its frames lie instead (--frames). Where they are there, the folder of the videos need not be.
    """
    if name in datasets:
        return with_frames(_from_mypath(name, datasets[name], root), frames)

    folder = Path(name).expanduser().resolve()
    source = DataSource(name=folder.name, videos=folder, frames=folder.with_name(f"{folder.name}-frames"))
    source = with_frames(source, frames)
    if folder.is_dir():
        _refuse_flat_folder(folder)
        return replace(source, layout=detect_layout(folder))
    extracted = [source.frames] if frames else sorted(folder.parent.glob(f"{folder.name}-frames*"))
    extracted = [path for path in extracted if path.is_dir()]
    if extracted:
        return replace(source, layout=_layout_of(_extracted_names(extracted[0])))
    if "/" in name or "\\" in name or name.startswith("."):
        raise UserError(f"There is no folder '{name}'. --dataset takes a folder of class folders with videos in them.")
    raise UsageError(
        unknown_name("data set", name, sorted(datasets)) + " A folder of class folders works too: --dataset my/videos"
    )


def _from_mypath(name: str, entry: dict, root: Path) -> DataSource:
    unknown = set(entry) - {"layout", "videos", "frames", "splits", "flip", "groups"}
    if unknown:
        raise UserError(
            f"mypath.py: '{name}' has the key '{sorted(unknown)[0]}'. "
            "Known keys: layout, videos, frames, splits, flip, groups."
        )
    if "videos" not in entry:
        raise UserError(f"mypath.py: '{name}' has no key 'videos'. Say there where its videos lie.")
    videos = _path(entry["videos"], root)
    layout = entry.get("layout", "folder")
    if layout not in LAYOUTS:
        raise UserError(f"mypath.py: '{name}' has the layout '{layout}'. Known layouts: {', '.join(LAYOUTS)}.")
    groups = entry.get("groups")
    if groups is not None:
        try:
            re.compile(groups)
        except re.error as error:
            raise UserError(f"mypath.py: groups={groups!r} of '{name}' is no regular expression: {error}.") from error
    return DataSource(
        name=name,
        videos=videos,
        frames=_path(entry["frames"], root) if "frames" in entry else videos.with_name(f"{videos.name}-frames"),
        layout=layout,
        splits=_path(entry["splits"], root) if entry.get("splits") else None,
        flip=entry.get("flip"),
        groups=groups,
    )


def _path(value: str | Path, root: Path) -> Path:
    return root / Path(value).expanduser()


def _refuse_flat_folder(folder: Path) -> None:
    if not _subfolders(folder):
        raise UserError(
            f"{folder} has no folders in it. A data set is a folder of class folders: {folder.name}/<class>/<video>."
        )


def detect_layout(videos: Path) -> str:
    """ucf101 where videos are named v_<Class>_gNN_cNN, else folder. A few that are not so named do not change it: taken
    as folder, the whole set would be divided without regard to its groups. find_videos then says which they are."""
    return _layout_of([path.stem for _, folder in _given_class_folders(videos) for path in _video_files(folder)])


def _extracted_names(frames: Path) -> list[str]:
    if (frames / manifest.NAME).is_file():
        return [Path(row.video).stem for row in manifest.read_manifest(frames)]
    return [video.name for _, folder in _given_class_folders(frames) for video in _subfolders(folder)]


def _layout_of(names: list[str]) -> str:
    return "ucf101" if 2 * sum(bool(UCF101_NAME.fullmatch(name)) for name in names) > len(names) else "folder"


def find_videos(source: DataSource) -> list[SourceVideo]:
    """Every file that may be a video, sorted by path. Raises UserError for a missing folder and for an empty class."""
    if not source.videos.is_dir():
        raise UserError(_missing_videos(source))

    found = []
    for given, folder in _given_class_folders(source.videos):
        files = _video_files(folder)
        if not files:
            raise UserError(
                f"The class folder {folder} has no videos in it (hidden files do not count). Put its videos there, or "
                "remove the folder."
            )
        for path in files:
            group = group_of(source, folder.name, path.stem)
            found.append(SourceVideo(path.relative_to(source.videos).as_posix(), folder.name, group, given))
    if not found:
        raise UserError(f"{source.videos} has no class folders. It should look like {source.videos}/<class>/<video>.")
    _refuse_doubled_parts(found)
    _check_groups(source, found)
    return found


def _check_groups(source: DataSource, videos: list[SourceVideo]) -> None:
    """A pattern that matches nothing would put one recording into training and test without a word."""
    if source.groups is None:
        return
    missed = [video.video for video in videos if not re.search(source.groups, Path(video.video).stem)]
    if len(missed) == len(videos):
        raise UserError(
            f"mypath.py: groups={source.groups!r} of '{source.name}' matches none of the {len(videos)} names "
            f"(first: {Path(missed[0]).stem}). Correct it, or leave it out."
        )
    if missed:
        print(f"Note: groups={source.groups!r} does not match {len(missed)} names (first: {missed[0]}).")


def _video_files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if is_video_name(path) and not path.is_dir())


def _missing_videos(source: DataSource) -> str:
    if source.videos.as_posix().startswith("/path/to/"):
        return (
            f"mypath.py is not edited yet: it says that the videos of '{source.name}' lie in {source.videos}. "
            "Put their real folder there, or try the generated data set: --dataset demo"
        )
    return (
        f"There is no folder {source.videos}, where the videos of '{source.name}' should lie. "
        "Correct it in mypath.py, or put the videos there."
    )


def _given_class_folders(videos: Path) -> list[tuple[str, Path]]:
    """(given part or "", class folder), by name without regard to case."""
    folders = _subfolders(videos)
    if folders and all(folder.name.lower() in PARTS for folder in folders) and "train" in _parts(folders):
        return [(PARTS[part.name.lower()], folder) for part in folders for folder in _subfolders(part)]
    return [("", folder) for folder in folders]


def class_folders(videos: Path) -> list[Path]:
    """The folders that hold videos, one a class (and part, where the videos are divided already)."""
    return [folder for _, folder in _given_class_folders(videos)]


def _parts(folders: list[Path]) -> set[str]:
    return {PARTS[folder.name.lower()] for folder in folders}


def _subfolders(folder: Path) -> list[Path]:
    found = [path for path in folder.iterdir() if path.is_dir() and not path.name.startswith(".")]
    return sorted(found, key=lambda path: (path.name.lower(), path.name))


def _refuse_doubled_parts(videos: list[SourceVideo]) -> None:
    """`val/` and `validation/` in one folder would both extract to val/<class>/<video>."""
    parts: dict[tuple[str, str], str] = {}
    for video in videos:
        if video.given:
            first = parts.setdefault((video.given, video.label), video.video.split("/")[0])
            if first != video.video.split("/")[0]:
                raise UserError(f"Both {first}/ and {video.video.split('/')[0]}/ are there. Keep one of them.")


def group_of(source: DataSource, label: str, stem: str) -> str:
    """What recording a video was cut from. Qualified by class in UCF101 and HMDB51, where group 1 of two classes are
    two recordings; global elsewhere (the subject who performs all actions stays in one part)."""
    if source.groups is not None:
        match = re.search(source.groups, stem)
        if match:
            return next((part for part in match.groups() if part is not None), match.group(0))
        return f"{label}/{stem}"
    if source.layout == "ucf101":
        match = UCF101_NAME.fullmatch(stem)
        if match is None:
            raise UserError(
                f"'{stem}' in class {label} is not named as UCF101 names its videos: v_<Class>_gNN_cNN. Take it out, "
                "or give the data set an entry with layout 'folder' in mypath.py."
            )
        return f"{label}/g{match.group(1)}"
    if source.layout == "hmdb51":
        return f"{label}/{stem.rsplit(f'_{label}_', 1)[0]}"  # a title may have the word too: How_to_pour_..._pour_u_nm
    return f"{label}/{stem}"


def class_names(source: DataSource, labels: set[str]) -> list[str]:
    """Classes in the data set's own order: classInd.txt's where it lies with the lists, else alphabetical by letter,
    not by character code (HammerThrow after Hammering, as in classInd.txt)."""
    if source.splits is not None and (source.splits / "classInd.txt").is_file():
        official = [line.split()[1] for line in read_lines(source.splits / "classInd.txt")]
        if labels <= set(official):
            return [name for name in official if name in labels]
    return sorted(labels, key=lambda name: (name.lower(), name))


def read_lines(path: Path) -> list[str]:
    """Lines without their ends (CRLF too), empty ones left out."""
    return [line.strip() for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def with_frames(source: DataSource, frames: str | None) -> DataSource:
    """The same data set with its frames elsewhere (--frames)."""
    return replace(source, frames=Path(frames).expanduser().resolve(), frames_given=True) if frames else source
