"""Characters drawn from font files: what a picture is, which fonts are on which side, what is refused."""

from __future__ import annotations

import csv
import re
import shutil
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from fontTools.fontBuilder import FontBuilder
from fontTools.pens.ttGlyphPen import TTGlyphPen
from fontTools.ttLib import TTFont
from pydantic import ValidationError

from study import mistakes, spec
from study.errors import StudyError
from study.images import files, glyphs

ROOT = Path(__file__).resolve().parents[3]
MATPLOTLIB = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
TRAINED = ("DejaVuSans.ttf", "DejaVuSans-Bold.ttf", "DejaVuSerif.ttf", "cmr10.ttf", "cmtt10.ttf")
TESTED = ("STIXGeneral.ttf", "STIXGeneralBol.ttf")
CHARACTERS = "oOgGjRs2"


def renamed(source: str, target: Path, family: str, grown: float = 1) -> None:
    """A copy of one of matplotlib's fonts under another family's name, drawn larger or smaller."""
    font = TTFont(MATPLOTLIB / source)
    for record in font["name"].names:
        if record.nameID in (1, 16):
            record.string = family
    font["head"].unitsPerEm = round(font["head"].unitsPerEm / grown)
    font.save(target)


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Fonts of seven files, one of them in a sub-folder, and what is none."""
    folder = tmp_path_factory.mktemp("fonts")
    (folder / "sub").mkdir()
    for number, name in enumerate((*TRAINED, *TESTED)):
        shutil.copy(MATPLOTLIB / name, folder / "sub" / name if number == 0 else folder / name)
    (folder / "README.txt").write_text("no font")
    return folder


@pytest.fixture(scope="module")
def parts(folder):
    return glyphs.glyphs(folder, folder=str(folder), characters=CHARACTERS)


def picture(folder: Path, name: str, character: str, side: int = 32) -> np.ndarray:
    """A character [side, side] in a font, and nothing where there is none."""
    pictures, there = glyphs.drawn([glyphs.Font(folder / name, name)], character, side)
    return pictures[0, 0] * there[0, 0]


def box(pixels: np.ndarray) -> tuple[int, int, int, int]:
    """The ink's left, top, right and bottom margin."""
    rows, columns = np.flatnonzero(pixels.any(1)), np.flatnonzero(pixels.any(0))
    return columns[0], rows[0], pixels.shape[1] - 1 - columns[-1], pixels.shape[0] - 1 - rows[-1]


# --- a picture ----------------------------------------------------------------------------------


def test_every_font_gives_an_image_of_every_character(parts):
    for part, fonts in zip(parts, (TRAINED, TESTED), strict=True):
        assert Counter(part.labels.tolist()) == {label: len(fonts) for label in range(8)}
        assert part.classes == list(CHARACTERS)
        image, label = part[3]
        assert (image.mode, image.size, label) == ("L", (32, 32), part.labels[3])


@pytest.mark.parametrize("character", CHARACTERS)
@pytest.mark.parametrize("side", [16, 32, 65])
def test_ink_is_white_in_the_middle_and_leaves_a_margin(character, side):
    pixels = picture(MATPLOTLIB, "DejaVuSerif.ttf", character, side)
    left, top, right, bottom = box(pixels)
    assert pixels.max() > 200
    assert abs(left - right) <= 1
    assert abs(top - bottom) <= 1
    assert min(left, top, right, bottom) >= int(side / 16)


def test_all_characters_have_one_size_of_type():
    heights = {}
    for character in "oOsSHx":
        _, top, _, bottom = box(picture(MATPLOTLIB, "DejaVuSans.ttf", character, 128))
        heights[character] = 128 - top - bottom
    assert heights["s"] < 0.8 * heights["S"]
    assert heights["o"] < 0.8 * heights["O"]
    em = 0.8 * 128
    assert heights["H"] / em == pytest.approx(0.729, abs=0.02)  # its capitals' and small letters' heights
    assert heights["x"] / em == pytest.approx(0.547, abs=0.02)


