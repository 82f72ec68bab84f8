import json
import os
import shutil
import signal
import struct
import subprocess
import sys
import threading
import time
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest

import mypath
from common.errors import UserError
from common.files import ROOT
from common.worker_process import ProgramFault
from dataloaders.audit import __main__, probe
from dataloaders.audit.findings import KINDS, find_all
from dataloaders.audit.frames_folders import frames_folders
from dataloaders.audit.probe import ProbeProcess, VideoInfo
from dataloaders.audit.report import Audit, report, to_dict
from dataloaders.audit.run import audit_source
from dataloaders.frame_set import open_frames
from dataloaders.frames.manifest import read_manifest, write_manifest
from dataloaders.frames.settings import Settings
from dataloaders.pack import pack
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource, SourceVideo
from dataloaders.sources.find import find_source
from dataloaders.sources.recordings import groups_of
from dataloaders.sources.splits import Split, split_videos
from dataloaders.video import DECODER
from engine.training.config import TrainConfig
from engine.training.setup import warn_of_leaks
from network import InputSpec
from tests.helpers.preprocess import break_decoding
from tests.helpers.toy import frame_naming, write_naming_video, write_video

SIZE = (96, 72)
CLIP = ("--clip-len", "16")  # as without it the default model is asked, which takes torch


def source_of(folder: Path, **others) -> DataSource:
    return replace(find_source(str(folder), {}, ROOT), **others)


def kinds(result: Audit) -> Counter:
    return Counter(finding.kind for finding in result.findings)


def texts(result: Audit, kind: str) -> list[str]:
    return [finding.text for finding in result.findings if finding.kind == kind]


def run_audit(*argv: str) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "dataloaders.audit", "--workers", "1", *argv]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="session")
def plain_videos(tmp_path_factory) -> Path:
    """2 classes x 7 videos of their own, of 18 and more frames, nothing wrong with them."""
    folder = tmp_path_factory.mktemp("plain") / "videos"
    for label, name in enumerate(("jump", "run")):
        for number in range(7):
            write_naming_video(folder / name / f"{number}.avi", 18 + number, label, SIZE)
    return folder


@pytest.fixture
def videos(plain_videos, tmp_path) -> Path:
    """plain_videos to be changed."""
    return shutil.copytree(plain_videos, tmp_path / "videos")


def test_a_sound_data_set_has_no_findings(plain_videos, capsys):
    status = __main__.main(["--dataset", str(plain_videos), *CLIP])
    out = capsys.readouterr().out

    assert status == 0
    assert "2 classes, 14 videos of 14 recordings, 294 frames" in out
    assert "Split random does not leak: no recording and no file is in two parts." in out
    assert "PROBLEMS" not in out and "LEAKS" not in out and "WORTH" not in out


def test_the_frames_folders_are_listed_with_their_size_and_how_to_remove_them(videos, capsys):
    source = source_of(videos)
    first, second = source.frames, source.frames_for((96, 72))
    preprocess(source, Settings())
    __main__.main(["--dataset", str(videos), *CLIP])
    assert "rm -r" not in capsys.readouterr().out, "the only one is needed"
    preprocess(source, Settings((96, 72), every=2))
    other = videos.with_name(f"{source.frames.name}-more")  # another data set's
    shutil.copytree(first, other)
    __main__.main(["--dataset", str(videos), *CLIP, "--json", str(videos.with_name("audit.json"))])
    out = capsys.readouterr().out
    assert f"in {first} (14 videos, --size 171x128)" in out
    assert f"in {second} (14 videos, --size 96x72 --every 2)" in out
    assert f"rm -r {first}  or  rm -r {second}  removes one" in out and str(other) not in out
    listed = json.loads(videos.with_name("audit.json").read_text())["frames_folders"]
    sizes = [sum(path.stat().st_size for path in folder.rglob("*") if path.is_file()) for folder in (first, second)]
    assert [entry["bytes"] for entry in listed] == sizes

    pack(first, videos.with_name("packed"))
    shutil.rmtree(first)
    videos.with_name("packed").rename(first)
    (second / "manifest.csv").write_text("damaged")
    packed, damaged = frames_folders(source)
    assert packed.content == "--size 171x128, packed" and packed.num_bytes > 0
    assert damaged.content.startswith("not read") and not damaged.made_here
    shutil.rmtree(videos)
    __main__.main(["--dataset", str(videos), *CLIP])
    assert "rm -r" not in capsys.readouterr().out, "they could not be made again"


