"""A white sheet to draw on, as an SVG file, for the pictures of networks.md.

Plain Python: a drawing is a list of SVG elements. The background is white and rounded, so that a picture reads the same
on a light page and on a dark one. Colours mean the same everywhere: blue is space, orange is time, green is both.
"""

from xml.sax.saxutils import escape

INK, GREY, PALE, LINE = "#1f2937", "#6b7280", "#f3f4f6", "#9ca3af"
SPACE, TIME, BOTH = ("#dbeafe", "#2563eb"), ("#ffedd5", "#ea580c"), ("#dcfce7", "#16a34a")  # fill, edge
PLAIN = (PALE, LINE)
MARKS = {SPACE: "#93c5fd", TIME: "#fb923c", BOTH: "#86efac"}  # for single cells, which need a stronger fill
RED = "#dc2626"

Colours = tuple[str, str]


class Drawing:
    """SVG elements on a white sheet. Lengths are in pixels, y grows downwards."""

    def __init__(self, width: int, height: int, title: str):
        self.width, self.height, self.title = width, height, title
        self.elements: list[str] = []

    def rect(self, x: float, y: float, width: float, height: float, colours: Colours = PLAIN, radius: float = 6):
        fill, edge = colours
        self.elements.append(
            f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="{radius:g}" '
            f'fill="{fill}" stroke="{edge}"/>'
        )

    def polygon(self, points: list[tuple[float, float]], fill: str, edge: str):
        pairs = " ".join(f"{x:g},{y:g}" for x, y in points)
        self.elements.append(f'<polygon points="{pairs}" fill="{fill}" stroke="{edge}" stroke-linejoin="round"/>')

    def write(
        self,
        x: float,
        y: float,
        text: str,
        size: int = 13,
        colour: str = INK,
        anchor: str = "middle",
        bold: bool = False,
    ):
        weight = ' font-weight="bold"' if bold else ""
        self.elements.append(
            f'<text x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}" text-anchor="{anchor}"{weight}>'
            f"{escape(text)}</text>"
        )

    def path(self, points: list[tuple[float, float]], colour: str = GREY, arrow: bool = True):
        """A line through the points, with a head at the last one."""
        steps = " L".join(f"{x:g} {y:g}" for x, y in points)
        head = ' marker-end="url(#head)"' if arrow else ""
        self.elements.append(f'<path d="M{steps}" fill="none" stroke="{colour}" stroke-width="1.5"{head}/>')

    def box(self, x: float, y: float, width: float, height: float, text: str, colours: Colours = PLAIN, size: int = 13):
        """A rectangle with text in its middle."""
        self.rect(x, y, width, height, colours)
        self.write(x + width / 2, y + height / 2 + size * 0.35, text, size)

    def text(self) -> str:
        body = "\n".join(self.elements)
        return (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{self.width}" height="{self.height}" '
            f'viewBox="0 0 {self.width} {self.height}" font-family="Helvetica, Arial, sans-serif" role="img">\n'
            f"<title>{escape(self.title)}</title>\n"
            '<defs><marker id="head" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" markerHeight="7" '
            f'orient="auto"><path d="M0 0 L8 4 L0 8 z" fill="{GREY}"/></marker></defs>\n'
            f'<rect width="{self.width}" height="{self.height}" rx="14" fill="white"/>\n{body}\n</svg>\n'
        )
