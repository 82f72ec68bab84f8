"""Draws the pictures of networks.md as SVG files beside this script.

python docs/draw_networks.py
"""

from pathlib import Path

from sheet import BOTH, GREY, INK, LINE, MARKS, PLAIN, RED, SPACE, TIME, Colours, Drawing


def main() -> None:
    folder = Path(__file__).resolve().parent
    for name, draw in DRAWINGS.items():
        path = folder / f"{name}.svg"
        path.write_text(draw().text(), encoding="utf-8")
        print(f"{path.relative_to(folder.parent)}  {path.stat().st_size:,} bytes")


# --- 1: what a convolution looks at

CELL, CELLS = 11, 5
FRAME = CELL * CELLS
GAP = 12
NUM_FRAMES = 5


def draw_frames(drawing: Drawing, x: float, y: float, marks: dict[int, int], colours: Colours) -> float:
    """Five frames side by side, in frame t a square of marks[t] x marks[t] cells. Returns the right end."""
    for t in range(NUM_FRAMES):
        left = x + t * (FRAME + GAP)
        drawing.rect(left, y, FRAME, FRAME, ("white", LINE), radius=0)
        side = marks.get(t, 0)
        start = (CELLS - side) // 2
        if side:
            drawing.rect(
                left + start * CELL, y + start * CELL, side * CELL, side * CELL, (MARKS[colours], colours[1]), radius=0
            )
        for i in range(1, CELLS):
            at = i * CELL
            drawing.path([(left + at, y), (left + at, y + FRAME)], "#d1d5db", arrow=False)
            drawing.path([(left, y + at), (left + FRAME, y + at)], "#d1d5db", arrow=False)
    return x + NUM_FRAMES * (FRAME + GAP) - GAP


def draw_kernels() -> Drawing:
    drawing = Drawing(870, 640, "What a 2D, a 3D and a (2+1)D convolution look at in a clip of five frames")
    left, arrow = 30, 46

    def row(y: float, title: str, note: str, steps: list[tuple[dict[int, int], Colours, str]], single: bool) -> None:
        drawing.write(left, y, title, 16, anchor="start", bold=True)
        drawing.write(left, y + 20, note, 13, GREY, anchor="start")
        x, top = left, y + 56
        for i, (marks, colours, label) in enumerate(steps):
            drawing.write(x, top - 12, ["clip, 64 channels", "between, 144 channels"][i], 12, GREY, anchor="start")
            end = draw_frames(drawing, x, top, marks, colours)
            drawing.path([(end + 6, top + FRAME / 2), (end + arrow - 6, top + FRAME / 2)])
            drawing.write((x + end) / 2, top + FRAME + 20, label, 13, colours[1])
            x = end + arrow
        if single:
            drawing.rect(x, top, FRAME, FRAME, ("white", LINE), radius=0)
            drawing.rect(x + 2 * CELL, top + 2 * CELL, CELL, CELL, ("#4b5563", "#4b5563"), radius=0)
            drawing.write(x + FRAME / 2, top + FRAME + 20, "one value of", 12, GREY)
            drawing.write(x + FRAME / 2, top + FRAME + 36, "64 channels out", 12, GREY)

    middle, three = {2: 3}, {1: 3, 2: 3, 3: 3}
    row(
        46,
        "2D: 3x3",
        "9 values of one frame (in each channel). 9·64·64 = 36,864 weights. No motion is in sight.",
        [(middle, SPACE, "3x3 in frame t")],
        True,
    )
    row(
        246,
        "3D: 3x3x3",
        "27 values of three frames, weighed together. 27·64·64 = 110,592 weights. It can answer to an edge that moves.",
        [(three, BOTH, "3x3 in frames t-1, t, t+1")],
        True,
    )
    row(
        446,
        "(2+1)D: 1x3x3, then 3x1x1",
        "The same 27 values in two steps, a ReLU between. 9·64·144 + 3·144·64 = 82,944 + 27,648 = 110,592 weights.",
        [(three, SPACE, "1x3x3 in each frame by itself"), ({1: 1, 2: 1, 3: 1}, TIME, "3x1x1: one place, three frames")],
        True,
    )
    drawing.path([(left, 616), (left + 5 * FRAME + 4 * GAP, 616)], LINE)
    drawing.write(left + 5 * FRAME + 4 * GAP + 12, 620, "time", 12, GREY, anchor="start")
    return drawing


