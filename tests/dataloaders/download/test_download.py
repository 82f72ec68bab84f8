"""Fetching from a real server on the loopback address: broken connections, wrong files, full disks, real archives."""

import contextlib
import copy
import hashlib
import http.server
import os
import re
import shutil
import signal
import ssl
import struct
import subprocess
import sys
import threading
import time
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from common.errors import UserError
from common.files import ROOT
from dataloaders.download import __main__ as downloads
from dataloaders.download.__main__ import DOWNLOADS, download
from dataloaders.download.archives import rar_tools, unpack
from dataloaders.download.http import part_of
from dataloaders.sources.find import find_source, find_videos
from dataloaders.sources.layout import Archive, Download, Layout, layout
from dataloaders.sources.splits import split_videos

CLASSES = ("brush_hair", "wave")


@dataclass
class Site:
    """A server with Range: what it has, what it was asked for, and how it misbehaves."""

    url: str
    files: dict[str, bytes] = field(default_factory=dict)
    asked: list[tuple[str, str]] = field(default_factory=list)  # path, Range
    break_after: int = 0  # bytes of an answer, then the connection is cut
    ranges: bool = True
    wait: float = 0.0  # seconds a block of 64 KB
    kind: str = "application/octet-stream"
    length: str = "right"  # Content-Length: "right", "none", "chunked" (in pieces), "long" (10 bytes too many)
    busy: list[tuple[int, str | None]] = field(default_factory=list)  # statuses before the answer, and Retry-After


@pytest.fixture
def site() -> Iterator[Site]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            site.asked.append((self.path, self.headers.get("Range", "")))
            content = site.files.get(self.path.lstrip("/"))
            if content is None:
                self.send_error(404)
                return
            if site.busy:
                status, retry = site.busy.pop(0)
                self.send_response(status)
                if retry:
                    self.send_header("Retry-After", retry)
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            match = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", "")) if site.ranges else None
            start = int(match.group(1)) if match else 0
            if match and start >= len(content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            self.send_response(206 if match else 200)
            if site.length in ("right", "long"):
                self.send_header("Content-Length", str(len(content) - start + 10 * (site.length == "long")))
            if site.length == "chunked":
                self.send_header("Transfer-Encoding", "chunked")
            self.send_header("Content-Type", site.kind)
            self.end_headers()
            end = start + site.break_after if site.break_after else len(content)
            for place in range(start, min(end, len(content)), 1 << 16):
                piece = content[place : min(place + (1 << 16), end)]
                self.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece) if site.length == "chunked" else piece)
                self.wfile.flush()
                time.sleep(site.wait)
            if site.length == "chunked" and end >= len(content):
                self.wfile.write(b"0\r\n\r\n")

        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):  # the client was killed
                super().handle()

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    site = Site(f"http://127.0.0.1:{server.server_address[1]}")
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield site
    server.shutdown()
    server.server_close()


