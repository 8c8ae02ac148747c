"""Glyphs: characters drawn from the font files of Debian 12's packages, as images of classes.

A class is a character, an image is that character in one font file. `glyphs.csv`, shipped beside this file,
lists the files with package, version, licence, family, domain and group: 'printed' are faces for text (serif,
sans, mono), 'shifted' those of handwriting and display, told apart by eye. `make glyph-fonts` installs the
packages; docs/glyphs.md says how the list was made, and how many images it gives.

Drawn white on black, with grey edges: at one em of 0.8 of the side for all, so that an o stays smaller than
an O, with the ink in the middle. What would not leave a margin of a sixteenth of the side is shrunk.

The sides of the split share no group: families that look alike, as metric clones and their originals do, are
one group. About a fifth of the groups are tested on, by a hash of their names, the same ones in both domains.

Left out on purpose: `.ttc` collections and variable fonts, kerning, and any noise or distortion.
"""

from __future__ import annotations

import csv
import string
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from pydantic import AfterValidator, Field

from study.errors import StudyError
from study.store import digest, storage

FOLDER = Path("/usr/share/fonts")
LIST = "glyphs.csv"
SUFFIXES = (".ttf", ".otf")
CHARACTERS = string.ascii_uppercase + string.ascii_lowercase + string.digits
EM, MARGIN = 0.8, 1 / 16  # shares of the side
FINER = 4  # times that a glyph is drawn finer than it is kept
TESTED = 0.2  # share of the groups
# Two files count as copies by the mean cosine of their pictures (outlines that were redrawn or hinted anew
# lie above, Liberation Sans and Nimbus Sans below), or by how many of them are the same.
COPIES, SHARED = 0.98, 2
PLACEHOLDER = 4  # characters that a font gives one picture


class Font(NamedTuple):
    """A font file. `name` is its path under the folder; the group is '' where it is not known yet."""

    path: Path
    name: str
    group: str = ""


class Glyphs:
    """Pictures [n, side, side] uint8 and their classes [n] int64, as a data set in torchvision's manner."""

    def __init__(self, pictures: NDArray[np.uint8], labels: NDArray[np.int64], classes: str) -> None:
        self.pictures, self.labels, self.classes = pictures, labels, list(classes)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return Image.fromarray(self.pictures[index]), int(self.labels[index])


def _each_once(characters: str) -> str:
    for character in characters:
        if characters.count(character) > 1:
            raise ValueError(f"'{character}' is listed twice; list each character once")
    return characters


def glyphs(
    downloads: Path,
    *,
    domain: Literal["printed", "shifted"] = "printed",
    folder: str = str(FOLDER),
    characters: Annotated[str, Field(min_length=2), AfterValidator(_each_once)] = CHARACTERS,
    side: Annotated[int, Field(ge=8)] = 32,
    rarest: Annotated[float, Field(gt=0, le=1)] = 1.0,
):
    """Characters drawn from font files: a class each of `characters`, images of `side` by `side` pixels.

    Of Debian's folder only the fonts of the list are used, those of the domain. Of another folder all are: it
    holds one domain, the one that is named, and nothing checks it; its groups are made by the names and looks
    of the families. A font without a character gives no image of it, nor of a letter that it draws as its
    capital (small capitals it does). No picture is twice in a class of one side, and none is on both sides.

    Below 1, `rarest` makes a long tail of the training images, after "Learning Imbalanced Datasets with
    Label-Distribution-Aware Margin Loss" (arXiv 1906.07413): of C classes, class c in the order of
    `characters` keeps the share rarest^(c / (C - 1)).

    Raises:
        StudyError: the folder is missing or has no fonts, a font cannot be read, or a character has no image
            on one of the sides.
    """
    place = Path(folder).expanduser()
    fonts = listed(domain) if place == FOLDER else found(place)
    pictures, there = drawn(fonts, characters, side)
    tested = np.array([is_tested(font.group) for font in fonts])
    train = _distinct(pictures, there & ~tested[:, None], set())
    test = _distinct(pictures, there & tested[:, None], {picture.tobytes() for picture in pictures[train]})
    for number, character in enumerate(characters):
        lacking = [name for name, of in (("training", train), ("test", test)) if not of[:, number].any()]
        if lacking:
            raise StudyError(
                f"data.images.characters: no {' or '.join(lacking)} font under {place} draws '{character}'; "
                "leave it out, or add fonts that do"
            )
    return [_dataset(pictures, part, characters) for part in (_long_tailed(train, rarest), test)]