# --- 2: C3D


def draw_cuboid(drawing: Drawing, x: float, base: float, side: float, depth: float, colours: Colours) -> float:
    """A block that stands on `base`: its front is side x side, its depth time. Returns the y of its top."""
    fill, edge = colours
    dx, dy = depth, depth * 0.6
    top = base - side
    drawing.polygon([(x, top), (x + dx, top - dy), (x + side + dx, top - dy), (x + side, top)], fill, edge)
    drawing.polygon(
        [(x + side, base), (x + side + dx, base - dy), (x + side + dx, top - dy), (x + side, top)], fill, edge
    )
    drawing.polygon([(x, base), (x + side, base), (x + side, top), (x, top)], "white", edge)
    drawing.polygon([(x, base), (x + side, base), (x + side, top), (x, top)], fill, edge)
    return top - dy


# name, channels, frames, rows and columns, what comes after it
C3D_BLOCKS = [
    ("clip", 3, 16, 112, ""),
    ("conv1", 64, 16, 112, "pool1 1x2x2"),
    ("conv2", 128, 16, 56, "pool2 2x2x2"),
    ("conv3a, 3b", 256, 8, 28, "pool3 2x2x2"),
    ("conv4a, 4b", 512, 4, 14, "pool4 2x2x2"),
    ("conv5a, 5b", 512, 2, 7, "pool5 2x2x2"),
    ("after pool5", 512, 1, 4, ""),
]


def draw_c3d() -> Drawing:
    drawing = Drawing(1080, 330, "C3D as blocks, with the shape after each convolution")
    x, base = 30.0, 200.0
    for i, (name, channels, frames, size, after) in enumerate(C3D_BLOCKS):
        side, depth = 12 + size * 0.78, 2 + frames * 2.2
        column = max(side + depth, 82)
        left = x + (column - side - depth) / 2
        colours = (BOTH if name.startswith("conv") else PLAIN) if i else PLAIN
        draw_cuboid(drawing, left, base, side, depth, colours)
        centre = x + column / 2
        drawing.write(centre, base + 26, name, 13, bold=True)
        drawing.write(centre, base + 44, f"{channels} channels", 12, GREY)
        drawing.write(centre, base + 60, f"{frames} x {size} x {size}", 12, GREY)
        if i + 1 < len(C3D_BLOCKS):
            gap = 28
            drawing.path([(x + column + 3, base - 8), (x + column + gap - 3, base - 8)])
            if after:
                middle = x + column + gap / 2
                drawing.path([(middle, base), (middle, base + 70)], "#d1d5db", arrow=False)
                drawing.write(middle, base + 84, after, 12, BOTH[1] if "2x2x2" in after else SPACE[1])
            x += column + gap
    end = x + 82

    drawing.path([(end + 3, base - 8), (end + 25, base - 8)])
    drawing.write(end + 68, base + 26, "8192 in a row", 12, GREY)
    for i, (name, size) in enumerate([("fc6", "4096"), ("fc7", "4096"), ("fc8", "classes")]):
        top = base - 24 - i * 48
        drawing.box(end + 30, top, 76, 32, f"{name}  {size}", PLAIN, 12)
        if i:
            drawing.path([(end + 68, top + 47), (end + 68, top + 34)])

    drawing.write(30, 36, "C3D", 16, anchor="start", bold=True)
    drawing.write(76, 36, "front: height and width; depth: frames (not to scale)", 13, GREY, anchor="start")
    drawing.write(
        30,
        312,
        "Each convolution is 3x3x3 with padding 1, so it keeps frames, rows and columns. Only poolings shrink them; "
        "pool1 alone leaves time as it is.",
        13,
        GREY,
        anchor="start",
    )
    return drawing


# --- 3: pool5