def zipped(folder: Path, files: dict[str, bytes]) -> bytes:
    with zipfile.ZipFile(folder / "made.zip", "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return (folder / "made.zip").read_bytes()


def stored_rar(files: dict[str, bytes]) -> bytes:
    """A .rar (version 4) with files as they are, by the format's description: no free program writes one."""

    def block(kind: int, flags: int, rest: bytes, data: bytes = b"") -> bytes:
        head = struct.pack("<BHH", kind, flags, 7 + len(rest)) + rest
        return struct.pack("<H", zlib.crc32(head) & 0xFFFF) + head + data

    def member(name: str, data: bytes) -> bytes:
        sizes = struct.pack("<LLBLL", len(data), len(data), 3, zlib.crc32(data), 0x5A210000)
        rest = sizes + struct.pack("<BBHL", 20, 0x30, len(name), 0o100644) + name.encode()
        return block(0x74, 0x8000, rest, data)

    members = b"".join(member(name, data) for name, data in files.items())
    return b"Rar!\x1a\x07\x00" + block(0x73, 0, bytes(6)) + members + block(0x7B, 0x4000, b"")


def hmdb51_of(site: Site, folder: Path, pack=zipped, padding: int = 0) -> Layout:
    """HMDB51 with 2 classes x 30 videos: an archive of archives, and its lists, on the server. Where `pack` is zipped,
    they are .zip inside: an archive is known by its content, and Python opens it everywhere."""
    names = {label: [f"Film{n}_{label}_u_cm_np1_fr_med_{n}.avi" for n in range(30)] for label in CLASSES}
    inner = {f"{label}.rar": pack(folder, {f"{label}/{name}": b"video" for name in names[label]}) for label in CLASSES}
    lists = {
        f"testTrainMulti_7030_splits/{label}_test_split{split}.txt": "".join(
            f"{name} {1 + (n % 3 == split)} \r\n" for n, name in enumerate(names[label])
        ).encode()
        for label in CLASSES
        for split in (1, 2, 3)
    }
    inner["README"] = os.urandom(padding)
    return data_set(site, "hmdb51", {"hmdb51_org.rar": pack(folder, inner), "splits.rar": pack(folder, lists)}, 60)


def with_download(name: str, download: Download) -> Layout:
    """A layout that is fetched from somewhere else."""
    kind = copy.copy(layout(name))
    kind.download = download
    return kind


def data_set(site: Site, name: str, files: dict[str, bytes], num_videos: int) -> Layout:
    site.files.update(files)
    folders = ("hmdb51", "testTrainMulti_7030_splits") if name == "hmdb51" else ("UCF-101", "ucfTrainTestlist")
    videos, lists = (
        Archive(file, unpacked, (f"{site.url}/{file}",), hashlib.sha256(content).hexdigest(), len(content))
        for (file, content), unpacked in zip(files.items(), folders, strict=True)
    )
    return with_download(name, Download("http://page", videos, lists, num_videos, 2, 2, 1000))


def make_list(site: Site, folder: Path, content: bytes | None = None) -> Layout:
    """A data set whose lists alone are asked for: one zip of about 3 MB."""
    lists = {"ucfTrainTestlist/trainlist01.txt": os.urandom(3_000_000), "ucfTrainTestlist/trainlist02.txt": b"x"}
    return data_set(site, "ucf101", {"UCF101.rar": b"", "lists.zip": content or zipped(folder, lists)}, 1)


def test_hmdb51_arrives_whole_and_the_printed_entry_opens_it(site, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(downloads, "rar_tools", lambda: ["none is asked for"])  # these archives are .zip inside
    to = tmp_path / "data"
    download(hmdb51_of(site, tmp_path), to)

    out = capsys.readouterr().out
    assert "with the unpacked files, into" in out and "free." in out
    entry = eval("{" + out.split("as an entry of DATASETS:\n")[1].split("and then:")[0] + "}")
    source = find_source("hmdb51", entry, ROOT)
    videos = find_videos(source)
    assert len(videos) == 60 and source.frames == to / "hmdb51-frames" and source.flip is True
    assert len(split_videos(source, videos, "2").videos("test")) == 20
    assert sorted(path.name for path in to.iterdir() if not path.name.startswith(".")) == [
        "hmdb51", "hmdb51_org.rar", "splits.rar", "testTrainMulti_7030_splits",
    ]  # fmt: skip

    site.files.clear()
    (to / "hmdb51_org.rar").unlink()
    download(hmdb51_of(Site("http://127.0.0.1:9"), tmp_path), to)
    assert "All files already exist in" in capsys.readouterr().out


def test_a_broken_connection_goes_on_where_it_broke(site, tmp_path, capsys):
    data = make_list(site, tmp_path)
    site.break_after = 1_300_000
    download(data, tmp_path / "data", lists_only=True)

    assert [asked for _, asked in site.asked] == ["", "bytes=1300000-", "bytes=2600000-"]
    assert (tmp_path / "data/ucfTrainTestlist/trainlist02.txt").read_bytes() == b"x"
    out = capsys.readouterr().out
    assert out.count("the connection broke off at 1 MB; trying again") == 1
    assert not part_of(tmp_path / "data/lists.zip").exists()


@pytest.mark.parametrize("length", ["none", "chunked", "long"])
@pytest.mark.parametrize("ranges", [True, False])
def test_without_a_true_length_what_came_is_kept_and_the_whole_is_known(site, tmp_path, monkeypatch, length, ranges):
    """Some servers state no length, send pieces, or count wrong; what breaks off looks like an end."""
    monkeypatch.setattr(time, "sleep", lambda _: None)
    data = make_list(site, tmp_path)
    site.length, site.ranges = length, ranges
    site.break_after = 1_300_000 if ranges else 0
    download(data, tmp_path / "data", lists_only=True)
    asked = [asked for _, asked in site.asked]
    assert (tmp_path / "data/ucfTrainTestlist/trainlist02.txt").read_bytes() == b"x"
    if ranges:
        assert asked[:3] == ["", "bytes=1300000-", "bytes=2600000-"]


def test_a_file_without_a_length_and_an_end_is_not_taken(site, tmp_path):
    data = make_list(site, tmp_path)
    site.files["lists.zip"], site.length = bytes(10_000_000), "none"
    with pytest.raises(UserError, match="the file there has more than 6 MB, where 3 MB are expected"):
        download(data, tmp_path / "data", lists_only=True)
    assert not part_of(tmp_path / "data/lists.zip").exists()


def test_a_busy_server_is_waited_for_as_long_as_it_says(site, tmp_path, monkeypatch, capsys):
    waited = []
    monkeypatch.setattr(time, "sleep", waited.append)
    data = make_list(site, tmp_path)
    site.busy = [(429, "7"), (503, None)]
    download(data, tmp_path / "data", lists_only=True)
    assert [pause for pause in waited if pause] == [7.0, 30.0]
    assert "answers 429 Too Many Requests at 0 KB; trying again in 7 s" in capsys.readouterr().out
    site.busy = [(503, "7200")]
    with pytest.raises(UserError, match="answers 503 Service Unavailable and asks to come back in 2.0 h"):
        download(data, tmp_path / "other", lists_only=True)


def test_an_address_without_a_scheme_is_refused_at_once(capsys):
    with pytest.raises(SystemExit) as ended:
        downloads.main(["ucf101", "--from", "example.org/files"])
    assert ended.value.code == 2
    assert "--from: 'example.org/files' is not an address that begins with https://" in capsys.readouterr().err


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(site, tmp_path):
    """In a process of its own: killed without warning, then stopped by Ctrl-C, it keeps what it has."""
    data = make_list(site, tmp_path)
    (tmp_path / "run.py").write_text(
        "from dataloaders.download.__main__ import *\nfrom dataloaders.sources.layout import *\n"
        f"DOWNLOADS['ucf101'].download = {data.download!r}\nrun_cli(main)"
    )
    command = [sys.executable, str(tmp_path / "run.py"), "ucf101", "--lists-only", "--to", str(tmp_path / "data")]
    part = part_of(tmp_path / "data/lists.zip")
    site.wait = 0.02
    sizes = [0]
    for signum in (signal.SIGKILL, signal.SIGINT):
        process = subprocess.Popen(
            command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, text=True
        )
        while process.poll() is None and (not part.exists() or part.stat().st_size <= sizes[-1]):
            time.sleep(0.002)
        process.send_signal(signum)
        out, _ = process.communicate()
        sizes.append(part.stat().st_size)
    assert 0 < sizes[1] < sizes[2] < len(site.files["lists.zip"])
    assert process.returncode == 130 and "Stopped at" in out and "the same command continues" in out

    download(data, tmp_path / "data", lists_only=True)
    assert [asked for _, asked in site.asked] == ["", *(f"bytes={size}-" for size in sizes[1:])]
    assert (tmp_path / "data/lists.zip").read_bytes() == site.files["lists.zip"]


def test_a_server_without_ranges_begins_anew_and_says_so(site, tmp_path, capsys):
    data = make_list(site, tmp_path)
    part = part_of(tmp_path / "data/lists.zip")
    part.parent.mkdir()
    part.write_bytes(b"old" * 400_000)
    site.ranges = False
    download(data, part.parent, lists_only=True)

    assert "the server cannot resume at 1 MB; starting again" in capsys.readouterr().out
    assert (part.parent / "ucfTrainTestlist").is_dir()


@pytest.mark.parametrize(("extra", "asked"), [(b"", 1), (b"too much", 2)])
def test_a_part_that_is_whole_already_is_taken_and_one_that_is_too_long_is_not(site, tmp_path, extra, asked):
    data = make_list(site, tmp_path)
    part = part_of(tmp_path / "data/lists.zip")
    part.parent.mkdir()
    part.write_bytes(site.files["lists.zip"] + extra)
    download(data, part.parent, lists_only=True)

    assert len(site.asked) == asked and (part.parent / "ucfTrainTestlist").is_dir()


def test_what_is_not_to_be_had_is_said_with_the_steps_by_hand(site, tmp_path, capsys):
    data = make_list(site, tmp_path)
    content = site.files.pop("lists.zip")
    host = site.url.removeprefix("http://")
    with pytest.raises(UserError, match=f"lists.zip could not be fetched: {host} answers 404 Not Found"):
        download(data, tmp_path / "data", lists_only=True)
    out = capsys.readouterr().out
    assert f"fetch {site.url}/lists.zip  (" in out and f"to    {tmp_path}/data/lists.zip" in out

    site.files["lists.zip"], site.kind = b"<html>" * 500_000, "text/html"
    with pytest.raises(UserError, match="sent a web page instead of lists.zip"):
        download(data, tmp_path / "data", lists_only=True)
    site.files["lists.zip"], site.kind = b"short", "application/zip"
    with pytest.raises(UserError, match="the file there has 0 KB, where 3 MB are expected"):
        download(data, tmp_path / "data", lists_only=True)

    (tmp_path / "data/lists.zip").write_bytes(content)  # fetched by hand
    download(data, tmp_path / "data", lists_only=True)
    assert f'"splits": "{tmp_path}/data/ucfTrainTestlist",' in capsys.readouterr().out


def test_a_second_address_is_tried(site, tmp_path, capsys):
    data = make_list(site, tmp_path)
    lists = replace(data.download.lists, urls=("http://127.0.0.1:9/lists.zip", *data.download.lists.urls))
    data = with_download("ucf101", replace(data.download, lists=lists))
    download(data, tmp_path / "data", lists_only=True)

    assert "127.0.0.1:9 refused the connection" in capsys.readouterr().out


def test_a_changed_file_is_not_unpacked(site, tmp_path):
    data = make_list(site, tmp_path)
    site.files["lists.zip"] = site.files["lists.zip"][:-1] + b"?"
    with pytest.raises(UserError, match=r"lists.zip \(3 MB\) is not the official archive.*--from URL"):
        download(data, tmp_path / "data", lists_only=True)
    assert not (tmp_path / "data/ucfTrainTestlist").exists()


def test_a_disk_that_is_too_small_or_full_is_said_with_the_space_it_needs(site, tmp_path):
    data = make_list(site, tmp_path)
    huge = with_download(
        "ucf101", Download(data.download.page, data.download.videos, data.download.lists, 1, 1, 1, 10**18)
    )
    with pytest.raises(UserError, match="The disk of .*data has .* free, and 1000000000.0 GB are needed"):
        download(huge, tmp_path / "data")
    assert site.asked == []

    part = part_of(tmp_path / "data/lists.zip")
    if not Path("/dev/full").exists():
        pytest.skip("no /dev/full here")
    part.symlink_to("/dev/full")  # takes nothing, as a full disk
    with pytest.raises(UserError, match=r"The disk of .*data is full. .*about 3 MB more for lists.zip"):
        download(data, tmp_path / "data", lists_only=True)


def test_a_server_that_cannot_prove_who_it_is_is_refused(tmp_path, capsys):
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl makes the certificate of this test")
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = (
        f"{openssl} req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -keyout {key} -out {certificate}"
    )
    subprocess.run(command.split(), check=True, capture_output=True)
    (tmp_path / "site").mkdir()
    handler = lambda *args: http.server.SimpleHTTPRequestHandler(*args, directory=str(tmp_path / "site"))  # noqa: E731
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    site = Site(f"https://127.0.0.1:{server.server_address[1]}")
    data = make_list(site, tmp_path)
    (tmp_path / "site/lists.zip").write_bytes(site.files["lists.zip"])
    try:
        with pytest.raises(
            UserError, match=r"certificate of 127.* cannot be verified \(self.signed.*--no-check-certif"
        ):
            download(data, tmp_path / "data", lists_only=True)
        download(data, tmp_path / "data", lists_only=True, check_certificate=False)
        assert (tmp_path / "data/ucfTrainTestlist").is_dir()
    finally:
        server.shutdown()
        server.server_close()


def test_something_else_in_the_place_of_the_videos_is_left_alone(site, tmp_path):
    data = hmdb51_of(site, tmp_path)
    (tmp_path / "data/hmdb51/wave").mkdir(parents=True)
    (tmp_path / "data/hmdb51/wave/mine.avi").write_bytes(b"x")

    with pytest.raises(UserError, match="hmdb51 has 1 of 60 videos in 1 of 2 classes. Move it away, or choose another"):
        download(data, tmp_path / "data")
    assert site.asked == []


def test_without_an_unpacker_nothing_is_fetched_and_one_is_named(site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match=r"No program here unpacks .rar. Install .* Then give the same command again"):
        download(hmdb51_of(site, tmp_path), tmp_path / "data")
    assert site.asked == []

    (tmp_path / "a.rar").write_bytes(stored_rar({"run/a.avi": b"x"}))
    with pytest.raises(UserError, match=r"No program here unpacks .*a.rar. Install"):
        unpack(tmp_path / "a.rar", tmp_path / "out")


def test_a_program_that_cannot_is_quoted(tmp_path, monkeypatch):
    """7-Zip is there on many machines without its part for .rar."""
    program = tmp_path / "bin/7z"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho 'ERROR: cannot open the file as archive' >&2\nexit 2\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(program.parent), prepend=None)
    (tmp_path / "a.rar").write_bytes(stored_rar({"run/a.avi": b"x"}))

    with pytest.raises(UserError, match="7z: ERROR: cannot open the file as archive"):
        unpack(tmp_path / "a.rar", tmp_path / "out")


@pytest.mark.skipif(not rar_tools(), reason="no program for .rar here")
def test_hmdb51_is_unpacked_from_a_rar_of_rars(site, tmp_path):
    download(hmdb51_of(site, tmp_path, lambda _, files: stored_rar(files)), tmp_path / "data")

    source = find_source(str(tmp_path / "data/hmdb51"), {}, ROOT)
    assert source.layout == "hmdb51" and len(find_videos(source)) == 60
    assert not list((tmp_path / "data").glob(".*.part"))


def test_the_real_data_sets_are_described_whole():
    assert set(DOWNLOADS) == {"ucf101", "hmdb51"}
    for data in DOWNLOADS.values():
        for archive in (data.download.videos, data.download.lists):
            assert re.fullmatch("[0-9a-f]{64}", archive.sha256)
            assert all(url.startswith("https://") and url.endswith(archive.name) for url in archive.urls)