def test_what_is_too_large_is_shrunk_in_proportion(tmp_path):
    renamed("DejaVuSans.ttf", tmp_path / "large.ttf", "Large", 3)
    margins = box(picture(tmp_path, "large.ttf", "M"))
    assert min(margins) == 2
    before = box(picture(MATPLOTLIB, "DejaVuSans.ttf", "M"))
    shape, expected = ((32 - m[1] - m[3]) / (32 - m[0] - m[2]) for m in (margins, before))
    assert shape == pytest.approx(expected, abs=0.1)


def test_a_character_that_a_font_has_not_is_left_out(folder):
    train, test = glyphs.glyphs(folder, folder=str(folder), characters="OѢ")  # Computer Modern has no yat
    assert np.bincount(train.labels).tolist() == [5, 3]
    assert np.bincount(test.labels).tolist() == [2, 2]
    assert not picture(MATPLOTLIB, "cmr10.ttf", "Ѣ").any()


def test_a_letter_drawn_as_its_capital_is_left_out(tmp_path):
    font = TTFont(MATPLOTLIB / "DejaVuSans.ttf")
    for table in font["cmap"].tables:
        table.cmap.update({ord(c): table.cmap[ord(c.upper())] for c in "ag" if ord(c) in table.cmap})
    font.save(tmp_path / "capitals.ttf")
    _, there = glyphs.drawn([glyphs.Font(tmp_path / "capitals.ttf", "")], "AaBbGg", 32)
    assert there.tolist() == [[True, False, True, True, True, False]]
    _, there = glyphs.drawn([glyphs.Font(tmp_path / "capitals.ttf", "")], "ab", 32)
    assert there.all()  # without its capital it is a class as any other


def test_what_stands_for_many_characters_is_left_out(tmp_path):
    characters = "ABCDRS1234"
    outlines = {"box": [(50, 0), (50, 700), (550, 700), (550, 0)], "B": [(50, 0), (300, 700), (550, 0)]}
    glyf = {".notdef": TTGlyphPen(None).glyph()}
    for name, (first, *others) in outlines.items():
        pen = TTGlyphPen(None)
        pen.moveTo(first)
        for corner in others:
            pen.lineTo(corner)
        pen.closePath()
        glyf[name] = pen.glyph()
    font = FontBuilder(1000)
    font.setupGlyphOrder([*glyf])
    font.setupCharacterMap({ord(one): "B" if one == "B" else "box" for one in characters})
    font.setupGlyf(glyf)
    font.setupHorizontalMetrics(dict.fromkeys(glyf, (600, 50)))
    font.setupHorizontalHeader(ascent=800, descent=-200)
    font.setupNameTable({"familyName": "Boxes", "styleName": "Regular"})
    font.setupOS2()
    font.setupPost()
    font.save(tmp_path / "boxes.ttf")
    _, there = glyphs.drawn([glyphs.Font(tmp_path / "boxes.ttf", "")], characters, 32)
    assert there.ravel().tolist() == [one == "B" for one in characters]  # one box for all others


# --- the sides of the split ---------------------------------------------------------------------


def groups_of(folder: Path) -> dict[str, str]:
    return {font.name: font.group for font in glyphs.found(folder)}


def test_a_family_is_one_group(folder):
    groups = groups_of(folder)
    assert groups["sub/DejaVuSans.ttf"] == groups["DejaVuSans-Bold.ttf"] == "DejaVu Sans"
    assert len(set(groups.values())) == 5
    assert {name for name, group in groups.items() if glyphs.is_tested(group)} == set(TESTED)