# --- which fonts -------------------------------------------------------------------------------


def listed(domain: str) -> list[Font]:
    """The fonts of a domain in the list, in the order of a hash of their names.

    Raises:
        StudyError: some are not installed.
    """
    with resources.files("study.images").joinpath(LIST).open(encoding="utf-8") as stream:
        rows = list(csv.DictReader(line for line in stream if not line.startswith("#")))
    fonts = [Font(FOLDER / row["file"], row["file"], row["group"]) for row in rows if row["domain"] == domain]
    if missing := [font for font in fonts if not font.path.is_file()]:
        raise StudyError(
            f"data.images.folder: {len(missing)} of the {len(fonts)} {domain} fonts are not installed (the "
            f"first: {missing[0].path}); run make glyph-fonts on Debian 12, or name a folder of your own"
        )
    return _shuffled(fonts)


def found(folder: Path) -> list[Font]:
    """All fonts in a folder and those below it, in the order of a hash of their names.

    Raises:
        StudyError: there is no such folder, no font in it, or one that cannot be read.
    """
    if not folder.is_dir():
        raise StudyError(f"data.images.folder: there is no folder {folder}; name one with font files")
    files = (path for path in folder.rglob("*") if path.suffix.lower() in SUFFIXES and path.is_file())
    fonts = [Font(path, path.relative_to(folder).as_posix()) for path in files]
    if not fonts:
        raise StudyError(
            f"data.images.folder: no font file ({', '.join(SUFFIXES)}) is under {folder}; name one with some"
        )
    return _grouped(_shuffled(fonts))


def _shuffled(fonts: list[Font]) -> list[Font]:
    """In an order that says nothing: the first images of a class are then of any fonts."""
    return sorted(fonts, key=lambda font: digest.of_json(font.name))


def is_tested(group: str) -> bool:
    """Whether the fonts of a group are tested on, by a hash of its name."""
    return int(digest.of_json(group, 8), 16) < TESTED * 16**8


def _family(font: Font) -> str:
    """The family's name as the file has it, or the file's."""
    from fontTools.ttLib import TTFont

    with TTFont(font.path, lazy=True) as content:
        names = content["name"]
        return names.getDebugName(16) or names.getDebugName(1) or font.name


def _grouped(fonts: list[Font]) -> list[Font]:
    """Fonts with their groups, each called by the first name of its families.

    The same ones whatever the characters of a study. Fonts that draw none of `CHARACTERS` are told apart by
    their families' names alone.
    """
    from scipy.sparse.csgraph import connected_components

    pictures, there = drawn(fonts, CHARACTERS, 32)
    families = np.array([_family(font) for font in fonts])
    together = (families[:, None] == families) | (alike(pictures, there) > COPIES)
    together |= shared(pictures, there) >= SHARED
    _, numbers = connected_components(together, directed=False)
    names = [min(families[numbers == number]) for number in numbers]
    return [font._replace(group=str(name)) for font, name in zip(fonts, names, strict=True)]


def alike(pictures: NDArray[np.uint8], there: NDArray[np.bool_]) -> NDArray[np.float32]:
    """How alike files look: mean cosine of their slightly blurred pictures, of the characters both draw.

    Args:
        pictures: uint8 [files, characters, side, side].
        there: bool [files, characters], which are drawn.

    Returns:
        Float32 [files, files], 0 where two have no character in common.
    """
    from scipy.ndimage import gaussian_filter

    total = np.zeros((len(pictures), len(pictures)), np.float32)
    blur = 0.022 * pictures.shape[2]
    for number in range(pictures.shape[1]):
        blurred = gaussian_filter(pictures[:, number].astype(np.float32), (0, blur, blur))
        flat = blurred.reshape(len(pictures), -1)
        flat *= there[:, number, None] / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
        total += flat @ flat.T
    both = there.astype(np.float32) @ there.T.astype(np.float32)
    return total / np.maximum(both, 1)


