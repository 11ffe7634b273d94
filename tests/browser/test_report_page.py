"""The report's page in a real browser: the turntable turns, and nothing is fetched."""

from __future__ import annotations

import io
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dp3d_cli.stages.evaluate.pairing import BASELINE
from dp3d_cli.stages.evaluate.report import write_report
from tests.browser.chromium import NAMES, Page, chromium, find_chromium
from tests.stages.evaluate.report_results import made_up_results

BROWSER = find_chromium()
pytestmark = pytest.mark.skipif(
    BROWSER is None, reason=f"no browser: none of {', '.join(NAMES)} is installed"
)

SHOWN = "[...document.querySelectorAll('#stage .panel img:not(.over)')].map((image) => image.src)"
VIEW = "document.getElementById('stage').dataset.view"
NAME = "b \"<i>&'\nö"


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    results = made_up_results(folder / "pictures", (BASELINE, "ours", "<b>theirs"), ("anna", NAME), views=8)
    return next(path for path in write_report(folder, results).files if path.name == "report.html")


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    assert BROWSER is not None
    with chromium(BROWSER, tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def page(browser: Page, report: Path) -> Page:
    browser.problems.clear()
    browser.requests.clear()
    browser.open(report.as_uri())
    browser.value("document.getElementById('stage').scrollIntoView({behavior: 'instant'})")
    return browser


def pixels(page: Page, path: Path) -> np.ndarray:
    page.screenshot(path)
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), int)


def middle_of_stage(page: Page) -> tuple[float, float]:
    box = page.value(
        "(() => { const b = document.getElementById('stage').getBoundingClientRect();"
        " return [b.x + b.width / 2, b.y + b.height / 2]; })()"
    )
    return box[0], box[1]


def test_page_loads_without_errors_and_fetches_nothing_else(page: Page, report: Path) -> None:
    assert page.problems == []
    assert page.requests == [report.as_uri()]
    assert page.value("document.getElementById('viewer').hidden") is False
    assert page.value("document.documentElement.scrollWidth <= innerWidth")
    assert page.value("[...document.images].every((i) => !i.hasAttribute('src') || i.naturalWidth > 0)")


def test_arrow_keys_turn_all_panels_in_lockstep(page: Page, tmp_path: Path) -> None:
    before, sources = pixels(page, tmp_path / "before.png"), page.value(SHOWN)
    assert page.value(VIEW) == "0"
    page.value("document.getElementById('stage').focus()")
    page.press("ArrowRight")
    assert page.value(VIEW) == "1"
    changed = [a != b for a, b in zip(sources, page.value(SHOWN), strict=True)]
    assert changed == [False, True, False, True, True]  # reference, truth, copied reference, two methods
    after = pixels(page, tmp_path / "after.png")
    assert (np.abs(after - before).max(axis=2) > 40).mean() > 0.005
    assert page.value("location.hash") == "#subject=anna&view=1"
    page.press("ArrowLeft")
    page.press("ArrowLeft")
    assert page.value(VIEW) == "7"  # round the circle
    page.press("Home")
    assert page.value(VIEW) == "0"
    page.press("End")
    assert page.value(VIEW) == "7"
    assert "yaw" in page.value("document.getElementById('stage').getAttribute('aria-valuetext')")


def test_dragging_turns_both_ways(page: Page) -> None:
    x, y = middle_of_stage(page)
    page.drag(x, y, by=43)
    assert page.value(VIEW) == "3"
    page.drag(x, y, by=-29)
    assert page.value(VIEW) == "1"
    assert page.value("document.getElementById('view').value") == "1"
    assert page.value("location.hash").endswith("&view=1")


def test_slider_and_play(page: Page) -> None:
    page.value("document.getElementById('view').value = 5")
    page.value("document.getElementById('view').dispatchEvent(new Event('input'))")
    assert page.value(VIEW) == "5"
    page.value("document.getElementById('play').click()")
    page.wait_for(f"{VIEW} !== '5'")
    page.value("document.getElementById('play').click()")
    stopped = page.value(VIEW)
    page.value("new Promise((done) => setTimeout(done, 400))")
    assert page.value(VIEW) == stopped
    assert page.value("document.getElementById('play').getAttribute('aria-pressed')") == "false"


def test_address_chooses_subject_and_view(page: Page, report: Path) -> None:
    shown_name = page.value("document.getElementById('subject').options[1].text")
    assert shown_name == "b \"<i>&'\\nö"
    page.value("document.getElementById('subject').selectedIndex = 1")
    page.value("document.getElementById('subject').dispatchEvent(new Event('change'))")
    page.value("document.getElementById('stage').focus()")
    page.press("ArrowRight")
    address, sources = page.value("location.href"), page.value(SHOWN)
    page.open(address)
    assert page.value("document.getElementById('stage').dataset.subject") == shown_name
    assert page.value(VIEW) == "1"
    assert page.value(SHOWN) == sources
    page.open(report.as_uri() + "#subject=nobody&view=99")
    assert page.value(VIEW) == "0"
    assert page.problems == []


def test_difference_is_black_where_pictures_are_equal(page: Page, tmp_path: Path) -> None:
    page.value("document.getElementById('difference').click()")
    page.value("document.getElementById('stage').scrollIntoView({behavior: 'instant'})")
    boxes = page.value(
        "[...document.querySelectorAll('.panel.method .frame')].map((frame) => {"
        " const b = frame.getBoundingClientRect(); return [b.x, b.y, b.right, b.bottom].map(Math.round); })"
    )
    picture = pixels(page, tmp_path / "difference.png")
    left, top, right, bottom = boxes[0]
    assert picture[top + 4 : bottom - 4, left + 4 : right - 4].max() < 30  # view 0 is the reference
    left, top, right, bottom = boxes[1]
    assert picture[(top + bottom) // 2, (left + right) // 2].max() > 150


@pytest.mark.parametrize(("width", "dark"), [(1400, False), (1400, True), (400, False)])
def test_screenshots_have_no_overflow(
    page: Page, report: Path, tmp_path: Path, width: int, dark: bool
) -> None:
    page.open(report.as_uri(), width=width, dark=dark)
    page.screenshot(tmp_path / "page.png", whole=True)
    image = Image.open(io.BytesIO((tmp_path / "page.png").read_bytes()))
    assert image.width == width
    assert image.height > 3000
    background = image.convert("RGB").getpixel((2, 2))
    assert (max(background) < 60) == dark
    clipped = page.value(
        "[...document.querySelectorAll('svg.plot text')].filter((t) => {"
        " const a = t.getBoundingClientRect(), b = t.ownerSVGElement.getBoundingClientRect();"
        " return a.left < b.left - 1 || a.right > b.right + 1 || a.bottom > b.bottom + 2; })"
        ".map((t) => t.textContent)"
    )
    assert clipped == []