@pytest.mark.parametrize("grown", [1, 1.01])
def test_no_copy_under_another_name_crosses_the_split(folder, tmp_path, grown):
    copy = next(name for name in (f"Sans {n}" for n in range(99)) if glyphs.is_tested(name))
    shutil.copytree(folder, tmp_path / "fonts")
    renamed("DejaVuSans.ttf", tmp_path / "fonts" / "copy.ttf", copy, grown)
    assert groups_of(tmp_path / "fonts")["copy.ttf"] == "DejaVu Sans"
    train, test = glyphs.glyphs(folder, folder=str(tmp_path / "fonts"), characters=CHARACTERS)
    assert len(train) == (5 if grown == 1 else 6) * 8  # the same pictures count once
    assert len(test) == 2 * 8


def test_no_picture_is_on_both_sides_or_twice_in_a_class(monkeypatch, folder):
    pictures = np.zeros((7, 2, 8, 8), np.uint8)
    pictures[:, :, 0, 0] = [[1, 2], [1, 3], [4, 3], [4, 5], [6, 3], [6, 7], [8, 2]]  # by font, of two classes
    monkeypatch.setattr(glyphs, "drawn", lambda *_: (pictures, np.ones((7, 2), bool)))
    groups = [glyphs.Font(folder, str(n), "STIXGeneral" if n > 3 else "cmr10") for n in range(7)]
    monkeypatch.setattr(glyphs, "found", lambda _: groups)
    shown = [
        [(int(pixels.max()), int(label)) for pixels, label in zip(part.pictures, part.labels, strict=True)]
        for part in glyphs.glyphs(folder, folder=str(folder), characters="ab")
    ]
    assert shown == [[(1, 0), (2, 1), (3, 1), (4, 0), (5, 1)], [(6, 0), (7, 1), (8, 0)]]


def test_the_same_fonts_give_the_same_images(parts, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "elsewhere")
    again = glyphs.glyphs(tmp_path, folder=str(tmp_path / "elsewhere"), characters=CHARACTERS)
    for one, other in zip(parts, again, strict=True):
        assert np.array_equal(one.pictures, other.pictures)
        assert np.array_equal(one.labels, other.labels)


def test_the_last_of_the_characters_are_the_rarest(parts, folder):
    train, test = glyphs.glyphs(folder, folder=str(folder), characters=CHARACTERS, rarest=0.2)
    expected = [round(5 * 0.2 ** (c / 7)) for c in range(8)]
    assert np.bincount(train.labels).tolist() == expected == [5, 4, 3, 3, 2, 2, 1, 1]
    assert np.array_equal(test.pictures, parts[1].pictures)


def test_they_are_written_as_other_images(parts, folder, tmp_path):
    source = spec.Images(source="glyphs", folder=str(folder), characters=CHARACTERS)
    images = files.prepare(source, tmp_path)
    assert images.subsets == {"train": (0, 40), "test": (40, 56)}
    assert images.classes == tuple(CHARACTERS)
    assert images.side == 32
    assert images.labels.tolist() == [*parts[0].labels, *parts[1].labels]


# --- what is refused ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"domain": "printd"}, "domain: .*'printed'"),
        ({"characters": "ABCA"}, "characters: 'A' is listed twice; list each character once"),
        ({"characters": "A"}, "characters: .*2"),
        ({"side": 4}, "side: .*8"),
        ({"rarest": 0}, "rarest: .*0"),
        ({"sides": 32}, "sides: .*did you mean 'side'"),
    ],
)
def test_a_setting_that_is_wrong_is_told_in_a_sentence(settings, said):
    with pytest.raises(ValidationError) as told:
        spec.Images(source="glyphs", **settings)
    message = mistakes.first(told.value, spec.Images)
    assert re.search(said, message)
    assert "\n" not in message


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"folder": "{tmp}/absent"}, r"data\.images\.folder: there is no folder .*absent; name one"),
        ({"folder": "{tmp}/empty"}, r"data\.images\.folder: no font file \(\.ttf, \.otf\) is .*; name one"),
        ({"folder": "{tmp}/damaged"}, r"bad\.ttf: cannot be read as a font \(.*\); repair or remove it"),
        ({"characters": "Aあ"}, r"data\.images\.characters: no training or test font .* 'あ'; leave it out"),
        ({"characters": "A "}, r"data\.images\.characters: .* draws ' '"),
        ({"folder": "{tmp}/one"}, r"data\.images\.characters: no test font .* draws 'A'"),
    ],
)
def test_fonts_that_will_not_do_are_told_in_a_sentence(folder, tmp_path, settings, said):
    for name in ("empty", "damaged", "one"):
        (tmp_path / name).mkdir()
    (tmp_path / "damaged" / "bad.ttf").write_bytes(b"no font\n")
    shutil.copy(MATPLOTLIB / "cmr10.ttf", tmp_path / "one")
    settings = {name: value.format(tmp=tmp_path) for name, value in settings.items()}
    with pytest.raises(StudyError, match=said) as told:
        glyphs.glyphs(tmp_path, **{"folder": str(folder), "characters": "AB", **settings})
    assert "\n" not in str(told.value)


