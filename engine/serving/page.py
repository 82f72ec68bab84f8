"""The page at /: one file that asks for nothing from outside."""

import base64
import hashlib
from dataclasses import dataclass
from pathlib import Path
from string import Template

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Page:
    html: str
    headers: dict[str, str]


def load_page() -> Page:
    """page.html with its style and script in it. The browser runs this one script and no other, whatever the names of
    classes and files contain, and sends the video nowhere else."""
    style, script = ((HERE / f"page.{kind}").read_text(encoding="utf-8") for kind in ("css", "js"))
    html = Template((HERE / "page.html").read_text(encoding="utf-8")).substitute(style=style, script=script)
    policy = (
        f"default-src 'none'; style-src '{_hash(style)}'; script-src '{_hash(script)}'; connect-src 'self'; "
        "media-src blob:; img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )
    headers = {
        "Content-Security-Policy": policy,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cache-Control": "no-cache",
    }
    return Page(html, headers)


def _hash(text: str) -> str:
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"
