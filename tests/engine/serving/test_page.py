"""The page in a real browser, with real uploads."""

import threading
from base64 import b64decode, b64encode
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="pip install fastapi uvicorn python-multipart")

from dataloaders.video import decode_frames
from engine.runs.checkpoint import save_checkpoint
from inference import Recognizer
from tests.helpers.browser import Browser, browser, missing
from tests.helpers.recognizer import content_of
from tests.helpers.service import LIMITS, Gate, running, wait_until
from tests.helpers.toy import write_naming_video

pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(missing()), reason=missing())]

NAMES = ["<img src=x onerror=alert(1)>", "Clean & Jerk", "</script><b>", "'\"", "Übung", "Golf"]


@pytest.fixture(scope="module")
def recognizer(tmp_path_factory) -> Recognizer:
    """Its classes are called what nobody should call a class."""
    path = tmp_path_factory.mktemp("run") / "best.pth"
    save_checkpoint(path, content_of(classes=NAMES))
    return Recognizer(path, device="cpu", stride=3, amp="off")


@pytest.fixture(scope="module")
def videos(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("videos")
    webm = write_naming_video(folder / "<b>clip & co.webm", 60, codec="libvpx")
    return {"webm": webm, "avi": write_naming_video(folder / "clip.avi", 60)}


@pytest.fixture(scope="module")
def server(recognizer):
    with running(recognizer, LIMITS) as server:
        yield server


@pytest.fixture(scope="module")
def desktop(tmp_path_factory):
    with browser(tmp_path_factory.mktemp("profile")) as desktop:
        yield desktop


def upload(page: Browser, address: str, video: Path) -> None:
    page.open(address)
    wait_until(lambda: page.run("return model !== null"))
    page.type("#file", str(video))
    wait_until(lambda: page.run("return !$('result').hidden || !$('problem').hidden"))


def text(page: Browser, selector: str) -> list[str]:
    return page.run("return [...document.querySelectorAll(arguments[0])].map(found => found.textContent)", selector)


def test_a_video_is_played_with_its_labels_over_time(desktop, server, recognizer, videos):
    upload(desktop, server.address, videos["webm"])
    prediction = recognizer.predict(videos["webm"])
    [(label, probability)] = prediction.top(1)
    assert text(desktop, "#label") == [f"{label}, {100 * probability:.1f}\N{NO-BREAK SPACE}%"]
    assert text(desktop, "#facts") == ["<b>clip & co.webm · 2.4 s · 60 frames at 25 fps · 18 windows"]
    titles = desktop.run("return [...$('segments').children].map(segment => segment.title)")
    assert [title.rpartition(", ")[0].rpartition(", ")[0] for title in titles] == [
        segment["label"] for segment in prediction.timeline()
    ]
    whole = [name for name, _ in prediction.top(5)]
    assert text(desktop, "#whole .name span:first-child") == whole

    wait_until(lambda: desktop.run("return video.readyState") >= 2)
    for share in (0.3, 0.7):
        desktop.run(
            "const box = timeline.getBoundingClientRect(), at = { clientX: box.left + arguments[0] * box.width,"
            "pointerId: 1 }; timeline.setPointerCapture = () => 0;"
            "timeline.dispatchEvent(new PointerEvent('pointerdown', at))",
            share,
        )
        wait_until(lambda: not desktop.run("return video.seeking"))
        assert desktop.run("return video.currentTime") == pytest.approx(share * 2.4, abs=0.05)
        probs = prediction.at(int(share * 60))
        best = sorted(range(6), key=lambda i: -probs[i])
        assert text(desktop, "#bars .name span:first-child") == [NAMES[i] for i in best[:5]]
        assert text(desktop, "#bars .name span:last-child")[0] == f"{100 * probs[best[0]]:.1f}\N{NO-BREAK SPACE}%"

    desktop.run("video.currentTime = 0; video.play()")
    wait_until(lambda: float(desktop.run("return timeline.getAttribute('aria-valuenow')")) > 1)
    assert desktop.messages() == []
    loaded = desktop.run("return performance.getEntriesByType('resource').map(entry => entry.name)")
    assert all(name.startswith((server.address, "blob:")) for name in loaded), "nothing comes from elsewhere"


def test_what_the_browser_cannot_play_is_shown_as_pictures(desktop, server, videos):
    upload(desktop, server.address, videos["avi"])
    assert desktop.run("return video.hidden && !$('still').hidden && $('unplayable').hidden")
    frames = list(decode_frames(videos["avi"]))
    for frame in (0, 40):
        desktop.run("seek(arguments[0])", (frame + 0.5) / 25)
        assert desktop.run("return $('picture').alt") == f"Frame {frame}"
        wait_until(lambda: desktop.run("return $('picture').complete"))
        shown = desktop.run(
            "const canvas = document.createElement('canvas'), picture = $('picture');"
            "[canvas.width, canvas.height] = [picture.naturalWidth, picture.naturalHeight];"
            "const context = canvas.getContext('2d'); context.drawImage(picture, 0, 0);"
            "return [canvas.height, canvas.width, [...context.getImageData(0, 0, canvas.width, canvas.height).data]]"
        )
        pixels = np.array(shown[2]).reshape(shown[0], shown[1], 4)[..., :3]
        assert np.abs(pixels - frames[frame]).mean() < 5

    desktop.run("seek(0)")
    desktop.click("#play")
    wait_until(lambda: float(desktop.run("return timeline.getAttribute('aria-valuenow')")) > 0.5)
    desktop.click("#play")
    assert desktop.run("return [$('play').textContent, 'pictures' in result.answer]") == ["Play", False]
    assert desktop.messages() == []
    upload(desktop, server.address, videos["webm"])
    assert desktop.run("return !video.hidden && $('still').hidden")


def test_the_page_says_which_actions_there_are(desktop, server):
    desktop.open(server.address)
    wait_until(lambda: desktop.run("return model !== null"))
    assert text(desktop, "#about summary") == ["r3d_10: 6 classes"]
    assert text(desktop, "#about p") == [", ".join(NAMES)]
    assert not desktop.run("return $('about').open")
    desktop.click("#about summary")
    assert desktop.run("return $('about').open")


def test_a_video_may_be_dropped_on_the_page(desktop, server, videos):
    desktop.open(server.address)
    wait_until(lambda: desktop.run("return model !== null"))
    desktop.run(
        "const bytes = Uint8Array.from(atob(arguments[0]), letter => letter.charCodeAt(0)), drag = new DataTransfer();"
        "drag.items.add(new File([bytes], 'dropped.webm')); document.body.dispatchEvent("
        "new DragEvent('drop', { dataTransfer: drag, bubbles: true, cancelable: true }))",
        b64encode(videos["webm"].read_bytes()).decode(),
    )
    wait_until(lambda: desktop.run("return !$('result').hidden"))
    assert text(desktop, "#facts")[0].startswith("dropped.webm · 2.4 s")


def test_where_neither_video_nor_pictures_can_be_shown_there_is_the_timeline(desktop, server, recognizer, videos):
    upload(desktop, server.address, videos["avi"])
    desktop.run("show({ ...result.answer, pictures: [] }, lastFile)")
    wait_until(lambda: desktop.run("return video.hidden && !$('unplayable').hidden && $('still').hidden"))
    desktop.type("#timeline", "\ue010")  # End
    last = recognizer.predict(videos["avi"]).at(59)
    assert text(desktop, "#bars .name span:first-child")[0] == NAMES[int(last.argmax())]
    assert desktop.run("return timeline.getAttribute('aria-valuetext')").startswith("2.4 s: ")


def test_what_the_server_says_is_shown(desktop, server, tmp_path):
    (tmp_path / "<i>notes.mp4").write_text("no video")
    upload(desktop, server.address, tmp_path / "<i>notes.mp4")
    assert text(desktop, "#reason") == ["<i>notes.mp4: This cannot be used as a video: it cannot be opened as a video."]
    (tmp_path / "large.mp4").write_bytes(bytes(400_000))
    upload(desktop, server.address, tmp_path / "large.mp4")
    assert text(desktop, "#reason") == ["large.mp4 has 0.4 MB, and this server takes at most 0.3 MB."]
    assert desktop.run("return $('result').hidden && $('again').hidden")


def drop(page: Browser, files: list[tuple[str, str, bytes]]) -> None:
    """(name, type, content) of each file that is dropped at once."""
    page.run(
        "const drag = new DataTransfer(); for (const [name, type, content] of arguments[0]) {"
        "const bytes = Uint8Array.from(atob(content), letter => letter.charCodeAt(0));"
        "drag.items.add(new File([bytes], name, { type })); }"
        "document.body.dispatchEvent(new DragEvent('drop', { dataTransfer: drag, bubbles: true, cancelable: true }))",
        [[name, kind, b64encode(content).decode()] for name, kind, content in files],
    )


def test_several_videos_are_answered_one_after_the_other(desktop, server, recognizer, videos, tmp_path):
    desktop.open(server.address)
    wait_until(lambda: desktop.run("return model !== null"))
    first, second = videos["webm"], videos["avi"]
    drop(
        desktop,
        [
            ("first.webm", "video/webm", first.read_bytes()),
            ("notes.txt", "text/plain", b"no video"),
            ("broken.mp4", "video/mp4", b"no video"),
            ("second.avi", "video/x-msvideo", second.read_bytes()),
        ],
    )
    wait_until(lambda: desktop.run("return !working && entries.length === 4"))
    lines = [prediction.label() for prediction in map(recognizer.predict, (first, second))]
    said = text(desktop, "#queue li span:last-child")
    assert said[0].startswith(lines[0]) and said[3].startswith(lines[1])
    assert said[1] == "notes.txt is not a video."
    assert said[2] == "This cannot be used as a video: it cannot be opened as a video."
    assert text(desktop, "#facts")[0].startswith("first.webm")
    (tmp_path / "queue.png").write_bytes(b64decode(desktop.screenshot()))
    desktop.click("#queue li:last-child button")
    assert text(desktop, "#facts")[0].startswith("second.avi")
    assert desktop.run("return $('problem').hidden")
    upload(desktop, server.address, videos["webm"])
    assert desktop.run("return $('queue').hidden"), "one video needs no list"


def test_what_is_dropped_and_no_video_has_words_of_its_own(desktop, server):
    desktop.open(server.address)
    wait_until(lambda: desktop.run("return model !== null"))
    before = server.client.get("/health").json()
    drop(desktop, [("notes.txt", "text/plain", b"no video")])
    wait_until(lambda: not desktop.run("return $('problem').hidden"))
    assert text(desktop, "#reason") == ["notes.txt is not a video."]
    desktop.run(
        "const entry = { isDirectory: true, name: 'films' }, drag = { types: ['Files'], files: [],"
        "items: [{ webkitGetAsEntry: () => entry }] }, event = new Event('drop', { bubbles: true });"
        "Object.defineProperty(event, 'dataTransfer', { value: drag }); document.body.dispatchEvent(event)"
    )
    assert text(desktop, "#reason") == ["films is a folder. Drop the videos in it."]
    after = server.client.get("/health").json()
    assert before["refused"] == after["refused"], "nothing was sent"


def test_an_upload_can_be_cancelled(desktop, recognizer, videos):
    gate = Gate(recognizer)
    with running(gate, LIMITS) as server:
        desktop.open(server.address)
        desktop.type("#file", str(videos["avi"]))
        wait_until(lambda: server.service.num_there == 1)
        wait_until(lambda: text(desktop, "#state") == ["Looking at clip.avi ..."])
        desktop.click("#cancel")
        wait_until(lambda: server.service.num_there == 0)
        assert desktop.run("return $('busy').hidden && $('problem').hidden && $('result').hidden")
        gate.open.set()
        desktop.open("about:blank")


def test_a_page_from_elsewhere_gets_no_work_done(desktop, server, videos):
    """A browser sends a form to any address, whatever page asks it to."""
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), SimpleHTTPRequestHandler)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    desktop.open(f"http://127.0.0.1:{elsewhere.server_port}/nothing")
    before = server.client.get("/health").json()
    desktop.run(
        "const bytes = Uint8Array.from(atob(arguments[1]), letter => letter.charCodeAt(0)), form = new FormData();"
        "form.append('video', new File([bytes], 'clip.avi'));"
        "fetch(arguments[0], { method: 'POST', mode: 'no-cors', body: form })",
        f"{server.address}/predict",
        b64encode(videos["avi"].read_bytes()).decode(),
    )
    wait_until(lambda: server.client.get("/health").json()["refused"] == before["refused"] + 1)
    assert server.client.get("/health").json()["answered"] == before["answered"]
    elsewhere.shutdown()
    elsewhere.server_close()


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_of_it_in_its_width(server, videos, tmp_path, dark):
    with browser(tmp_path / "profile", 360, 740, dark) as phone:
        upload(phone, server.address, videos["webm"])
        assert phone.run("return [innerWidth, document.documentElement.scrollWidth]") == [360, 360]
        assert phone.run("return matchMedia('(prefers-color-scheme: dark)').matches") is dark
        background = phone.run("return getComputedStyle(document.body).backgroundColor")
        assert background == ("rgb(25, 25, 25)" if dark else "rgb(255, 255, 255)")
        narrow = phone.run("return [...document.querySelectorAll('.columns > div')].map(part => part.offsetTop)")
        assert narrow[0] < narrow[1], "one below the other"
