"""Scenes of shapes and words on a grid of nine places: as phrases, as pictures, and as measured from pixels alone."""

from __future__ import annotations

import functools
import io
import re
from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

COLOURS = {"red": (220, 20, 20), "green": (20, 160, 20), "blue": (20, 20, 220), "purple": (150, 20, 150)}
SHAPES = ("circle", "square", "triangle")
COUNTS = {"one": 1, "two": 2, "three": 3}
WORDS = ("HELLO", "TEA", "OPEN", "EXIT", "SALE")
PLACES = tuple(f"{row} {column}" for row in ("top", "middle", "bottom") for column in ("left", "centre", "right"))

CELL, SIZE = 64, 15
_PLACE = rf"at the ({'|'.join(PLACES)})"
_PHRASE = re.compile(
    rf"(?:({'|'.join(COUNTS)}) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})s?|the word ({'|'.join(WORDS)})) {_PLACE}"
)
Pixels = NDArray[np.uint32]
"""Colours as whole numbers, one a pixel: red in the lowest byte, then green and blue."""
OPAQUE, WHITE = 0xFF000000, 0xFFFFFFFF
PIXELS = {colour: OPAQUE + red + (green << 8) + (blue << 16) for colour, (red, green, blue) in COLOURS.items()}


class Thing(NamedTuple):
    """Something at a place: so many shapes of a colour, or a word."""

    what: str
    place: str

    def __str__(self) -> str:
        return f"{self.what} at the {self.place}"


def things(text: str) -> list[Thing]:
    """The things that `text` speaks of, in their order, each once."""
    found = [Thing(match[0].rpartition(" at the ")[0], match[5]) for match in _PHRASE.finditer(text)]
    return list(dict.fromkeys(found))


def shapes(count: int, colour: str, shape: str) -> str:
    """What so many shapes are called."""
    return f"{list(COUNTS)[count - 1]} {colour} {shape}{'s' * (count > 1)}"


def any_scene(rng: np.random.Generator, size: int) -> list[Thing]:
    """`size` things at different places; about one in six is a word."""
    scene = []
    for place in rng.choice(len(PLACES), size=size, replace=False):
        what = f"the word {rng.choice(WORDS)}"
        if rng.random() > 1 / 6:
            what = shapes(int(rng.integers(1, 4)), str(rng.choice(list(COLOURS))), str(rng.choice(SHAPES)))
        scene.append(Thing(what, PLACES[place]))
    return scene


def painted(scene: Iterable[Thing], rng: np.random.Generator) -> bytes:
    """The scene as a PNG; everything stands a little beside its place, as `rng` has it."""
    image = Image.new("RGB", (3 * CELL, 3 * CELL), "white")
    draw = ImageDraw.Draw(image)
    for what, place in scene:
        row, column = divmod(PLACES.index(place), 3)
        x, y = (CELL * i + int(rng.integers(2, 9)) for i in (column, row))
        words = what.split()
        if words[0] == "the":
            draw.text((x, y), words[2], fill="black", font=_font())
            continue
        for i in range(COUNTS[words[0]]):
            left, shape = x + i * (SIZE + 3), words[2].rstrip("s")
            box = (left, y, left + SIZE, y + SIZE)
            if shape == "circle":
                draw.ellipse(box, fill=COLOURS[words[1]])
            elif shape == "square":
                draw.rectangle(box, fill=COLOURS[words[1]])
            else:
                corners = [(left, y + SIZE), (left + SIZE, y + SIZE), (left + SIZE // 2, y)]
                draw.polygon(corners, fill=COLOURS[words[1]])
    data = io.BytesIO()
    image.save(data, "PNG", compress_level=1)
    return data.getvalue()


@functools.lru_cache(maxsize=4096)
def measured(png: bytes) -> Sequence[Thing]:
    """What is in a picture, place by place, from its pixels."""
    pixels = np.asarray(Image.open(io.BytesIO(png)).convert("RGBA")).view("<u4")[:, :, 0]
    found = []
    for i, place in enumerate(PLACES):
        row, column = divmod(i, 3)
        cell = pixels[CELL * row : CELL * (row + 1), CELL * column : CELL * (column + 1)]
        inked = cell != WHITE
        if inked.any():
            found += [Thing(what, place) for what in _in_cell(cell[inked.any(axis=1)])]
    return found


def _in_cell(cell: Pixels) -> Iterable[str]:
    for colour, pixel in PIXELS.items():
        mask = cell == pixel
        if not mask.any():
            continue
        found = [_shape(mask[:, begin:end]) for begin, end in _runs(mask.any(axis=0))]
        for shape in dict.fromkeys(found):
            if found.count(shape) <= len(COUNTS):
                yield shapes(found.count(shape), colour, shape)
    grey = cell & 0xFF
    dark = (grey < 128) & (cell == grey * 0x10101 + OPAQUE)
    if dark.any():
        seen = _cropped(dark)
        yield from (f"the word {word}" for word in WORDS if np.array_equal(_template(word), seen))


def _runs(columns: NDArray[np.bool_]) -> Sequence[tuple[int, int]]:
    """Begin and end of each run of columns with something in them."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], columns, [False]]).astype(int)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _shape(mask: NDArray[np.bool_]) -> str:
    """By how much of its bounding box it fills: all, pi/4, or half."""
    fill = _cropped(mask).mean()
    return "square" if fill > 0.9 else "circle" if fill > 0.65 else "triangle"


def _cropped(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    rows, columns = (np.flatnonzero(mask.any(axis=axis)) for axis in (1, 0))
    return mask[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


@functools.cache
def _font() -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(14)


@functools.cache
def _template(word: str) -> NDArray[np.bool_]:
    image = Image.new("RGB", (2 * CELL, CELL), "white")
    ImageDraw.Draw(image).text((10, 10), word, fill="black", font=_font())
    return _cropped(np.asarray(image).max(axis=2) < 128)