def shared(pictures: NDArray[np.uint8], there: NDArray[np.bool_]) -> NDArray[np.int64]:
    """How many characters two files draw the same, int64 [files, files]; arguments as in `alike`."""
    total = np.zeros((len(pictures), len(pictures)), np.int64)
    for number in range(pictures.shape[1]):
        numbers: dict[bytes, int] = {}
        which = np.array([numbers.setdefault(one.tobytes(), len(numbers)) for one in pictures[:, number]])
        total += (which[:, None] == which) & there[:, number, None] & there[:, number]
    return total


# --- their pictures ----------------------------------------------------------------------------


def drawn(fonts: Sequence[Font], characters: str, side: int) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Every character in every font.

    Returns:
        Pictures, uint8 [fonts, characters, side, side], and bool [fonts, characters]: which there are. Blanks
        are not, nor a letter that looks the same as its capital, nor what stands for many characters.

    Raises:
        StudyError: a font cannot be read.
    """
    pictures = np.zeros((len(fonts), len(characters), side, side), np.uint8)
    there = np.zeros((len(fonts), len(characters)), bool)
    capitals = [(n, characters.find(of.upper())) for n, of in enumerate(characters) if of.upper() != of]
    for number, font in enumerate(fonts):
        _draw(font.path, characters, pictures[number])
        there[number] = pictures[number].any((1, 2))
        for small, large in capitals:
            there[number, small] &= large < 0 or not np.array_equal(*pictures[number, [small, large]])
        content = [picture.tobytes() for picture in pictures[number]]
        times = Counter(content)
        there[number] &= [times[one] < PLACEHOLDER for one in content]
    return pictures, there


def _draw(path: Path, characters: str, pictures: NDArray[np.uint8]) -> None:
    """Draw a font's characters into `pictures` [characters, side, side], which is black."""
    from fontTools.ttLib import TTFont

    side = FINER * pictures.shape[1]
    room = round(side * (1 - 2 * MARGIN))
    try:
        with TTFont(path, lazy=True) as content:
            # Names of glyphs are not needed, and often damaged: any will do.
            content.setGlyphOrder([str(number) for number in range(content["maxp"].numGlyphs)])
            known = content.getBestCmap() or {}  # none of Unicode's: symbols
        # Without shaping, which not every build of Pillow has.
        font = ImageFont.truetype(path, round(EM * side), layout_engine=ImageFont.Layout.BASIC)
        for number, character in enumerate(characters):
            if ord(character) not in known:
                continue
            left, top, right, bottom = font.getbbox(character)
            ink = Image.new("L", (right - left, bottom - top))
            ImageDraw.Draw(ink).text((-left, -top), character, fill=255, font=font)
            if (box := ink.getbbox()) is None:
                continue
            ink = ink.crop(box)
            ink.thumbnail((room, room), Image.Resampling.BOX)
            canvas = Image.new("L", (side, side))
            canvas.paste(ink, ((side - ink.width) // 2, (side - ink.height) // 2))
            pictures[number] = np.asarray(canvas.reduce(FINER))
    except Exception as error:  # whatever a damaged font makes fontTools or FreeType raise
        raise StudyError(
            f"{path}: cannot be read as a font ({storage.reason(error)}); repair or remove it"
        ) from error


# --- which of them -----------------------------------------------------------------------------


def _distinct(pictures: NDArray[np.uint8], wanted: NDArray[np.bool_], taken: set[bytes]) -> NDArray[np.bool_]:
    """What is wanted [fonts, characters], without what is taken, and the first alone of what is alike."""
    kept = np.zeros_like(wanted)
    for number in range(wanted.shape[1]):
        seen: set[bytes] = set()
        for font in np.flatnonzero(wanted[:, number]):
            content = pictures[font, number].tobytes()
            kept[font, number] = content not in taken and content not in seen
            seen.add(content)
    return kept


def _long_tailed(kept: NDArray[np.bool_], rarest: float) -> NDArray[np.bool_]:
    """The first images [fonts, characters] of every class, exponentially fewer from class to class."""
    count = kept.sum(0)
    limits = np.maximum(1, np.rint(count * rarest ** np.linspace(0, 1, len(count))))
    return kept & (kept.cumsum(0) <= limits)


def _dataset(pictures: NDArray[np.uint8], kept: NDArray[np.bool_], characters: str) -> Glyphs:
    """The pictures that are kept, font by font."""
    return Glyphs(pictures[kept], np.nonzero(kept)[1].astype(np.int64), characters)