def draw_pool5() -> Drawing:
    drawing = Drawing(860, 360, "Windows of pool5 over seven rows: Caffe's ceil mode, symmetric padding, floor mode")
    cell, step = 40, 100
    x0 = 250

    def row(y: float, name: str, note: str, windows: list[tuple[int, int]], colour: Colours, result: str) -> None:
        drawing.write(30, y + 18, name, 15, anchor="start", bold=True)
        drawing.write(30, y + 38, note, 12, GREY, anchor="start")
        for first, last in windows:
            left = x0 + first * cell
            drawing.rect(left + 3, y - 8, (last - first + 1) * cell - 6, cell + 16, (colour[0], colour[1]), radius=8)
        for i in range(7):
            drawing.rect(x0 + i * cell + 8, y, cell - 16, cell, ("white", LINE), radius=4)
            drawing.write(x0 + i * cell + cell / 2, y + 25, str(i), 14)
        for i in (-1, 7):
            if any(first <= i <= last for first, last in windows):
                drawing.write(x0 + i * cell + cell / 2, y + 25, "pad", 11, GREY)
        drawing.write(x0 + 8 * cell + 16, y + 25, result, 13, GREY, anchor="start")

    drawing.write(30, 36, "pool5: windows of two over rows 0 to 6 (columns are cut the same way)", 15, anchor="start")
    row(step * 0 + 80, "ceil", "Caffe's, and ours", [(0, 1), (2, 3), (4, 5), (6, 6)], BOTH, "4 rows, fc6 gets 8192")
    row(step * 1 + 80, "symmetric", "many ports", [(-1, 0), (1, 2), (3, 4), (5, 6)], SPACE, "4 rows, other values")
    row(step * 2 + 80, "floor", "PyTorch's default", [(0, 1), (2, 3), (4, 5)], TIME, "3 rows, row 6 is lost")
    return drawing


# --- 4: one network, one convolution for each stage


def draw_stages() -> Drawing:
    drawing = Drawing(1080, 400, "R3D, MC3 and R(2+1)D: the convolution of each stage and the shape that leaves it")
    x0, width, height, gap = 130, 130, 50, 18
    columns = ["stem", "layer1", "layer2", "layer3", "layer4", "mean, fc"]
    sizes = [(64, 56), (64, 56), (128, 28), (256, 14), (512, 7)]
    rows = [
        ("r3d_18", ["3x7x7"] + ["3x3x3"] * 4, [BOTH] * 5, [16, 16, 8, 4, 2]),
        ("mc3_18", ["3x7x7", "3x3x3"] + ["1x3x3"] * 3, [BOTH] * 2 + [SPACE] * 3, [16] * 5),
        ("r2plus1d_18", ["1x7x7 + 3x1x1"] + ["1x3x3 + 3x1x1"] * 4, [None] * 5, [16, 16, 8, 4, 2]),
    ]
    for i, column in enumerate(columns):
        drawing.write(x0 + i * (width + gap) + width / 2, 62, column, 14, bold=True)
    drawing.write(30, 32, "A clip of 3 x 16 x 112 x 112 goes through", 15, anchor="start")

    for r, (name, kernels, colours, frames) in enumerate(rows):
        y = 80 + r * 92
        drawing.write(30, y + height / 2 + 5, name, 14, anchor="start", bold=True)
        for i, kernel in enumerate(kernels):
            x = x0 + i * (width + gap)
            colour = colours[i]
            if colour:
                drawing.box(x, y, width, height, kernel, colour)
            else:
                first, second = kernel.split(" + ")
                drawing.box(x, y, width / 2 - 2, height, first, SPACE)
                drawing.box(x + width / 2 + 2, y, width / 2 - 2, height, second, TIME)
            channels, size = sizes[i]
            changes = r == 1 and i > 1
            shape = f"{channels} x {frames[i]} x {size} x {size}"
            drawing.write(x + width / 2, y + height + 20, shape, 12, RED if changes else GREY)
            drawing.path([(x + width + 2, y + height / 2), (x + width + gap - 2, y + height / 2)])
        drawing.box(x0 + 5 * (width + gap), y, width, height, "512, then classes", PLAIN, 12)

    for i, (colours, label) in enumerate([(BOTH, "space and time"), (SPACE, "space"), (TIME, "time")]):
        x = x0 + i * 150
        drawing.rect(x, 364, 16, 16, colours, radius=3)
        drawing.write(x + 24, 377, label, 12, GREY, anchor="start")
    drawing.write(x0 + 450, 377, "MC3's last three stages keep all 16 frames", 12, RED, anchor="start")
    return drawing