def test_fonts_of_the_list_that_are_missing_are_told_with_the_remedy(monkeypatch, tmp_path):
    monkeypatch.setattr(glyphs, "FOLDER", tmp_path)
    said = r"1201 of the 1201 printed fonts are not installed \(the first: .*\); run make glyph-fonts"
    with pytest.raises(StudyError, match=said):
        glyphs.glyphs(tmp_path, folder=str(tmp_path))


# --- the list -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rows() -> list[dict[str, str]]:
    lines = (ROOT / "study" / "images" / "glyphs.csv").read_text().splitlines()
    return list(csv.DictReader(line for line in lines if not line.startswith("#")))


def test_the_list_is_whole(rows):
    assert all(all(value and value == value.strip() for value in row.values()) for row in rows)
    assert len({row["file"] for row in rows}) == len(rows)
    assert {Path(row["file"]).suffix for row in rows} <= {*glyphs.SUFFIXES}
    assert {row["domain"] for row in rows} == {"printed", "shifted"}
    assert len({(row["package"], row["version"]) for row in rows}) == len({row["package"] for row in rows})


def test_no_family_of_the_list_is_on_both_sides(rows):
    sides = defaultdict(set)
    for row in rows:
        sides[row["family"].lower()].add(glyphs.is_tested(row["group"]))
    assert max(map(len, sides.values())) == 1
    for domain in ("printed", "shifted"):
        groups = {row["group"] for row in rows if row["domain"] == domain}
        assert 0.15 < np.mean([glyphs.is_tested(group) for group in groups]) < 0.25


def test_the_page_has_the_numbers_of_the_list(rows):
    page = (ROOT / "docs" / "glyphs.md").read_text()
    for domain in ("printed", "shifted"):
        for tested, side in ((False, "training"), (True, "test")):
            of = [r for r in rows if r["domain"] == domain and glyphs.is_tested(r["group"]) == tested]
            families, groups = ({row[name] for row in of} for name in ("family", "group"))
            row = f"| {domain} | {side} | {len(of):,} | {len(families):,} | {len(groups):,} |"
            assert row in page
    licences = Counter(row["licence"] for row in rows)
    assert all(f"| {licence} | {count:,} |" in page for licence, count in licences.items())


@pytest.mark.skipif(
    not (glyphs.FOLDER / "truetype" / "aenigma").is_dir(),
    reason="the fonts of the list are not installed (make glyph-fonts)",
)
def test_no_copy_among_the_listed_fonts_crosses_the_split(rows):
    fonts = [*glyphs.listed("printed"), *glyphs.listed("shifted")]
    assert len(fonts) == len(rows)
    tested = np.array([glyphs.is_tested(font.group) for font in fonts])
    drawn = glyphs.drawn(fonts, "RSaegt25", 32)  # a few that tell faces apart; the groups were made by all 62
    assert drawn[1].mean() > 0.98
    assert glyphs.shared(*drawn)[tested][:, ~tested].max() == 0
    assert glyphs.alike(*drawn)[tested][:, ~tested].max() < 0.99
