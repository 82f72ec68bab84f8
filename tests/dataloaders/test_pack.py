"""Packs: the same JPEGs in a few tar files, and clips that are the same to the last bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from common.errors import UserError
from common.files import ROOT
from common.input_spec import InputSpec
from dataloaders import pack as module
from dataloaders.dataset import EvalDataset, TrainDataset
from dataloaders.frame_set import FrameSet, open_frames
from dataloaders.frames import manifest, store
from dataloaders.frames.pack_volumes import MOST_VOLUMES, plan_volumes
from dataloaders.frames.settings import Settings
from dataloaders.frames.store import INDEX_DTYPE
from dataloaders.loader import ClipLoader
from dataloaders.pack import main, pack, verify
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource
from dataloaders.sources.find import with_frames
from tests.helpers.toy import TOY_SIZE, frames_of

SPEC = InputSpec(clip_len=8, frame_stride=2, resize=TOY_SIZE, crop_size=48)
SMALL = 0.00015  # gigabytes a file: the toy frames take several


@pytest.fixture(scope="session")
def toy_pack(toy_frames, tmp_path_factory) -> Path:
    output = tmp_path_factory.mktemp("pack") / "packed"
    pack(toy_frames, output, SMALL)
    return output


@pytest.fixture
def own_pack(toy_pack, tmp_path) -> Path:
    return shutil.copytree(toy_pack, tmp_path / "packed")


def opened(source: DataSource, frames: Path) -> FrameSet:
    return open_frames(with_frames(source, str(frames)), SPEC)


def samples(dataset, workers: int = 2, epochs: int = 2) -> list[np.ndarray]:
    return [
        part.numpy()
        for epoch in range(epochs)
        for batch in ClipLoader(dataset, 5, workers).batches(epoch)
        for part in batch
    ]


def assert_same_samples(left, right) -> None:
    pairs = list(zip(samples(left), samples(right), strict=True))
    assert pairs and all(np.array_equal(*pair) for pair in pairs)


def jpegs(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*.jpg")}


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if not path.name.startswith(".")}


@pytest.mark.parametrize("flip", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_clips_of_a_pack_are_those_of_the_folders_to_the_last_bit(toy_source, toy_frames, toy_pack, flip):
    folders, packed = opened(toy_source, toy_frames), opened(toy_source, toy_pack)

    assert (packed.rows, packed.classes, packed.split) == (folders.rows, folders.classes, folders.split)
    assert_same_samples(TrainDataset(folders, SPEC, flip), TrainDataset(packed, SPEC, flip))
    for order in ("normal", "shuffled", "frozen"):
        evaluations = [EvalDataset(each, SPEC, "test", num_clips=3, crops=3, order=order) for each in (folders, packed)]
        assert_same_samples(*evaluations)


def test_a_pack_is_tar_files_from_which_tar_takes_the_same_jpegs(toy_frames, toy_pack, tmp_path):
    volumes = sorted(toy_pack.glob("*.tar"))
    listed = [
        subprocess.run(["tar", "tf", path], capture_output=True, text=True, check=True).stdout for path in volumes
    ]
    for path in volumes:
        subprocess.run(["tar", "xf", path, "-C", tmp_path], check=True)

    assert len(volumes) > 2
    rows = manifest.read_manifest(toy_frames)
    assert "".join(listed).split() == [f"{row.folder}/{row.frame_name(i)}" for row in rows for i in range(20)]
    assert jpegs(tmp_path) == jpegs(toy_frames)
    assert (toy_pack / manifest.NAME).read_bytes() == (toy_frames / manifest.NAME).read_bytes()


def test_a_pack_can_be_unpacked_and_trained_on_as_folders(toy_source, toy_frames, toy_pack, tmp_path):
    for path in toy_pack.glob("*.tar"):
        with tarfile.open(path) as file:
            file.extractall(tmp_path, filter="data")
    shutil.copy(toy_pack / manifest.NAME, tmp_path)

    left, right = opened(toy_source, tmp_path), opened(toy_source, toy_frames)
    assert_same_samples(TrainDataset(left, SPEC), TrainDataset(right, SPEC))


def test_frames_made_elsewhere_pack_under_their_own_names(tmp_path):
    """Names that are long or no UTF-8, which tar has extensions for, numbers without zeros, and PNG."""
    import cv2

    from tests.helpers.toy import frame_naming

    names = ["take one", "x" * 120, "\udce9t\udce9"]
    for name in names:
        folder = tmp_path / "frames" / "run" / name
        folder.mkdir(parents=True)
        ending = ".png" if name == "take one" else ".jpg"
        for index in range(11):
            _, content = cv2.imencode(ending, frame_naming(index, size=(100, 75))[..., ::-1])
            (folder / f"img_{index + 1}{ending}").write_bytes(content.tobytes())
    pack(tmp_path / "frames", tmp_path / "packed")

    source = DataSource("mine", tmp_path / "videos", tmp_path / "packed", frames_given=True)
    frame_set = open_frames(source, SPEC, "random", val="none")
    folders = open_frames(with_frames(source, str(tmp_path / "frames")), SPEC, "random", val="none")
    assert {Path(row.folder).name for row in frame_set.rows} == set(names)
    assert_same_samples(TrainDataset(frame_set, SPEC), TrainDataset(folders, SPEC))
    out = np.empty((1, 8, 48, 48, 3), np.uint8)
    EvalDataset(frame_set, SPEC, "train", num_clips=1).load(0, 0, out)
    assert frames_of(out[0]) == [k % 11 for k in range(0, 16, 2)]
    verify(tmp_path / "packed")


def test_a_clip_of_neighbouring_frames_is_one_read(toy_source, toy_pack, monkeypatch):
    dataset = TrainDataset(opened(toy_source, toy_pack), SPEC)
    read = []
    inside = store.PackedFrames._pread
    monkeypatch.setattr(store.PackedFrames, "_pread", lambda *args: read.append(args) or inside(*args))

    dataset.load(0, 0, np.empty(dataset.clip_shape, np.uint8))

    assert len(read) == 1


def test_frames_far_apart_are_read_apart(toy_source, toy_frames, toy_pack, monkeypatch):
    monkeypatch.setattr(store, "GAP", -1)
    left, right = opened(toy_source, toy_pack), opened(toy_source, toy_frames)
    assert_same_samples(TrainDataset(left, SPEC), TrainDataset(right, SPEC))


def test_a_pack_travels_to_another_process(toy_source, toy_pack):
    import pickle

    dataset = TrainDataset(opened(toy_source, toy_pack), SPEC)
    samples(dataset, 0, 1)
    written = pickle.dumps(dataset)

    assert b"frames-0000" in written and len(written) < 100_000  # neither open files nor the index
    assert_same_samples(pickle.loads(written), dataset)


def test_the_same_frames_give_the_same_pack(toy_frames, toy_pack, tmp_path):
    again = shutil.copytree(toy_frames, tmp_path / "frames", copy_function=shutil.copyfile)  # other dates
    pack(again, tmp_path / "packed", SMALL)

    assert contents(tmp_path / "packed") == contents(toy_pack)


def test_packing_again_does_nothing_and_another_data_set_does_not_go_in(toy_frames, own_pack, tmp_path, capsys):
    before = contents(own_pack)
    pack(toy_frames, own_pack, SMALL)
    assert "Nothing to do" in capsys.readouterr().out

    rows = manifest.read_manifest(toy_frames)
    shutil.copytree(toy_frames, tmp_path / "frames")
    manifest.write_manifest(tmp_path / "frames", rows[:5])
    with pytest.raises(UserError, match="holds a pack of other frames"):
        pack(tmp_path / "frames", own_pack)
    assert contents(own_pack) == before


def test_a_killed_packing_goes_on_to_the_same_pack(toy_source, toy_frames, toy_pack, tmp_path, capsys):
    output = tmp_path / "packed"
    code = "import sys, time; from dataloaders import pack; inside = pack.write_volume\n"
    code += "pack.write_volume = lambda *args: (time.sleep(0.1), inside(*args))[1]; pack.main(sys.argv[1:])"
    command = [sys.executable, "-c", code, "--frames", toy_frames, "--output", output, "--volume-gb", str(SMALL)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while len(list(output.glob("*.tar"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    (output / ".frames-00002.tar.tmp").write_bytes(b"half")

    with pytest.raises(UserError, match="The packing into .* was interrupted"):
        opened(toy_source, output)
    with pytest.raises(UserError, match="The packing into .* was interrupted"):
        preprocess(with_frames(toy_source, str(output)), Settings(TOY_SIZE))
    stamps = {path.name: path.stat().st_mtime_ns for path in output.glob("*.tar")}
    capsys.readouterr()
    pack(toy_frames, output, SMALL)

    assert f"({len(stamps)} of " in capsys.readouterr().out
    assert len(stamps) >= 2 and all((output / name).stat().st_mtime_ns == stamp for name, stamp in stamps.items())
    assert contents(output) == contents(toy_pack)
    assert not list(output.glob(".frames*"))


def test_a_packing_that_went_on_with_other_frames_begins_anew(toy_frames, tmp_path, monkeypatch):
    frames = shutil.copytree(toy_frames, tmp_path / "frames")
    with monkeypatch.context() as patch:
        patch.setattr(module, "_finish", lambda *args: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            pack(frames, tmp_path / "packed", SMALL)
    rows = manifest.read_manifest(frames)
    manifest.write_manifest(frames, rows[1:])
    pack(frames, tmp_path / "packed", SMALL)
    pack(frames, tmp_path / "undisturbed", SMALL)

    assert contents(tmp_path / "packed") == contents(tmp_path / "undisturbed")


@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "text"])
def test_a_bad_frame_is_found_when_it_is_packed(toy_frames, tmp_path, damage):
    frames = shutil.copytree(toy_frames, tmp_path / "frames")
    path = frames / manifest.read_manifest(frames)[7].folder / "00011.jpg"
    content = path.read_bytes()
    path.unlink()
    if damage != "missing":
        path.write_bytes({"empty": b"", "cut": content[: len(content) // 2], "text": b"no picture"}[damage])

    what = damage if damage in ("missing", "empty") else "damaged"
    with pytest.raises(UserError, match=f"The frame {path} is {what}. Delete its folder, and preprocess again"):
        pack(frames, tmp_path / "packed")


def change(path: Path, place: int, content: bytes) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        file.write(content)


def shift_entry(pack_folder: Path) -> None:
    index = np.load(pack_folder / "index.npy")
    index[:] = np.roll(index, 1)
    np.save(pack_folder / "index.npy", index)


SPOIL = {
    "manifest of another": (
        lambda folder: manifest.write_manifest(folder, manifest.read_manifest(folder)[1:]),
        "manifest.csv has changed since packing. To rebuild it from the tar files",
    ),
    "damaged manifest": (
        lambda folder: change(folder / manifest.NAME, 900, b"?"),
        "manifest.csv has changed since packing. To rebuild it from the tar files",
    ),
    "no manifest": (lambda folder: (folder / manifest.NAME).unlink(), "manifest.csv has changed since packing"),
    "no volume": (lambda folder: (folder / "frames-00001.tar").unlink(), "frames-00001.tar is missing"),
    "cut volume": (
        lambda folder: (folder / "frames-00001.tar").write_bytes(b"x" * 1000),
        "frames-00001.tar has 1,000 bytes, and it was packed with",
    ),
    "no index": (lambda folder: (folder / "index.npy").unlink(), "index.npy is missing or damaged"),
    "half an index": (
        lambda folder: np.save(folder / "index.npy", np.zeros(7, INDEX_DTYPE)),
        "index.npy has 7 entries, and the manifest lists 480 frames",
    ),
    "text as pack.json": (lambda folder: (folder / "pack.json").write_text("{"), "pack.json is damaged"),
    "another version": (
        lambda folder: (folder / "pack.json").write_text('{"format": 9}'),
        "pack.json is of format 9; this version reads 1",
    ),
}


@pytest.mark.parametrize("lost", ["pack.json", "index.npy", "both", "shifted"])
def test_what_was_lost_of_a_pack_is_rebuilt_from_its_tar_files(toy_source, toy_pack, own_pack, capsys, lost):
    for name in ("pack.json", "index.npy"):
        if lost in (name, "both"):
            (own_pack / name).unlink()
    if lost == "shifted":
        shift_entry(own_pack)
    if lost in ("pack.json", "both"):
        for use in (lambda: opened(toy_source, own_pack), lambda: verify(own_pack)):
            with pytest.raises(UserError, match=r"is a pack without pack.json. To rebuild .*pack --repair DIR"):
                use()
        with pytest.raises(UserError, match="is a pack without pack.json"):
            ensure_frames(replace(toy_source, frames=own_pack, frames_given=True), TOY_SIZE)

    main(["--repair", str(own_pack)])
    assert "is repaired: 24 videos, 480 frames." in capsys.readouterr().out
    assert contents(own_pack) == contents(toy_pack)
    verify(own_pack)


def test_a_damaged_tar_file_is_not_blessed_by_a_repair(own_pack, tmp_path):
    with pytest.raises(UserError, match="has no frames-00000.tar, so it is no pack"):
        main(["--repair", str(tmp_path / "mistyped")])
    assert not (tmp_path / "mistyped").exists()
    entry = np.load(own_pack / "index.npy")[3]
    path = own_pack / f"frames-{entry['volume']:05d}.tar"
    change(path, int(entry["offset"]), b"?")
    with pytest.raises(UserError, match=r"tar is damaged: its SHA-256 is not that of pack.json. Copy that file again"):
        main(["--repair", str(own_pack)])
    (own_pack / "pack.json").unlink()
    with pytest.raises(UserError, match=r"1 frame of .*manifest.csv is in no tar file, or damaged there \(first: "):
        main(["--repair", str(own_pack)])
    path.unlink()
    with pytest.raises(UserError, match=rf"{path.name} is missing. Copy that file again|1\d* frames? of"):
        main(["--repair", str(own_pack)])
    assert not (own_pack / "pack.json").exists()


@pytest.mark.parametrize("name", SPOIL)
def test_a_pack_that_is_not_whole_is_not_opened(toy_source, own_pack, name):
    spoil, message = SPOIL[name]
    spoil(own_pack)

    with pytest.raises(UserError, match=message) as error:
        opened(toy_source, own_pack)
    assert "\n" not in str(error.value)


def test_an_index_that_leads_elsewhere_never_gives_another_frame(toy_source, own_pack):
    """Trap 12: unreadable samples replaced by others."""
    shift_entry(own_pack)
    with pytest.raises(UserError, match=r"The frame train/.*/0\d+.jpg in .*frames-0000\d.tar is not there"):
        samples(TrainDataset(opened(toy_source, own_pack), SPEC))
    with pytest.raises(UserError, match="files are damaged: index.npy"):
        verify(own_pack)


def test_a_spoilt_place_in_a_pack_is_named_by_reading_and_by_verify(toy_source, own_pack, capsys):
    verify(own_pack)
    assert "is complete: 24 videos, " in capsys.readouterr().out
    frame_set = opened(toy_source, own_pack)
    row = frame_set.part("test")[2]
    entry = np.load(own_pack / "index.npy")[frame_set.store.starts[row.folder]]
    change(own_pack / f"frames-{entry['volume']:05d}.tar", int(entry["offset"]), bytes(600))

    dataset = EvalDataset(frame_set, SPEC, "test", num_clips=2)
    with pytest.raises(UserError, match=f"The frame {row.folder}/00001.jpg in .*tar is damaged. .*--verify DIR finds"):
        dataset.load(0, 2, np.empty(dataset.clip_shape, np.uint8))
    with pytest.raises(UserError, match=f"files are damaged: frames-{entry['volume']:05d}.tar"):
        verify(own_pack)


def test_sizes_are_said_first_and_a_full_disk_is_refused(toy_frames, tmp_path, monkeypatch, capsys):
    real = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(module.shutil, "disk_usage", lambda path: real._replace(free=100_000))

    with pytest.raises(UserError, match="The disk of .* lacks .* MB"):
        pack(toy_frames, tmp_path / "packed")
    assert "Packing 24 videos, 480 frames" in capsys.readouterr().out
    assert not list((tmp_path / "packed").glob("*.tar"))


def test_many_videos_do_not_make_more_files_than_a_process_may_open(toy_frames):
    rows = manifest.read_manifest(toy_frames)[:1] * 5000
    volumes = plan_volumes(rows, [np.full(20, 1000, np.uint32)] * 5000, 1e-6)

    assert 100 < len(volumes) <= MOST_VOLUMES
    assert sum(len(volume.entries) for volume in volumes) == 100_000


def test_mistakes_are_said_in_one_line(toy_frames, toy_pack, tmp_path):
    (tmp_path / "used").mkdir()
    (tmp_path / "used" / "thesis.tex").write_text("x")
    for frames, output, message in (
        (toy_frames, toy_frames, "contain each other"),
        (toy_frames, toy_frames / "packed", "contain each other"),
        (toy_frames, tmp_path / "used", "has files that are not from a pack"),
        (toy_pack, tmp_path / "new", "is a pack already"),
        (tmp_path / "gone", tmp_path / "new", "There are no frames in"),
    ):
        with pytest.raises(UserError, match=message):
            pack(frames, output)
    with pytest.raises(UserError, match="is not a pack: it has no pack.json"):
        verify(toy_frames)


@pytest.mark.parametrize(
    "words",
    [["--verify", "x", "--output", "y"], ["--verify", "x", "--volume-gb", "2"], ["--frames", "x", "--size", "8x6"]],
)
def test_options_that_would_be_ignored_are_refused(words):
    with pytest.raises(SystemExit, match="2"):
        main(words)


def test_a_run_that_waited_for_another_leaves_its_pack_alone(toy_frames, tmp_path, monkeypatch, capsys):
    output, look = tmp_path / "packed", module._frame_sizes

    def look_while_another_run_packs(*args):
        monkeypatch.setattr(module, "_frame_sizes", look)
        pack(toy_frames, output, SMALL)
        return look(*args)

    monkeypatch.setattr(module, "_frame_sizes", look_while_another_run_packs)
    monkeypatch.setattr(module, "_write_volumes", once(module._write_volumes))
    pack(toy_frames, output, SMALL)
    assert "Nothing to do" in capsys.readouterr().out


def test_a_file_that_does_not_read_back_as_it_was_written_is_no_part_of_a_pack(toy_frames, tmp_path, monkeypatch):
    write = module.write_volume

    def write_to_a_failing_disk(frames, path, volume):
        written = write(frames, path, volume)
        with path.open("r+b") as file:
            file.seek(volume.num_bytes // 2)
            byte = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte[0] ^ 1]))
        return written

    monkeypatch.setattr(module, "write_volume", write_to_a_failing_disk)
    with pytest.raises(UserError, match="differs from what was written: is the disk failing"):
        pack(toy_frames, tmp_path / "packed", SMALL)
    assert not list((tmp_path / "packed").glob("*frames-*"))


def test_frames_of_another_size_are_named(toy_source, toy_frames, tmp_path):
    shutil.copytree(toy_frames, tmp_path / "mine-80x60")
    source = replace(toy_source, frames=tmp_path / "mine")
    assert module.frames_of(source, TOY_SIZE) == tmp_path / "mine-80x60"
    with pytest.raises(UserError, match=r"no frames in .*mine, but in .*mine-80x60: choose them by"):
        module.frames_of(source, None)
    with pytest.raises(UserError, match="Extract them first"):
        module.frames_of(replace(source, frames=tmp_path / "other"), None)


def once(function):
    calls = iter([function])
    return lambda *args: next(calls)(*args)


def test_a_pack_is_read_as_it_is_though_the_videos_have_changed_since(toy_source, own_pack, tmp_path, capsys):
    videos = shutil.copytree(toy_source.videos, tmp_path / "videos")  # its folders are younger than the manifest
    source = replace(toy_source, videos=videos, frames=own_pack, frames_given=True)
    (videos / "Biking").touch()
    ensure_frames(source, TOY_SIZE)

    assert capsys.readouterr().out == ""
    assert len(open_frames(source, SPEC).rows) == 24
    assert not (own_pack / "train").exists()


def test_the_command_packs_beside_the_frames_and_checks(toy_frames, tmp_path, capsys):
    frames = shutil.copytree(toy_frames, tmp_path / "frames")
    main(["--frames", str(frames)])
    main(["--verify", str(tmp_path / "frames-packed")])

    assert json.loads((tmp_path / "frames-packed" / "pack.json").read_text())["num_frames"] == 480
    assert "is complete" in capsys.readouterr().out