# --- 5: two residual blocks


def mid_width(in_channels: int, out_channels: int) -> int:
    return 27 * in_channels * out_channels // (9 * in_channels + 3 * out_channels)


def draw_blocks() -> Drawing:
    drawing = Drawing(980, 690, "The first block of layer2: R3D's beside R(2+1)D's")
    mid = mid_width(64, 128)
    r3d = [
        ("3x3x3 /2, 64 → 128", BOTH, "128 x 8 x 28 x 28"),
        ("batch norm, ReLU", PLAIN, ""),
        ("3x3x3, 128 → 128", BOTH, "128 x 8 x 28 x 28"),
        ("batch norm", PLAIN, ""),
    ]
    r2plus1d = [
        (f"1x3x3 /1x2x2, 64 → {mid}", SPACE, f"{mid} x 16 x 28 x 28"),
        ("batch norm, ReLU", PLAIN, ""),
        (f"3x1x1 /2x1x1, {mid} → 128", TIME, "128 x 8 x 28 x 28"),
        ("batch norm, ReLU", PLAIN, ""),
        (f"1x3x3, 128 → {mid}", SPACE, f"{mid} x 8 x 28 x 28"),
        ("batch norm, ReLU", PLAIN, ""),
        (f"3x1x1, {mid} → 128", TIME, "128 x 8 x 28 x 28"),
        ("batch norm", PLAIN, ""),
    ]
    draw_block(drawing, 40, "R3D", r3d, 110)
    draw_block(drawing, 520, "R(2+1)D", r2plus1d, 54)
    return drawing


def draw_block(drawing: Drawing, left: float, title: str, layers: list[tuple[str, Colours, str]], step: float) -> None:
    width, height, top, bottom = 190, 32, 84, 566
    centre = left + width / 2
    drawing.write(left, 36, title, 16, anchor="start", bold=True)
    drawing.write(centre, top - 8, "64 x 16 x 56 x 56", 12, GREY)

    last = top
    for i, (text, colours, shape) in enumerate(layers):
        y = top + 30 + i * step
        drawing.path([(centre, last + (4 if i == 0 else 2)), (centre, y - 2)])
        drawing.box(left, y, width, height, text, colours)
        if shape:
            drawing.write(left + width + 12, y + 21, shape, 12, GREY, anchor="start")
        last = y + height
    drawing.path([(centre, last + 2), (centre, bottom - 13)])

    drawing.rect(centre - 11, bottom - 11, 22, 22, ("white", INK), radius=11)
    drawing.write(centre, bottom + 5, "+", 16)
    drawing.path([(centre, bottom + 13), (centre, bottom + 28)])
    drawing.box(centre - 45, bottom + 30, 90, height, "ReLU")
    drawing.path([(centre, bottom + 64), (centre, bottom + 80)])
    drawing.write(centre, bottom + 97, "128 x 8 x 28 x 28", 12, GREY)

    side = left + width + 180  # the shortcut
    drawing.path([(centre, top + 12), (side, top + 12), (side, 284)])
    drawing.box(side - 62, 286, 124, 48, "", PLAIN)
    drawing.write(side, 306, "1x1x1 /2, 64 → 128", 12)
    drawing.write(side, 324, "batch norm", 12)
    drawing.path([(side, 336), (side, bottom), (centre + 13, bottom)])


# --- 6: CNN + LSTM


