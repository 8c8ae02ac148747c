"""The page in a real browser: headless Chromium, driven by Playwright.

Chromium is Debian's package `chromium`, which `make test` installs; elsewhere any Chromium or Chrome on the
path does.
"""

from __future__ import annotations

import os
import shutil

import numpy as np
import pandas as pd
import pytest
from playwright.sync_api import Page, sync_playwright

from analysis import measures
from analysis.atlas_results import load_atlas
from analysis.methods import label
from analysis.page import looks
from analysis.results import load

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ROW = "#all-trials tbody tr"
BLACK = "rgb(26, 26, 26)"  # --ink of report.css


@pytest.fixture(scope="module")
def browser():
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        pytest.skip(f"no browser: none of {', '.join(BROWSERS)} is on the path")
    with sync_playwright() as playwright:
        # Root, as in continuous integration, has no use of Chromium's sandbox.
        options = ["--no-sandbox"] if os.getuid() == 0 else []
        browser = playwright.chromium.launch(executable_path=program, args=options)
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser, written):
    """Opens the page with options of a browser's context; `page.heard`: what it logged and asked for."""
    contexts = []

    def opened(**options) -> Page:
        contexts.append(browser.new_context(**options))
        page = contexts[-1].new_page()
        page.heard = []
        page.on("console", lambda message: page.heard.append(message.text))
        page.on("pageerror", lambda error: page.heard.append(str(error)))
        page.on("request", lambda request: page.heard.append(request.url))
        page.goto((written / "report.html").as_uri())
        page.wait_for_selector(f"{ROW} td")
        return page

    yield opened
    for context in contexts:
        context.close()


def column(page: Page, header: str) -> list[str]:
    """The cells of a column of the table of trials, as they are shown."""
    headers = page.locator(".dt-scroll-head thead th .dt-column-title").all_inner_texts()
    return page.locator(f"{ROW} td:nth-child({headers.index(header) + 1})").all_inner_texts()


def test_nothing_goes_wrong_and_nothing_leaves_the_page(open_page, written):
    page = open_page()
    page.mouse.wheel(0, 50_000)
    page.wait_for_timeout(200)
    own = (written / "report.html").as_uri()
    assert [text for text in page.heard if text != own and not text.startswith(("blob:", "data:"))] == []


def test_all_figures_are_drawn(open_page, written):
    page = open_page()
    names = sorted(path.stem for path in (written / "figures").glob("*.svg"))
    assert len(names) == 28
    for name in names:
        figure = page.locator(f"article#{name} svg[role=img]")
        box = figure.bounding_box()
        assert box["width"] > 400 and box["height"] > 150, name
        assert figure.locator("text").count() > 5
        marks = figure.locator("path, use, image").evaluate_all(
            "all => all.filter(one => one.getBoundingClientRect().width > 0).length"
        )
        assert marks > 10, name


def test_the_table_lists_all_trials_best_first(open_page, results):
    page = open_page()
    tested = measures.tested(load(results))
    assert f"of {len(tested):,} entries" in page.locator(".dt-info").inner_text()
    best = tested.sort_values(["transfer_delta", "trial"], ascending=[False, True])
    assert column(page, "trial") == best["trial"].head(25).tolist()
    shown = [float(cell) for cell in column(page, "Δ")]
    assert shown == [pytest.approx(100 * value, abs=0.0051) for value in best["transfer_delta"].head(25)]


def test_sorting_by_keyboard(open_page, results):
    page = open_page()
    tested = measures.tested(load(results))
    page.locator(".dt-scroll-head [aria-label='seconds: Activate to sort']").focus()
    page.keyboard.press("Enter")
    page.wait_for_selector(".dt-scroll-head th.dt-ordering-asc")
    seconds = [float(cell) for cell in column(page, "seconds")]
    assert seconds == sorted(seconds)
    assert seconds[0] == pytest.approx(tested["seconds"].min(), abs=0.0051)
    page.keyboard.press("Enter")
    page.wait_for_selector(".dt-scroll-head th.dt-ordering-desc")
    assert float(column(page, "seconds")[0]) == pytest.approx(tested["seconds"].max(), abs=0.0051)


@pytest.mark.parametrize(
    ("header", "value"), [("student", "student-03"), ("teacher", "teacher-04"), ("method", "KL+DP")]
)
def test_filtering_by_student_teacher_and_method_by_keyboard(open_page, results, header, value):
    page = open_page()
    tested = measures.tested(load(results))
    tested["method"] = tested["method"].map(label)
    cell = page.locator(".dt-scroll-head thead th", has=page.get_by_text(header, exact=True))
    cell.locator("button.dtcc-button_dropdown").focus()
    page.keyboard.press("Enter")
    option = page.locator(".dtcc-list-buttons button", has=page.get_by_text(value, exact=True))
    option.focus()
    page.keyboard.press("Enter")
    wanted = tested[tested[header] == value]
    assert 0 < len(wanted) < len(tested)
    info = f"of {len(wanted):,} entries (filtered from {len(tested):,}"
    page.get_by_text(info).wait_for()
    assert set(column(page, header)) == {value}


def test_searching(open_page, results):
    page = open_page()
    trial = load(results)["trial"].iloc[17]
    page.locator(".dt-search input").fill(trial)
    page.wait_for_function("document.querySelectorAll('#all-trials tbody tr').length == 1")
    assert column(page, "trial") == [trial]


