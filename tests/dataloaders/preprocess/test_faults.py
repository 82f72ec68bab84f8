"""Faults of the program, a library or the machine stop the extraction; only a video's own damage is held against it."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest

from common.worker_process import CrashStreak, ProgramFault
from dataloaders.frames import manifest
from dataloaders.frames.manifest import NAME, PARTIAL_NAME, read_manifest, write_manifest
from dataloaders.frames.settings import Settings
from dataloaders.preprocess import plan as plan_module
from dataloaders.preprocess import run as run_module
from dataloaders.preprocess.ensure import ensure_frames
from dataloaders.preprocess.run import preprocess
from dataloaders.sources.data_source import DataSource
from dataloaders.video import DECODER
from tests.helpers.preprocess import break_decoding, make_source, run_cli
from tests.helpers.toy import TOY_SIZE, write_naming_video

SMALL = Settings(TOY_SIZE)
KILL, SEGV = "os.kill(os.getpid(), signal.SIGKILL)", "os.kill(os.getpid(), signal.SIGSEGV)"

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="no signals there")


@pytest.fixture
def five(tmp_path) -> DataSource:
    """a, b, c, d and e, of 5 to 9 frames, in one class."""
    for number, name in enumerate("abcde"):
        write_naming_video(tmp_path / "videos" / "run" / f"{name}.avi", 5 + number, size=(80, 60))
    return make_source(tmp_path / "videos")


def frames_by_name(rows) -> dict[str, int]:
    return {Path(row.video).stem: row.num_frames for row in rows if row.status == "ok"}


ALL = {"a": 5, "b": 6, "c": 7, "d": 8, "e": 9}


@pytest.mark.slow
@pytest.mark.parametrize(
    "error", ["TypeError('open() got an unexpected keyword argument')", "ImportError('no')", "AttributeError('no')"]
)
def test_a_fault_of_the_program_stops_at_once_in_one_line_and_the_next_run_goes_on(five, tmp_path, monkeypatch, error):
    log = break_decoding(tmp_path / "broken", monkeypatch, f"if name == 'c.avi': raise {error}")
    status, _, errors = run_cli("--dataset", five.videos, "--size", "80x60", "--workers", "1")

    [line] = errors.splitlines()
    name, text = error.split("('")[0], error.split("'")[1]
    assert status == 1
    assert line.startswith(f"Stopped at {five.videos}/run/c.avi: {name}: {text} (sitecustomize.py, line ")
    assert "so no video is refused" in line
    frames = five.frames_for(TOY_SIZE)
    rows = read_manifest(frames, PARTIAL_NAME)
    assert frames_by_name(rows) == {"a": 5, "b": 6} and len(rows) == 2
    assert not (frames / NAME).exists() and not (frames / ".partial").exists()
    assert log.read_text().split()[:3] == ["a.avi", "b.avi", "c.avi"]

    monkeypatch.delenv("PYTHONPATH")
    assert frames_by_name(preprocess(five, SMALL)) == ALL


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "raise ValueError(f'wrong in {name}')",
            "the decoder crashed on it (ValueError: wrong in c.avi (sitecustomize",
        ),
        (SEGV, "the decoder crashed on it (SIGSEGV)"),
        (KILL, "the decoder crashed on it (SIGKILL)"),
        ("raise MemoryError", "decoding needs more than"),
    ],
)
def test_the_same_crash_on_three_videos_in_a_row_is_not_the_videos(five, tmp_path, monkeypatch, fault, reason):
    log = break_decoding(tmp_path / "broken", monkeypatch, f"if name > 'a.avi': {fault}")
    with pytest.raises(ProgramFault) as error:
        preprocess(five, SMALL, workers=1)

    assert "run/b.avi, run/c.avi, run/d.avi failed in a row with the same error: " in str(error.value)
    assert reason.replace("c.avi", "d.avi") in str(error.value)
    rows = read_manifest(five.frames_for(TOY_SIZE), PARTIAL_NAME)
    assert frames_by_name(rows) == {"a": 5} and len(rows) == 1
    assert log.read_text().split().count("b.avi") <= 2  # begun ahead, it may have killed an idle worker once more

    monkeypatch.delenv("PYTHONPATH")
    assert frames_by_name(preprocess(five, SMALL)) == ALL


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        (
            "raise ValueError(f'wrong in {name}')",
            "the decoder crashed on it (ValueError: wrong in c.avi (sitecustomize",
        ),
        (SEGV, "the decoder crashed on it (SIGSEGV)"),
        (KILL, "the decoder crashed on it (SIGKILL)"),
        ("os._exit(3)", "the decoder crashed on it (status 3)"),
        ("raise MemoryError", "decoding needs more than"),
    ],
)
def test_a_video_that_crashes_twice_the_second_time_alone_is_refused(five, tmp_path, monkeypatch, fault, reason):
    log = break_decoding(tmp_path / "broken", monkeypatch, f"if name == 'c.avi': {fault}")
    rows = preprocess(five, SMALL, workers=2)

    assert frames_by_name(rows) == {name: number for name, number in ALL.items() if name != "c"}
    [row] = [row for row in rows if row.status == "refused"]
    assert row.video == "run/c.avi" and row.reason.startswith(reason)
    opened = log.read_text().split()
    assert opened[-1] == "c.avi" and opened.count("c.avi") in (2, 3)  # begun ahead, it may have killed an idle worker


@pytest.mark.parametrize("fault", [KILL, SEGV, "raise MemoryError", "raise OverflowError"])
def test_a_crash_that_does_not_come_again_costs_no_video(five, tmp_path, monkeypatch, fault):
    """The system kills a worker where memory is short, whatever its video."""
    log = break_decoding(
        tmp_path / "broken", monkeypatch, f"if name in ('b.avi', 'd.avi') and first_time(name): {fault}"
    )
    rows = preprocess(five, SMALL, workers=2)

    assert frames_by_name(rows) == ALL
    opened = log.read_text().split()
    assert opened.count("b.avi") == opened.count("d.avi") == 2


def test_crashes_count_as_a_row_only_where_they_are_alike_and_nothing_worked_between():
    streak = CrashStreak()
    for reason in ["x (SIGSEGV)", "x (SIGSEGV)", "x (SIGKILL)", "x (SIGKILL)", "", "x (SIGKILL)", "x (ValueError: 1)"]:
        streak.add("a.avi", reason)
    streak.add("b.avi", "x (ValueError: 2)")
    with pytest.raises(ProgramFault, match=r"a\.avi, b\.avi, c\.avi failed in a row"):
        streak.add("c.avi", "x (ValueError: 3)")


def test_a_library_that_is_missing_in_the_worker_stops_in_one_line(five, tmp_path, monkeypatch):
    (tmp_path / "broken").mkdir()
    (tmp_path / "broken" / "cv2.py").write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "broken"))
    with pytest.raises(ProgramFault, match=r"did not start \(ImportError: libGL.so.1: .*pip install -r"):
        preprocess(five, SMALL)
    assert read_manifest(five.frames_for(TOY_SIZE), PARTIAL_NAME) == []


def test_a_fault_of_the_program_stops_training_before_it_extracts(five, tmp_path, monkeypatch):
    break_decoding(tmp_path / "broken", monkeypatch, "raise TypeError('no')")
    with pytest.raises(ProgramFault, match=r"Stopped at .*run/a.avi: TypeError: no"):
        ensure_frames(five, TOY_SIZE)
    assert not five.frames_for(TOY_SIZE).exists()


def test_what_is_no_video_is_refused_as_such_with_another_frame_rate_too(five, capsys):
    for name in "fghi":
        (five.videos / "run" / f"{name}.avi").write_text("no video")
    rows = preprocess(five, replace(SMALL, fps=10.0), workers=1)
    assert {row.reason for row in rows if row.status == "refused"} == {"it cannot be opened as a video"}


def test_refusals_are_tried_again_after_a_change_of_versions_and_only_then(five, monkeypatch, capsys):
    (five.videos / "run" / "f.avi").write_text("no video")
    rows = preprocess(five, SMALL)
    assert [row.pattern for row in rows if row.status == "refused"] == [DECODER]
    capsys.readouterr()
    preprocess(five, SMALL)
    assert capsys.readouterr().out.startswith("Nothing to do: 5 videos extracted")

    for module in (plan_module, run_module):
        monkeypatch.setattr(module, "DECODER", "PyAV 99.0 / FFmpeg 9.9 / decoding 2")
    rows = preprocess(five, SMALL)
    output = capsys.readouterr().out
    assert "Refused earlier for a reason that may be gone, and tried again: 1 video (first: run/f.avi)." in output
    assert "Frames differ from the manifest" not in output
    assert [row.pattern for row in rows if row.status == "refused"] == ["PyAV 99.0 / FFmpeg 9.9 / decoding 2"]
    assert frames_by_name(rows) == ALL
    preprocess(five, SMALL)
    assert capsys.readouterr().out.startswith("Nothing to do: 5 videos extracted")


def test_refusals_of_an_older_program_are_read_and_tried_again_once(five, capsys):
    """It blamed its own faults on the videos, and recorded no versions."""
    whole = preprocess(five, SMALL)
    frames = five.frames_for(TOY_SIZE)
    refused = [
        replace(row, status="refused", folder="", num_frames=0, reason="the decoder crashed on it (TypeError: ...)")
        for row in whole
    ]
    write_manifest(frames, refused)
    assert b"PyAV" not in (frames / NAME).read_bytes()
    assert manifest.salvage(frames) == (refused, [])
    capsys.readouterr()

    assert preprocess(five, SMALL) == whole
    assert "and tried again: 5 videos (first: run/a.avi)." in capsys.readouterr().out
    preprocess(five, SMALL)
    assert capsys.readouterr().out.startswith("Nothing to do: 5 videos extracted")