def draw_cnn_lstm() -> Drawing:
    drawing = Drawing(1000, 640, "CNN + LSTM with attention, and the mean over frames")
    count, step, width, x0 = 4, 120, 92, 40
    xs = [x0 + i * step for i in range(count)]
    names = ["frame 1", "frame 2", "...", "frame 16"]
    weights = ["a1", "a2", "...", "a16"]

    drawing.write(x0, 30, "cnn_lstm_18", 16, anchor="start", bold=True)
    rows = {"frame": 566, "cnn": 496, "latent": 426, "forward": 348, "backward": 300, "attention": 222}
    for x, name, weight in zip(xs, names, weights, strict=True):
        middle = x + width / 2
        drawing.box(x, rows["frame"], width, 40, name, ("white", LINE))
        drawing.box(x, rows["cnn"], width, 36, "ResNet-18", SPACE)
        drawing.box(x, rows["latent"], width, 32, "linear, norm", PLAIN, 12)
        drawing.rect(x - 5, rows["backward"] - 6, width + 10, 92, ("white", LINE))
        drawing.box(x, rows["forward"], width, 32, "LSTM →", TIME)
        drawing.box(x, rows["backward"], width, 32, "← LSTM", TIME)
        drawing.rect(middle - 20, rows["attention"], 40, 30, ("white", INK), radius=15)
        drawing.write(middle, rows["attention"] + 20, f"×{weight}" if weight != "..." else "...", 13)
        drawing.path([(middle, rows["frame"] - 2), (middle, rows["cnn"] + 38)])
        drawing.path([(middle, rows["cnn"] - 2), (middle, rows["latent"] + 34)])
        drawing.path([(middle, rows["latent"] - 2), (middle, rows["forward"] + 40)])
        drawing.path([(middle, rows["backward"] - 8), (middle, rows["attention"] + 32)])
        drawing.path([(middle, rows["attention"] - 2), (middle, 186)])
    for a, b in zip(xs, xs[1:], strict=False):
        drawing.path([(a + width + 2, rows["forward"] + 16), (b - 2, rows["forward"] + 16)], TIME[1])
        drawing.path([(b - 2, rows["backward"] + 16), (a + width + 2, rows["backward"] + 16)], TIME[1])

    right = xs[-1] + width
    centre = (x0 + right) / 2
    drawing.box(x0, 152, right - x0, 32, "sum over time", PLAIN)
    drawing.path([(centre, 150), (centre, 134)])
    drawing.box(centre - 130, 100, 260, 32, "linear, batch norm, ReLU", PLAIN)
    drawing.path([(centre, 98), (centre, 82)])
    drawing.box(centre - 130, 48, 260, 32, "fc: logits, one a class", PLAIN)

    notes = [(rows["frame"] + 24, "3 x 224 x 224"), (rows["cnn"] + 22, "512 each"), (rows["latent"] + 20, "256 each")]
    notes += [(rows["forward"] - 4, "2 x 256 each"), (rows["attention"] + 12, "a: softmax over time")]
    notes += [(rows["attention"] + 28, "of a linear layer"), (172, "512")]
    for y, note in notes:
        drawing.write(right + 14, y, note, 12, GREY, anchor="start")
    drawing.write(centre + 142, 120, "256", 12, GREY, anchor="start")

    x0 = 690
    drawing.path([(668, 30), (668, 610)], "#d1d5db", arrow=False)
    drawing.write(x0, 30, "cnn_mean_18", 16, anchor="start", bold=True)
    drawing.write(x0, 52, "no order: the baseline", 13, GREY, anchor="start")
    for i, name in enumerate(["frame 1", "...", "frame 16"]):
        x = x0 + i * 98
        middle = x + 42
        drawing.box(x, rows["frame"], 84, 40, name, ("white", LINE))
        drawing.box(x, rows["cnn"], 84, 36, "ResNet-18", SPACE)
        drawing.path([(middle, rows["frame"] - 2), (middle, rows["cnn"] + 38)])
        drawing.path([(middle, rows["cnn"] - 2), (middle, 386)])
    drawing.box(x0, 352, 280, 32, "mean over frames: 512", PLAIN)
    drawing.path([(x0 + 140, 350), (x0 + 140, 324)])
    drawing.box(x0 + 10, 290, 260, 32, "fc: logits, one a class", PLAIN)
    return drawing


DRAWINGS = {
    "kernels": draw_kernels,
    "c3d": draw_c3d,
    "pool5": draw_pool5,
    "stages": draw_stages,
    "blocks": draw_blocks,
    "cnn_lstm": draw_cnn_lstm,
}


if __name__ == "__main__":
    main()