def test_pairs_of_the_atlas_can_be_pointed_at_and_searched(open_page, results):
    page = open_page()
    atlas = load_atlas(results)
    names = atlas.models["name"].tolist()
    look, said = page.locator("#lookup .lookup"), page.locator("#lookup output")
    rows = look.locator("tbody th").all_text_contents()
    assert sorted(rows) == sorted(names)
    look.locator("tbody tr").nth(1).locator("td").nth(3).hover()
    student, teacher = (names.index(rows[place]) for place in (1, 3))
    value = 100 * atlas.rho_pos[student, teacher]
    assert said.inner_text() == f"{rows[3]} knows {value:.2f} % that {rows[1]} does not"
    page.mouse.move(0, 0)  # or what moves under it is pointed at
    look.locator("input").fill(names[2])
    known = 100 * atlas.rho_pos[:, 2]
    best = int(np.nanargmax(known))
    assert said.inner_text().startswith(f"{names[2]} knows most beside {names[best]} ({known[best]:.2f} %); ")
    assert look.locator("tbody tr.found th").all_inner_texts() == [names[2]]
    look.locator("input").fill("no such")
    assert said.inner_text() == "No such model."
    look.locator("input").fill("")
    assert look.locator(".found").count() == 0


def test_the_first_screen_says_what_was_found(open_page):
    page = open_page(viewport={"width": 1400, "height": 900})
    first = page.locator(".findings li").first
    assert "helped" in first.inner_text() and "percentage points" in first.inner_text()
    box = page.locator(".findings li").last.bounding_box()
    assert box["y"] + box["height"] < 900
    links = page.locator(".findings a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert all(page.locator(link).count() == 1 for link in links)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_follows_the_system_and_the_button(open_page, scheme):
    page = open_page(color_scheme=scheme)

    def lightness(selector: str, of: str) -> float:
        color = page.locator(selector).first.evaluate(f"one => getComputedStyle(one).{of}")
        values = [float(part) for part in color.partition("(")[2].rstrip(")").split(",")[:3]]
        return sum(values) / 3 / 255

    def is_dark() -> list[bool]:
        return [
            lightness("body", "backgroundColor") < 0.3,
            lightness("body", "color") > 0.7,
            lightness("article#forest svg text", "fill") > 0.7,
            lightness("#all-trials tbody td", "color") > 0.6,
        ]

    assert is_dark() == [scheme == "dark"] * 4
    page.get_by_role("button", name="Light or dark").click()
    assert is_dark() == [scheme != "dark"] * 4


def test_on_a_phone_only_figures_and_tables_scroll_sideways(open_page):
    page = open_page(viewport={"width": 390, "height": 844}, is_mobile=True, device_scale_factor=2)
    assert page.evaluate("[document.documentElement.scrollWidth, innerWidth]") == [390, 390]
    figure = page.locator("article#fig_4a_success_rates .wide")
    assert figure.evaluate("one => one.scrollWidth > one.clientWidth")
    text = figure.locator("svg text").first.bounding_box()
    assert text["height"] >= 6  # readable, not shrunk to the width of the screen
    figure.focus()  # so that it can be scrolled by keyboard
    assert page.evaluate("document.activeElement.className") == "wide"


def test_in_print_it_is_light_and_whole(open_page, tmp_path):
    page = open_page(color_scheme="dark", viewport={"width": 794, "height": 1123})  # A4 at 96 dpi
    page.emulate_media(media="print")
    assert not page.locator("header nav").is_visible()
    background = page.locator("body").evaluate("one => getComputedStyle(one).backgroundColor")
    assert background in ("rgb(255, 255, 255)", "rgba(0, 0, 0, 0)")
    assert page.locator("article#forest svg").is_visible()
    assert page.locator("#all-trials tbody td").first.evaluate("one => getComputedStyle(one).color") == BLACK
    wide = page.locator("svg[role=img], table.plain, #all-trials").evaluate_all(
        "all => all.filter(one => one.getBoundingClientRect().right > innerWidth).map(one => one.outerHTML)"
    )
    assert wide == []
    assert len(page.pdf(path=tmp_path / "report.pdf")) > 100_000


def test_a_screen_reader_finds_its_way(open_page):
    page = open_page()
    assert page.locator("h1").count() == 1
    targets = page.locator("header nav a").evaluate_all("all => all.map(one => one.getAttribute('href'))")
    assert targets == [
        f"#{name}" for name in page.locator("section").evaluate_all("all => all.map(one => one.id)")
    ]
    for target in targets:
        assert page.locator(f"{target} h2").count() == 1
    labels = page.locator("svg[role=img]").evaluate_all(
        "all => all.map(one => one.getAttribute('aria-label'))"
    )
    assert all(labels) and len(set(labels)) == len(labels)


def test_text_is_on_the_left_and_numbers_on_the_right(open_page):
    table = pd.DataFrame(
        {
            "method": ["kl", "1 - S, evaluation"],
            "value": ["+0.42 [−0.10, +0.61]", "–"],
            "pairs": ["18 of 36", "3"],
            "says": ["a few words", "more of them: " + 10 * "one line "],
            "nothing": ["–", ""],
        }
    )
    assert looks(table) == "words1 words4 long4"
    cells = open_page().locator("table.plain.words1 tbody tr:first-child").first.locator("td")
    asked = "cell => [cell.textContent, getComputedStyle(cell).textAlign]"
    (first, left), (second, right), *_ = [cell.evaluate(asked) for cell in cells.all()]
    assert first[0].isalpha() and left == "left"
    assert not second[0].isalpha() and right == "right"
