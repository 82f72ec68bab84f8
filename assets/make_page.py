"""Takes the picture of serve.py's page in docs/serving.md. Needs Chromium and chromedriver.

python assets/make_page.py run/r3d_10-demo-000 .cache/demo/videos/*/v_*_g01_c01.avi --output assets/serve.png
"""

import argparse
import base64
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from dataloaders.video import decode_frames
from inference import Recognizer
from tests.helpers.browser import browser
from tests.helpers.service import running
from tests.helpers.toy import write_video


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint")
    parser.add_argument("videos", nargs="+", type=Path, help="joined into one video")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        video = Path(folder) / "motions.webm"
        write_video(video, (frame for path in args.videos for frame in decode_frames(path)), codec="libvpx")
        with running(Recognizer(args.checkpoint)) as server, browser(Path(folder) / "profile", 960, 860) as page:
            page.open(server.address)
            page.type("#file", str(video))
            while page.run("return $('result').hidden || video.readyState < 2"):
                time.sleep(0.1)
            page.run("seek(0.55 * result.length)")
            while page.run("return video.seeking"):
                time.sleep(0.1)
            page.run("video.controls = false")  # they would hide the picture
            page.run("document.activeElement.blur()")
            args.output.write_bytes(base64.b64decode(page.screenshot()))
    print(f"{args.output}: {args.output.stat().st_size // 1024} KB")


if __name__ == "__main__":
    main()