def test_the_size_of_many_frames_is_estimated(videos, monkeypatch):
    source = source_of(videos)
    preprocess(source, Settings())
    [exact] = frames_folders(source)
    monkeypatch.setattr("dataloaders.audit.frames_folders.SAMPLED", 4)
    [estimate] = frames_folders(source)
    assert 0.8 < estimate.num_bytes / exact.num_bytes < 1.2


def write_uneven(path: Path) -> None:
    """Each third frame stays for three times as long."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=25)
        stream.width, stream.height, stream.pix_fmt = *SIZE, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        time = 0
        for index in range(30):
            frame = av.VideoFrame.from_ndarray(frame_naming(index, 0, SIZE), format="rgb24")
            frame.pts, frame.time_base = time, Fraction(1, 1000)
            time += 120 if index % 3 == 0 else 40
            container.mux(stream.encode(frame))
        container.mux(stream.encode())


def overstate_frames(path: Path, num_frames: int) -> None:
    """AVI: the header's counts are changed, the frames stay."""
    content = bytearray(path.read_bytes())
    struct.pack_into("<I", content, content.index(b"avih") + 8 + 16, num_frames)
    struct.pack_into("<I", content, content.index(b"strh") + 8 + 32, num_frames)
    path.write_bytes(content)


def test_each_fault_is_found_and_said_truly(videos):
    jump = videos / "jump"
    still = frame_naming(5, 0, SIZE)
    (jump / "empty.avi").touch()
    (jump / "words.avi").write_text("no video\n" * 100)
    (jump / "nothing.avi").symlink_to("gone.avi")
    write_naming_video(jump / "one.avi", 1, 0, SIZE)
    write_video(jump / "frozen.avi", [still] * 20)
    write_video(jump / "frozen_mjpeg.avi", [still] * 20, codec="mjpeg", pix_fmt="yuvj420p")
    write_video(jump / "black.mp4", [np.zeros_like(still)] * 20, codec="libx264")
    write_naming_video(jump / "short.avi", 15, 0, SIZE)
    write_naming_video(jump / "long.avi", 90, 0, SIZE, fps=1)
    write_naming_video(jump / "wide.avi", 20, 0, (240, 80))
    write_naming_video(jump / "tiny.avi", 20, 0, (48, 40))
    write_uneven(jump / "uneven.mp4")
    overstate_frames(write_naming_video(jump / "header.avi", 21, 0, SIZE), 30)
    for name in ("cut.avi", "cut.mkv"):
        whole = write_naming_video(jump / name, 40, 0, SIZE)
        whole.write_bytes(whole.read_bytes()[: whole.stat().st_size * 6 // 10])
    (videos / "lost.mp4").write_bytes((jump / "0.avi").read_bytes()[:-1])
    write_naming_video(videos / "run" / "more" / "deep.avi", 19, 1, SIZE)

    result = audit_source(source_of(videos), workers=2)

    assert texts(result, "unreadable") == [
        "jump/empty.avi: the file is empty (0 bytes)",
        "jump/nothing.avi: it is a broken link",
        "jump/one.avi: it has only 1 frame, and a single picture shows no action",
        "jump/words.avi: it cannot be opened as a video",
    ]
    assert texts(result, "still") == [
        "jump/black.mp4: all black (20 frames)",
        "jump/frozen.avi: every frame shows the same picture (20 frames)",
        "jump/frozen_mjpeg.avi: every frame shows the same picture (20 frames)",
    ]
    assert texts(result, "too_short") == ["jump/short.avi: 15 frames, and a clip spans 16"]
    assert texts(result, "long") == ["jump/long.avi: 90 s; half of the videos have at most 1 s"]
    assert texts(result, "aspect") == ["jump/wide.avi: 240x80"]
    assert texts(result, "tiny") == ["jump/tiny.avi: 48x40"]
    assert texts(result, "header_count") == [
        "jump/cut.avi: 40 in the header, 17 packets follow",
        "jump/cut.mkv: 40 in the header, 23 packets follow",
        "jump/header.avi: 30 in the header, 21 packets follow",
    ]
    assert [text.split(":")[0] for text in texts(result, "uneven")] == ["jump/uneven.mp4"]
    assert texts(result, "damaged") == ["jump/cut.avi: damaged in 1 place"]
    assert texts(result, "ignored") == [
        "lost.mp4: beside the class folders",
        "run/more/deep.avi: in a folder inside a class folder",
    ]
    assert set(kinds(result)) < set(KINDS) and not result.leaks
    assert result.facts["jump/long.avi"].num_frames == 90


def test_decode_counts_what_is_there_and_not_what_the_packets_claim(videos):
    path = write_naming_video(videos / "jump" / "spoilt.mp4", 40, 0, SIZE, options={"g": "4"})
    content = bytearray(path.read_bytes())
    half = len(content) // 2
    content[half : half + len(content) // 10] = bytes(len(content) // 10)
    path.write_bytes(content)

    quick, decoded = (audit_source(source_of(videos), decode=decode).facts for decode in (False, True))

    assert (quick["jump/spoilt.mp4"].num_frames, quick["jump/spoilt.mp4"].counted) == (40, "packets")
    assert decoded["jump/spoilt.mp4"].counted == "decoded"
    assert decoded["jump/spoilt.mp4"].num_frames < 40 and decoded["jump/spoilt.mp4"].damaged
    assert [fact.num_frames for name, fact in decoded.items() if name.startswith("run/")] == list(range(18, 25))
    assert not any(fact.still or fact.damaged for name, fact in decoded.items() if name.startswith("run/"))


def test_a_small_thing_that_moves_is_not_still(tmp_path):
    """The header of a video that hardly changes makes it a suspect; its pictures clear it."""
    pictures = [np.full((72, 96, 3), 90, np.uint8) for _ in range(20)]
    for index, picture in enumerate(pictures):
        picture[30:35, 3 * index : 3 * index + 5] = 200
    path = write_video(tmp_path / "ball.avi", pictures)

    _, sizes, _, _ = probe._read_packets(path)
    assert probe._may_be_still(sizes, 96 * 72)
    assert probe.probe_video(path).still == ""


def test_equal_files_are_found_by_content(videos):
    shutil.copy(videos / "jump" / "3.avi", videos / "jump" / "again.avi")
    shutil.copy(videos / "run" / "4.avi", videos / "jump" / "wrong.avi")
    other = bytearray((videos / "run" / "5.avi").read_bytes())
    other[-1] ^= 1
    (videos / "run" / "same_size.avi").write_bytes(other)

    result = audit_source(source_of(videos), split="random")
    shared = [set(f.videos) for f in result.findings if f.kind in ("duplicate", "shared_file")]
    across = [set(f.videos) for f in result.findings if f.kind in ("duplicate_across_classes", "shared_file")]

    assert {"jump/3.avi", "jump/again.avi"} in shared
    assert {"run/4.avi", "jump/wrong.avi"} in across
    assert not any("run/same_size.avi" in finding.videos for finding in result.findings)


@pytest.fixture
def divided(plain_videos, tmp_path) -> Path:
    """train/ has 0 to 4 of each class, test/ 5 and 6."""
    for path in plain_videos.rglob("*.avi"):
        part = "train" if int(path.stem) < 5 else "test"
        target = tmp_path / "divided" / part / path.parent.name / path.name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "divided"


def test_the_same_file_in_training_and_test_is_a_leak(divided):
    assert run_audit("--dataset", str(divided), *CLIP).returncode == 0

    shutil.copy(divided / "train" / "run" / "2.avi", divided / "test" / "run" / "copy.avi")
    result = run_audit("--dataset", str(divided), *CLIP)

    assert result.returncode == 1
    assert "test/run/copy.avi (test) = train/run/2.avi (" in result.stdout
    assert "Split given LEAKS" in result.stdout and "keep one of each set of equal files" in result.stdout


def test_a_recording_in_training_and_test_is_a_leak(divided, monkeypatch, capsys):
    """Trap 2: a split that divides groups."""
    (divided / "train" / "run" / "2.avi").rename(divided / "train" / "run" / "anna_2.avi")
    (divided / "test" / "run" / "5.avi").rename(divided / "test" / "run" / "anna_5.avi")
    entry = {"videos": str(divided), "groups": r"^(anna|\d+$)"}
    monkeypatch.setattr(mypath, "DATASETS", {"mine": entry})

    assert __main__.main(["--dataset", "mine", "--val", "none", *CLIP]) == 1
    out = capsys.readouterr().out
    assert "anna: 1 in train, 1 in test" in out and "put all videos of a recording into one part" in out
    assert __main__.main(["--dataset", "mine", "--split", "random", *CLIP]) == 0


def test_validation_held_out_here_leaks_nothing_but_is_said(plain_videos):
    """It chooses an epoch; the test is what is reported."""
    source = source_of(plain_videos)
    videos = [SourceVideo(f"jump/{n}.avi", "jump", f"jump/{n}", "") for n in range(3)]
    split = Split("random", {"jump/0.avi": "train", "jump/1.avi": "val"})
    facts = {video.video: VideoInfo(9, "", 30, fps=25.0) for video in videos}

    def level(videos) -> str:
        found = find_all(source, videos, facts, split, [["jump/0.avi", "jump/1.avi"]], 16)
        return next(finding.level for finding in found if finding.kind == "shared_file")

    assert level(videos) == "problem"
    assert level([replace(videos[0], given="train"), replace(videos[1], given="val")]) == "leak"


def ucf101_videos(folder: Path) -> Path:
    """2 classes x groups 1, 8, 23 x 2 clips, no two alike."""
    for label, name in enumerate(("Biking", "Diving")):
        for number, end in enumerate(("g01_c01", "g01_c02", "g08_c01", "g08_c02", "g23_c01", "g23_c02")):
            write_naming_video(folder / name / f"v_{name}_{end}.avi", 17 + number, label, SIZE)
    return folder


def official_lists(folder: Path, videos: Path, divided_class: str) -> Path:
    """UCF101's list files for toy videos, of which one class has a recording in both lists."""
    folder.mkdir()
    lists = {"train": [], "test": []}
    for path in sorted(videos.rglob("*.avi")):
        tests = "_g01_" in path.name and not (path.parent.name == divided_class and path.stem.endswith("c02"))
        lists["test" if tests else "train"].append(f"{path.parent.name}/{path.name}")
    (folder / "trainlist01.txt").write_text("".join(f"{name} 1\n" for name in lists["train"]))
    (folder / "testlist01.txt").write_text("".join(f"{name}\n" for name in lists["test"]))
    return folder


def test_what_an_official_list_shares_is_said_and_is_no_error(tmp_path, monkeypatch, capsys):
    videos = ucf101_videos(tmp_path / "toy")
    shutil.copy(videos / "Biking/v_Biking_g08_c01.avi", videos / "Diving/v_Diving_g01_c01.avi")
    lists = official_lists(tmp_path / "lists", videos, "Biking")
    entry = {"layout": "ucf101", "videos": str(videos), "splits": str(lists)}
    monkeypatch.setattr(mypath, "DATASETS", {"toy": entry})

    assert __main__.main(["--dataset", "toy", *CLIP]) == 0
    out = capsys.readouterr().out
    assert "Biking/g01: 1 in train, 1 in test (so in the official lists)" in out
    assert "v_Biking_g08_c01.avi (train)" in out and "v_Diving_g01_c01.avi (test) (so in the official lists)" in out
    assert "does not leak, except for files shared in the official lists" in out

    entry["splits"] = None  # by the rule: no list vouches for the equal files, and no recording is divided
    assert __main__.main(["--dataset", "toy", *CLIP, "--json", "-"]) == 1
    found = json.loads(capsys.readouterr().out)["findings"]
    assert [finding["kind"] for finding in found if finding["level"] == "leak"] == ["shared_file"]


@pytest.mark.skipif(sys.platform != "linux", reason="the file system knows upper from lower case")
def test_class_folders_that_differ_in_case_only_are_found(videos):
    write_naming_video(videos / "Run" / "9.avi", 18, 1, SIZE)

    assert texts(audit_source(source_of(videos)), "case_only") == [
        "Run, run: two classes here, one folder on Windows and macOS"
    ]


def test_json_has_the_documented_keys_and_sums_that_agree(videos, tmp_path):
    (videos / "run" / "empty.avi").touch()
    done = run_audit("--dataset", str(videos), *CLIP, "--json", "-")
    assert (done.returncode, done.stderr) == (0, "")
    content = json.loads(done.stdout)
    assert __main__.main(["--dataset", str(videos), *CLIP, "--json", str(tmp_path / "out.json")]) == 0
    assert json.loads((tmp_path / "out.json").read_text()) == content

    documented = (ROOT / "docs" / "data.md").read_text(encoding="utf-8")
    for table in (content, content["totals"], content["imbalance"], *(content[k][0] for k in ("classes", "videos"))):
        for key in table:
            assert f"`{key}`" in documented, key
    for kind in KINDS:
        assert f"`{kind}`" in documented, kind
    assert set(content["findings"][0]) == {"kind", "level", "text", "videos"}
    assert content["format"] == 1 and content["leaks"] == 0 and content["clip_span"] == 16

    totals, classes = content["totals"], content["classes"]
    assert (totals["videos"], totals["usable"], totals["classes"], totals["frames"]) == (15, 14, 2, 294)
    for key in ("videos", "usable", "frames", "recordings"):
        assert totals[key] == sum(row[key] for row in classes)
    for part, number in totals["parts"].items():
        assert number == sum(row[part] for row in classes)
        assert number == sum(row["part"] == part for row in content["videos"])
    assert totals["seconds"] == pytest.approx(294 / 25, abs=1e-3)
    assert {row["video"] for row in content["videos"] if row["unreadable"]} == {"run/empty.avi"}
    assert content["imbalance"]["ratio"] == 1.0


def test_wrong_usage_ends_with_2_and_no_data_with_1(plain_videos):
    assert run_audit("--split", "4").returncode == 2
    assert run_audit("--frame-stride", "2").returncode == 2
    assert run_audit("--json", "no/such/folder/out.json").returncode == 2
    done = run_audit("--dataset", "no/such/folder")
    assert (done.returncode, done.stdout) == (1, "") and "no/such/folder" in done.stderr
    with pytest.raises(UserError, match="There are no frames in .*nowhere. Correct --frames"):
        __main__.main(["--dataset", str(plain_videos), "--frames", "nowhere", *CLIP])


def test_the_default_clip_is_that_of_the_default_model(plain_videos, monkeypatch, capsys):
    monkeypatch.setattr(mypath, "DEFAULT_MODEL", "mc3_10")  # 12 frames, each third: 34
    __main__.main(["--dataset", str(plain_videos), "--json", "-"])
    content = json.loads(capsys.readouterr().out)

    assert content["clip_span"] == 34
    assert sum(finding["kind"] == "too_short" for finding in content["findings"]) == 14


def test_the_audit_loads_no_torch():
    code = "import sys, dataloaders.audit.run; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


@pytest.mark.slow
def test_what_preprocessing_counted_is_believed_and_headers_are_held_against_it(videos, tmp_path):
    (videos / "run" / "empty.avi").touch()
    overstate_frames(videos / "jump" / "0.avi", 40)
    source = source_of(videos, frames=tmp_path / "frames")
    preprocess(source, Settings((80, 60)), workers=2)
    write_naming_video(videos / "run" / "new.avi", 18, 1, SIZE)

    result = audit_source(source)

    assert {name for name, fact in result.facts.items() if fact.counted != "manifest"} == {
        "run/empty.avi",
        "run/new.avi",
    }
    assert texts(result, "header_count") == ["jump/0.avi: 40 in the header, 18 decode"]
    assert "the number of packets of 1 video" in report(result)

    table = tmp_path / "frames-80x60" / "manifest.csv"
    table.write_bytes(table.read_bytes().replace(b"jump/0.avi", b"jump/O.avi", 1))
    assert {fact.counted for fact in audit_source(source).facts.values()} == {"packets"}


@pytest.mark.slow
def test_frames_whose_videos_are_gone_are_audited_too(videos, tmp_path):
    shutil.copy(videos / "jump" / "3.avi", videos / "jump" / "again.avi")
    source = source_of(videos, frames=tmp_path / "frames")
    rows = preprocess(source, Settings((80, 60)), workers=2)
    shutil.rmtree(videos)

    result = audit_source(source)

    assert [finding.videos for finding in result.findings if "again" in finding.text] == [
        ("jump/3.avi", "jump/again.avi")
    ]
    assert sum(fact.num_frames for fact in result.facts.values()) == sum(row.num_frames for row in rows)
    assert "as decoded by preprocessing" in report(result)
    pack(tmp_path / "frames-80x60", tmp_path / "packed")
    assert audit_source(replace(source, frames=tmp_path / "packed")).findings == result.findings


def test_an_empty_class_folder_is_a_finding_and_ends_nothing(videos, capsys):
    (videos / "walk").mkdir()
    (videos / "swim").mkdir()
    (videos / "swim" / "swim.rar").write_bytes(b"Rar!")
    assert __main__.main(["--dataset", str(videos), *CLIP]) == 0
    out = capsys.readouterr().out
    assert "2  class folders without videos" in out and "walk: no video in it" in out
    assert "swim: " in out and "unrar x swim.rar" in out and "14 videos" in out


def test_a_list_of_videos_that_are_gone_is_audited_by_its_frames(videos, tmp_path):
    shutil.copy(videos / "jump" / "3.avi", videos / "jump" / "again.avi")
    lines = [f"{path.parent.name}/{path.name},{path.parent.name},g{path.stem[-1]}" for path in videos.glob("*/*.avi")]
    listed = videos / "list.csv"
    listed.write_text("\n".join(sorted(lines)))
    source = find_source(str(listed), {}, ROOT)
    preprocess(source, Settings((80, 60)), workers=2)
    for label in ("jump", "run"):
        shutil.rmtree(videos / label)
    listed.write_text("\n".join(line for line in sorted(lines) if "again" not in line))

    result = audit_source(source)
    assert len(result.videos) == 14 and {video.group for video in result.videos} == {f"g{n}" for n in range(7)}
    assert not any("again" in finding.text for finding in result.findings)
    with pytest.raises(UserError, match="--decode decodes videos, and there are none"):
        audit_source(source, decode=True)


def test_a_folder_without_any_video_that_works_is_refused_with_the_reason(tmp_path):
    for name in ("a/x.avi", "b/y.avi"):
        (tmp_path / "videos" / name).parent.mkdir(parents=True)
        (tmp_path / "videos" / name).touch()
    with pytest.raises(UserError, match=r"None of the 2 files .* \(first: a/x.avi: the file is empty"):
        audit_source(source_of(tmp_path / "videos"))


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipe with a name here")
def test_a_file_that_never_ends_is_cut_off_and_one_that_crashes_ends_its_process_only(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "endless.avi")
    good = write_naming_video(tmp_path / "good.avi", 18, 0, SIZE)
    process = ProbeProcess()
    try:
        assert process.probe(good, decode=False).num_frames == 18
        monkeypatch.setattr(probe, "PROBE_SECONDS", 0.5)
        assert "decoding took more than" in process.probe(tmp_path / "endless.avi", decode=False).unreadable

        monkeypatch.setattr(probe, "PROBE_SECONDS", 30)
        killer = threading.Thread(target=_kill_reader, args=(process, tmp_path / "endless.avi"))
        killer.start()
        assert process.probe(tmp_path / "endless.avi", False).unreadable == "the decoder crashed on it (SIGSEGV)"
        killer.join()
        assert process.probe(good, decode=False).num_frames == 18
    finally:
        process.close()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
@pytest.mark.parametrize("error", ["TypeError", "ImportError", "AttributeError"])
def test_a_fault_of_the_program_ends_the_audit_in_one_line(plain_videos, tmp_path, monkeypatch, error):
    break_decoding(tmp_path / "broken", monkeypatch, f"if name == '3.avi': raise {error}('no such thing')")
    process = run_audit("--dataset", str(plain_videos), *CLIP)
    [line] = process.stderr.strip().splitlines()
    assert process.returncode == 1
    assert f"{error}: no such thing (sitecustomize.py" in line and "so no video is refused" in line


@pytest.mark.parametrize("kind", ["MemoryError", "ValueError"])
def test_the_same_crash_on_three_files_in_a_row_is_not_theirs(plain_videos, tmp_path, monkeypatch, kind):
    break_decoding(tmp_path / "broken", monkeypatch, f"raise {kind}(name)")
    with pytest.raises(ProgramFault, match=f"failed in a row with the same error: the decoder crashed on it .{kind}"):
        audit_source(source_of(plain_videos), workers=2)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="no signals there")
def test_a_file_is_unreadable_where_it_crashes_its_process_alone_too(videos, tmp_path, monkeypatch):
    (videos / "jump" / "3.avi").rename(videos / "jump" / "killed.avi")
    (videos / "jump" / "5.avi").rename(videos / "jump" / "damaged.avi")
    fault = (
        "if name == 'killed.avi' and first_time(name): os.kill(os.getpid(), signal.SIGKILL)\n"
        "if name == 'damaged.avi': os.kill(os.getpid(), signal.SIGSEGV)"
    )
    log = break_decoding(tmp_path / "broken", monkeypatch, fault)
    result = audit_source(source_of(videos), workers=2)

    unreadable = {name: facts.unreadable for name, facts in result.facts.items() if facts.unreadable}
    assert unreadable == {"jump/damaged.avi": "the decoder crashed on it (SIGSEGV)"}
    assert log.read_text().split().count("damaged.avi") == 2


@pytest.mark.slow
def test_a_refusal_of_another_decoder_is_not_believed(videos, tmp_path, monkeypatch):
    source = source_of(videos)
    preprocess(source, Settings(SIZE))
    frames = source.frames_for(SIZE)
    rows = read_manifest(frames)
    changed = [replace(rows[0], status="refused", reason="TypeError", pattern="PyAV 1.0"), *rows[1:]]
    write_manifest(frames, changed)
    assert not audit_source(source).facts[rows[0].video].unreadable
    write_manifest(frames, [replace(changed[0], pattern=DECODER), *rows[1:]])
    assert audit_source(source).facts[rows[0].video].unreadable == "TypeError"


def _kill_reader(process: ProbeProcess, pipe: Path) -> None:
    """Kills the worker when it has begun to read the pipe: until then the pipe can't be opened for writing."""
    while True:
        try:
            writing = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:
            time.sleep(0.01)
    os.kill(process.worker.process.pid, signal.SIGSEGV)
    os.close(writing)


def made_up(num_classes: int) -> Audit:
    """An audit of names that stand for no files."""
    source = DataSource("large", Path("/videos"), Path("/frames"))
    names = [f"c{n:03d}_{'a_very_long_name_' * (n % 3)}" for n in range(num_classes)]
    names = [f"{name}/{number}.avi" for n, name in enumerate(names) for number in range(3 + n)]
    groups = groups_of(source, [tuple(name[:-4].split("/")) for name in names])
    videos = [SourceVideo(name, name.split("/")[0], group, "") for name, group in zip(names, groups, strict=True)]
    facts = {name: VideoInfo(10**6, "", 1_000, fps=25.0, width=320, height=240) for name in names}
    split = split_videos(source, videos)
    classes = sorted({video.label for video in videos})
    return Audit(source, videos, facts, split, classes, 31, find_all(source, videos, facts, split, [], 31))


@pytest.mark.parametrize(("num_classes", "num_rows"), [(3, 3), (24, 24), (101, 25)])
def test_the_table_fits_a_terminal_and_a_screen(num_classes, num_rows):
    result = made_up(num_classes)
    lines = report(result).splitlines()

    assert max(map(len, lines)) <= 100
    first, last = (number for number, line in enumerate(lines) if line.startswith("-----"))
    assert last - first - 1 == num_rows
    everything = report(result, everything=True).splitlines()
    first, last = (number for number, line in enumerate(everything) if line.startswith("-----"))
    assert last - first - 1 == num_classes == to_dict(result)["totals"]["classes"]


def test_training_begins_with_a_warning_where_its_split_leaks(tmp_path, capsys):
    videos = ucf101_videos(tmp_path / "videos")
    for part, group in (("train", "08"), ("test", "01"), ("val", "23")):
        for path in videos.glob(f"*/*_g{group}_*"):
            target = tmp_path / "divided" / part / path.parent.name / path.name
            target.parent.mkdir(parents=True, exist_ok=True)
            path.rename(target)
    divided = tmp_path / "divided"

    def warning(**others) -> str:
        source = source_of(divided, frames=tmp_path / "frames", frames_given=True, layout="folder", **others)
        preprocess(source, Settings((80, 60)), workers=2)
        spec = InputSpec(clip_len=4, resize=(80, 60), crop_size=56)
        capsys.readouterr()
        frame_set = open_frames(source, spec)
        warn_of_leaks(frame_set, TrainConfig(dataset="my videos", model="r3d_10"))
        return capsys.readouterr().out

    assert warning() == ""
    shutil.copy(divided / "train/Biking/v_Biking_g08_c01.avi", divided / "test/Diving/v_Diving_g01_c03.avi")
    said = warning(groups=r"^v_(Biking)")
    assert said.startswith("WARNING: split given leaks") and said.count("\n") == 1
    assert "1 recording in more than one part (first: Biking: 2 in train, 2 in val, 2 in test)" in said
    assert "1 file in more than one part (first: test/Diving/v_Diving_g01_c03.avi (test) = train/Biking/" in said
    assert said.endswith("All: python -m dataloaders.audit --dataset 'my videos' --split given\n")
