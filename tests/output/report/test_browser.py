"""A browser's word on the report: it opens offline, keys reach everything, and it looks as it did.

Screenshots are compared with those in `screenshots`, as means of luminance over blocks of 8×8 CSS pixels and with a
font that Matplotlib carries, so that the machine's fonts and its way of smoothing letters do not count. After a change
that is meant, DEFORMGAN_UPDATE_SCREENSHOTS=1 writes them anew; look at them before you commit them.
"""

from __future__ import annotations

import base64
import importlib.util
import io
import os
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pytest
import small_report
from PIL import Image as Picture

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
FLAGS = {
    "viewer": ["--no-sandbox", "--use-gl=angle", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"],
    "plain": ["--no-sandbox", "--disable-gpu"],  # software draws whole pages several times faster without WebGL
}
PATIENCE = 120_000  # milliseconds; software draws, on machines that have other things to do
REFERENCES = Path(__file__).parent / "screenshots"
BLOCK = 8  # CSS pixels
UNLIKE, MOST_UNLIKE = 0.1, 0.01  # a block is unlike from this difference on; so many of a page may be
WIDTHS = {"desktop": 1400, "phone": 390, "print": 718}  # A4 within its margins
# what breaks a layout, and must be seen
BROKEN = {
    "desktop": [
        ".strip{display:block}",
        ".f{position:static;visibility:visible}",
        "body{max-width:none;padding:0}",
        ".pic img{filter:invert(1)}",
    ],
    # nothing that changes how far strips scroll, for then they would not be where they were
    "phone": [".tiles{grid-template-columns:1fr!important}", ".groups tr{display:table-row!important}"],
    "print": [".controls,nav,#copied{display:flex!important}", ".compare .f{position:absolute!important}"],
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(importlib.util.find_spec("playwright") is None, reason="no playwright: pip install playwright"),
]


@pytest.fixture(scope="module")
def browsers() -> Iterator[dict[str, Any]]:
    """One that can draw the viewer, and one for everything else."""
    from playwright.sync_api import Error, expect, sync_playwright

    expect.set_options(timeout=20_000)
    with sync_playwright() as play:
        try:
            opened = {name: play.chromium.launch(executable_path=BROWSER, args=flags) for name, flags in FLAGS.items()}
        except Error as error:
            if BROWSER is not None:
                raise
            pytest.skip(f"no Chromium (make browser): {str(error).splitlines()[0]}")
        yield opened
        for one in opened.values():
            one.close()


@pytest.fixture(scope="module")
def browser(browsers: dict[str, Any]) -> Any:
    return browsers["plain"]


@pytest.fixture(scope="module")
def addresses(tmp_path_factory: pytest.TempPathFactory) -> dict[bool, str]:
    """Of the page with and without the viewer."""
    folder = tmp_path_factory.mktemp("report <b>&")
    return {viewer: small_report.write(folder / f"{viewer}.html", viewer=viewer).as_uri() for viewer in (True, False)}


@dataclass
class Opened:
    """A page, what it complained of, and what it asked for."""

    page: Any
    said: list[str] = field(default_factory=list)
    asked: list[str] = field(default_factory=list)


def open_page(browser: Any, address: str, width: int, *, viewer: bool = True, **options: Any) -> Opened:
    """The page, when its viewer is ready if it has one."""
    page = browser.new_context(viewport={"width": width, "height": 900}, reduced_motion="reduce", **options).new_page()
    page.set_default_timeout(PATIENCE)
    new = Opened(page)
    page.on("console", lambda message: new.said.append(message.text) if message.type in ("error", "warning") else None)
    page.on("pageerror", lambda error: new.said.append(str(error)))
    page.on("request", lambda request: new.asked.append(request.url[:200]))
    page.goto(address)
    if viewer:
        page.wait_for_selector("html[data-viewer=ready]")
    return new


@pytest.fixture(scope="module")
def whole(browsers: dict[str, Any], addresses: dict[bool, str]) -> Iterator[Opened]:
    """The whole page in a window without a network; opening it is slow where software draws the viewer."""
    new = open_page(browsers["viewer"], addresses[True], 1200, offline=True)
    yield new
    new.page.close()


def seen(page: Any, selector: str) -> np.ndarray:
    page.locator(selector).scroll_into_view_if_needed()
    page.wait_for_timeout(200)
    return np.asarray(Picture.open(io.BytesIO(page.locator(selector).screenshot())).convert("L"), float) / 255


def test_it_opens_offline_and_the_viewers_move_together(whole: Opened, addresses: dict[bool, str]) -> None:
    from playwright.sync_api import expect

    page = whole.page
    assert [url for url in whole.asked if not url.startswith(("data:", "blob:"))] == [addresses[True]]
    assert page.evaluate("document.images.length && [...document.images].every(i => i.naturalWidth > 0)")
    before = {side: seen(page, f"#{side}") for side in ("left", "right")}
    for side, picture in before.items():
        assert picture.std() > 0.05, f"the {side} canvas is empty"
    assert not np.allclose(before["left"], before["right"])
    page.focus("#left")
    told = page.inner_text("#where")
    for _ in range(4):
        page.keyboard.press("PageUp")
        page.keyboard.press("ArrowLeft")
    assert page.inner_text("#where") != told
    for side, picture in before.items():
        assert np.abs(seen(page, f"#{side}") - picture).max() > 0.3, f"the {side} crosshairs stayed where they were"
    page.select_option("#overlay", "change")
    expect(page.locator("#where")).to_contain_text(re.compile("grew|shrank|unchanged"))
    assert page.locator("#overlay-bar").is_visible()
    assert "grew to 2 ×" in page.inner_text("#overlay-bar")
    fields = r"x (-?[\d.]+), y (-?[\d.]+), z (-?[\d.]+) mm \(RAS\+\): fixed [\d.]+, moved [\d.]+, "
    assert re.match(fields, page.inner_text("#where")), page.inner_text("#where")
    page.click("#zoom-in")
    assert page.inner_text("#zoom") == "1.5 ×"
    page.locator("#white").fill("40")
    page.focus("#left")
    page.keyboard.press("0")
    assert page.inner_text("#zoom") == "1 ×"
    assert (page.input_value("#white"), page.input_value("#overlay")) == ("100", "")
    # the driver remarks on its own speed
    assert not [line for line in whole.said if "GL Driver Message" not in line]


def test_keys_reach_everything(whole: Opened) -> None:
    page = whole.page
    page.evaluate("(top => { top.tabIndex = -1; top.focus(); })(document.querySelector('h1'))")
    reached, numbers = [], set()
    for _ in range(120):
        page.keyboard.press("Tab")
        at = page.evaluate("document.activeElement.id || document.activeElement.outerHTML.slice(0, 90)")
        number = page.evaluate("[...document.querySelectorAll('*')].indexOf(document.activeElement)")
        if number in numbers or at.startswith("<body"):
            break
        reached.append(at)
        numbers.add(number)
        ring = page.evaluate("getComputedStyle(document.activeElement).outlineStyle")
        assert ring != "none", f"nobody sees that {at} has the focus"
    wanted = [
        "play",
        "swap",
        "compare",
        "blend",
        "overlay",
        "opacity",
        "black",
        "white",
        "zoom-out",
        "zoom-in",
        "reset",
    ]
    wanted += ["left", "right", "command", "paragraph"]
    assert [name for name in reached if name in wanted] == wanted
    for name in ("data-mode", "data-pair", "data-mark", "data-copy", "<summary"):
        assert any(name in one for one in reached), f"no key leads to {name}"
    assert sum(name.startswith("<a href=") for name in reached) == page.locator("nav a").count() == 11
    assert any(name.startswith("<summary") for name in reached)
    for link in page.locator("nav a").all():
        assert page.locator(str(link.get_attribute("href"))).count() == 1


def test_the_flicker_obeys_keys_and_rests_where_motion_is_not_wanted(browser: Any, addresses: dict[bool, str]) -> None:
    from playwright.sync_api import expect

    page = open_page(browser, addresses[False], 1200, viewer=False).page

    def visible() -> str:
        """The image that lies on top and is seen."""
        shown = [name for name in ("before", "after") if page.locator(f"#compare .{name}").first.is_visible()]
        return shown[0] if shown else "fixed"

    assert page.inner_text("#play") == "Play", "it must not move where motion is not wanted"
    page.focus("#compare")
    for key, wanted, words in (
        ("ArrowLeft", "fixed", "fixed image"),
        ("ArrowRight", "after", "moved image"),
        ("ArrowUp", "before", "moving image before registration"),
        ("ArrowLeft", "fixed", "fixed image"),
        ("ArrowDown", "after", "moved image"),
    ):
        page.keyboard.press(key)
        assert (visible(), page.inner_text("#shown")) == (wanted, words), key
    assert page.get_attribute("[data-pair=fixed-after]", "aria-pressed") == "true"
    assert page.get_attribute("#shown", "aria-live") == "polite"
    page.keyboard.press(" ")
    assert page.inner_text("#play") == "Pause"
    assert page.get_attribute("#shown", "aria-live") == "off", "a running flicker must not be read out"
    first = page.inner_text("#shown")
    expect(page.locator("#shown")).not_to_have_text(first)
    page.focus("#play")
    page.keyboard.press("Enter")
    assert page.inner_text("#play") == "Play"
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    assert page.inner_text("#play") == "Play"
    page.emulate_media(reduced_motion="no-preference")
    expect(page.locator("#play")).to_have_text("Pause")
    page.close()


def test_the_ways_to_compare(browser: Any, addresses: dict[bool, str]) -> None:
    page = open_page(browser, addresses[False], 1200, viewer=False).page
    fixed, moved = "#compare .cell:nth-child(4) .f.fixed", "#compare .cell:nth-child(4) .f.after"
    page.click("[data-mode=side]")
    boxes = [page.locator(one).first.bounding_box() for one in (fixed, moved)]
    assert boxes[0]["x"] == boxes[1]["x"]
    assert boxes[0]["y"] + boxes[0]["height"] < boxes[1]["y"]
    page.click("[data-mode=slider]")
    clip = f"getComputedStyle(document.querySelector('{moved}')).clipPath"
    assert "50%" in page.evaluate(clip)
    page.focus("#compare")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    assert "56%" in page.evaluate(clip)
    picture = page.locator("#compare .pic").first
    place = picture.bounding_box()  # its size alone: where it is may still change as the page scrolls to the focus
    picture.click(position={"x": 0.2 * place["width"], "y": 0.5 * place["height"]})
    assert page.input_value("#cut") == "20"
    page.click("[data-pair=before-after]")
    assert page.inner_text("#shown") == "moving image before registration and moved image"
    page.click("[data-mode=checker]")
    assert "conic-gradient" in page.evaluate(clip.replace("clipPath", "maskImage"))
    page.close()


def test_what_lies_over_the_images_can_be_taken_off(browser: Any, addresses: dict[bool, str]) -> None:
    page = open_page(browser, addresses[False], 1200, viewer=False).page
    shown = [name for name in ("outline", "labels", "lesion", "points") if page.is_checked(f"input[data-mark={name}]")]
    assert len(shown) == 4
    before = seen(page, "#compare")
    for name in shown:
        page.click(f"input[data-mark={name}]")
        after = seen(page, "#compare")
        assert (np.abs(after - before) > 0.1).sum() > 100, f"{name} is drawn, and cannot be taken off"
        before = after
    page.close()


def test_strips_begin_in_the_middle_where_they_scroll(browser: Any, addresses: dict[bool, str]) -> None:
    page = open_page(browser, addresses[False], 390, viewer=False).page
    places = page.evaluate(
        "[...document.querySelectorAll('.strip')].map(s => s.scrollLeft / (s.scrollWidth - s.clientWidth))"
    )
    assert len(places) > 9
    assert all(0.3 < place < 0.7 for place in places)
    page.close()


def test_what_is_copied_is_what_is_read(browser: Any, addresses: dict[bool, str]) -> None:
    from playwright.sync_api import expect

    new = open_page(browser, addresses[False], 1200, viewer=False, permissions=["clipboard-read", "clipboard-write"])
    new.page.click("[data-copy=command]")
    # not wait_for_function, which the page's own security policy may forbid
    expect(new.page.locator("#copied")).not_to_be_empty()
    assert new.page.evaluate("getSelection().toString()").strip() == new.page.inner_text("#command").strip()
    assert not new.said
    new.page.close()


def test_no_page_on_paper_is_nearly_blank(browser: Any, addresses: dict[bool, str], tmp_path: Path) -> None:
    if shutil.which("pdftoppm") is None:
        pytest.skip("no pdftoppm: install poppler")
    page = open_page(browser, addresses[False], 718, viewer=False).page
    (tmp_path / "page.pdf").write_bytes(page.pdf(prefer_css_page_size=True, print_background=True))
    subprocess.run(["pdftoppm", "-r", "30", "-gray", tmp_path / "page.pdf", tmp_path / "page"], check=True)
    sheets = [np.asarray(Picture.open(path)) < 250 for path in sorted(tmp_path.glob("page-*.pgm"))]
    assert 3 <= len(sheets) <= 10
    for number, sheet in enumerate(sheets[:-1]):
        last = np.flatnonzero(sheet.any(1))[-1] / len(sheet)
        assert last > 0.6, f"page {number + 1} ends after {last:.0%}"
    page.close()


def test_the_viewers_stand_side_by_side_where_there_is_room(whole: Opened) -> None:
    def places(width: int) -> list[dict[str, float]]:
        whole.page.set_viewport_size({"width": width, "height": 900})
        return [whole.page.locator(f"#{side}").bounding_box() for side in ("left", "right")]

    left, right = places(1200)
    assert left["y"] == right["y"]
    assert left["x"] + left["width"] < right["x"]
    assert min(left["width"], left["height"]) > 300
    left, right = places(390)
    assert left["x"] == right["x"]
    assert left["y"] + left["height"] < right["y"]
    assert min(left["width"], left["height"]) > 300
    whole.page.set_viewport_size({"width": 1200, "height": 900})


def test_nothing_sticks_out_of_a_narrow_window(browser: Any, whole: Opened, tmp_path: Path) -> None:
    long = {role: {"path": role + "/" + "n" * 240 + ".nii.gz", "sha256": "c" * 64} for role in ("fixed", "moving")}
    address = small_report.write(tmp_path / "r.html", viewer=False, inputs=long).as_uri()
    for page in (whole.page, open_page(browser, address, 320, viewer=False).page):
        for width in (320, 390, 640, 641, 1200):
            page.set_viewport_size({"width": width, "height": 700})
            assert page.evaluate("document.documentElement.scrollWidth") <= width
        small = page.evaluate("[...document.querySelectorAll('button')].filter(b => b.offsetHeight < 24).length")
        assert small == 0, "a finger misses buttons lower than 24 pixels"


@pytest.fixture(scope="module", params=list(WIDTHS))
def drawn(request: pytest.FixtureRequest, browser: Any, addresses: dict[bool, str]) -> Iterator[tuple[str, Any]]:
    """A kind of view and its page, in the font of the references; what WebGL draws is the graphics driver's affair."""
    name = request.param
    options = {"device_scale_factor": 0.5, "color_scheme": "light", "bypass_csp": True}
    page = open_page(browser, addresses[False], WIDTHS[name], viewer=False, **options).page
    if name == "print":
        page.emulate_media(media="print")
    font = base64.b64encode((Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf").read_bytes())
    page.add_style_tag(
        content=f"@font-face{{font-family:F;src:url(data:font/ttf;base64,{font.decode()})}}*{{font-family:F!important}}"
    )
    page.evaluate("document.fonts.ready")
    # where strips come to rest is for the browser to say; their start is the same everywhere
    page.add_style_tag(content=".strip{scroll-snap-type:none!important}")
    page.evaluate("document.querySelectorAll('.strip').forEach(strip => { strip.scrollLeft = 0; })")
    page.wait_for_timeout(300)
    yield name, page
    page.close()


def blocks(page: Any) -> np.ndarray:
    """Mean luminance of the whole page over blocks, (rows, columns) in [0, 1].

    Blocks are counted from the top left, so that a line more at the end of the page leaves those above as they were.
    """
    picture = np.asarray(Picture.open(io.BytesIO(page.screenshot(full_page=True))).convert("L"), float) / 255
    side = BLOCK // 2  # pixels, of two CSS pixels each
    picture = np.pad(picture, [(0, -length % side) for length in picture.shape], mode="edge")
    rows, columns = picture.shape
    return picture.reshape(rows // side, side, columns // side, side).mean((1, 3))


def unlikeness(found: np.ndarray, reference: np.ndarray) -> float:
    """Share of blocks that are unlike; 1 where the page is narrower, wider or clearly longer or shorter."""
    if found.shape[1] != reference.shape[1] or abs(len(found) / len(reference) - 1) > 0.02:
        return 1.0
    # a row that is a pixel higher moves all below it: the best of small shifts, for each block
    rows = min(len(found), len(reference))
    best = np.ones((rows, reference.shape[1]))
    for shift in (-2, -1, 0, 1, 2):
        moved = np.roll(found, shift, 0)[:rows]
        best = np.minimum(best, np.abs(moved - reference[:rows]))
    return float((best > UNLIKE).mean())


def test_it_looks_as_it_did(drawn: tuple[str, Any], tmp_path: Path) -> None:
    name, page = drawn
    assert page.pdf()[:5] == b"%PDF-"
    path, found = REFERENCES / f"{name}.png", blocks(page)
    if os.environ.get("DEFORMGAN_UPDATE_SCREENSHOTS"):
        REFERENCES.mkdir(exist_ok=True)
        Picture.fromarray((found * 255).round().astype(np.uint8)).save(path, optimize=True)
    reference = np.asarray(Picture.open(path), float) / 255
    unlike = unlikeness(found, reference)
    if unlike > MOST_UNLIKE:
        page.screenshot(path=tmp_path / f"{name}.png", full_page=True)
    assert unlike <= MOST_UNLIKE, f"{unlike:.1%} of the page changed, see {tmp_path / name}.png beside {path}"


def test_a_broken_layout_is_seen(drawn: tuple[str, Any]) -> None:
    name, page = drawn
    reference = np.asarray(Picture.open(REFERENCES / f"{name}.png"), float) / 255
    for style in BROKEN[name]:
        tag = page.add_style_tag(content=style)
        assert unlikeness(blocks(page), reference) > 2 * MOST_UNLIKE, f"{style} passed for the page as it was"
        tag.evaluate("node => node.remove()")
    assert unlikeness(blocks(page), reference) <= MOST_UNLIKE
