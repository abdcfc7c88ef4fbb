"""The group's page: one file that asks for nothing, quick at 5000 rows, its ratings a table that merge takes."""

from __future__ import annotations

import importlib.util
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import small_cohort

from deformgan.cohort.group import PAGE, read_ratings
from deformgan.cohort.run import write_group

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome", "chrome"))), None)
COUNT, MANY = 900, 5000


def test_the_page_asks_for_nothing_and_shows_files_words_as_words(tmp_path: Path) -> None:
    store = small_cohort.write_rows(tmp_path, 120, pictures=3)
    write_group(store)
    text = (tmp_path / PAGE).read_text(encoding="utf-8")
    assert "default-src &#39;none&#39;" in text
    assert not re.search(r"""(src|href)\s*=\s*["']?(https?:)?//""", text)
    assert "<b>does not exist" not in text
    assert "\\u003cb>does not exist" in text


@pytest.fixture(scope="module")
def page_path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("group <b>&")
    write_group(small_cohort.write_rows(folder, COUNT, pictures=100))
    return folder / PAGE


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    if importlib.util.find_spec("playwright") is None:
        pytest.skip("no playwright: pip install playwright")
    from playwright.sync_api import Error, sync_playwright

    with sync_playwright() as play:
        try:
            opened = play.chromium.launch(executable_path=BROWSER, args=["--no-sandbox"])
        except Error as error:
            if BROWSER is not None:
                raise
            pytest.skip(f"no Chromium (make browser): {str(error).splitlines()[0]}")
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, page_path: Path) -> Iterator[Any]:
    context = browser.new_context(viewport={"width": 1400, "height": 900}, offline=True, accept_downloads=True)
    opened, said, asked = context.new_page(), [], []
    opened.on("console", lambda message: said.append(message.text))
    opened.on("pageerror", lambda error: said.append(str(error)))
    opened.on("request", lambda request: asked.append(request.url))
    opened.goto(page_path.as_uri())
    yield opened
    assert said == []
    assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
    context.close()


def first_cells(page: Any, column: int) -> list[str]:
    rows = page.locator(f"#body tr:not(.gap) td:nth-child({column})")
    return rows.all_text_contents()


@pytest.mark.slow
def test_it_is_quick_with_5000_rows(browser: Any, tmp_path: Path) -> None:
    """In the processor seconds that the page itself takes, most of which is drawing 5 strip plots."""
    write_group(small_cohort.write_rows(tmp_path, MANY, pictures=300))
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto((tmp_path / PAGE).as_uri())
    assert page.locator("#number").text_content() == f"({MANY})"
    times = page.evaluate(
        """() => { const t = []; const heads = document.querySelectorAll('#head button');
        for (const i of [0, 4, 5]) { const s = performance.now(); heads[i].click(); t.push(performance.now() - s); }
        return t; }"""
    )
    assert page.locator("#body tr").count() < 120, "only what is in sight is made"
    assert sorted(times)[1] < 1500  # some 50 ms on a quiet machine
    page.close()


def test_sorting_filtering_and_searching(page: Any) -> None:
    assert page.locator("#number").text_content() == f"({COUNT})"
    heads = page.locator("#head button").all_text_contents()
    column = next(i for i, text in enumerate(heads) if text.startswith("similarity after"))
    page.locator("#head button").nth(column).click()
    found = [float(text) for text in first_cells(page, column + 1)]
    assert len(found) > 10
    assert found == sorted(found), "the worst first"
    assert page.locator("#head th").nth(column).get_attribute("aria-sort") == "ascending"
    page.locator('[data-state="failed"]').click()
    assert set(first_cells(page, 2)) == {"failed"}
    page.locator("#search").fill("sub-00005")
    page.locator("#number", has_text="(1 of").wait_for()
    assert first_cells(page, 1) == ["sub-00005"]


def test_scrolling_reaches_the_last_row(page: Any) -> None:
    page.evaluate("document.getElementById('frame').scrollTop = 1e9")
    page.wait_for_timeout(200)
    assert len(first_cells(page, 1)) > 5
    height = page.evaluate("document.querySelector('#frame table').offsetHeight")
    assert height > COUNT * 25


def test_a_point_opens_its_report(page: Any, page_path: Path) -> None:
    page.locator("#search").fill("sub-00007")  # else another's point may lie on top
    page.locator("#number", has_text="(1 of").wait_for()
    canvas = page.locator("#strips canvas").first
    at = page.evaluate("""() => { const p = plots[0], i = shown.order.find((i) => typeof p.values[i] === 'number');
        const [x, y] = place(p, i, p.canvas.clientWidth, p.canvas.clientHeight);
        return [x, y, data.rows[i][0], data.reports[i]]; }""")
    report = page_path.parent / at[3]
    report.parent.mkdir(parents=True, exist_ok=True)
    report.write_text("<title>the report</title>")
    with page.expect_popup() as popup:
        canvas.click(position={"x": at[0], "y": at[1]})
    popup.value.wait_for_load_state()
    assert popup.value.url == report.as_uri()


def test_ratings_by_key_become_a_table_that_merge_takes(page: Any, tmp_path: Path) -> None:
    page.locator("#as-pictures").click()
    assert page.locator("#cards .card").count() >= 60
    page.locator("#rater").fill("Anna")
    page.locator("body").click(position={"x": 5, "y": 5})
    names = page.locator("#cards .card").evaluate_all(
        "cards => cards.slice(0, 3).map(c => c.querySelector('p').lastChild.textContent)"
    )
    for key in ("3", "ArrowRight", "1", "ArrowRight", "2"):
        page.keyboard.press(key)
    with page.expect_download() as download:
        page.locator("#save").click()
    download.value.save_as(tmp_path / "ratings.tsv")
    found = read_ratings(tmp_path / "ratings.tsv")
    assert [found[name]["rating"] for name in names] == ["bad", "good", "doubtful"]
    assert {one["rater"] for one in found.values()} == {"Anna"}
    page.reload()
    assert page.locator("#rated").text_content() == f"3 of {COUNT} rated", "the browser remembers"
    page.locator("#forget").click()


def test_ratings_stay_in_reach_below_pictures_without_end(page: Any) -> None:
    page.locator("#as-pictures").click()
    page.locator("body").click(position={"x": 5, "y": 5})
    for count in (1, 30, 60):
        for _ in range(count):
            page.keyboard.press("ArrowRight")
        bar, card = page.locator("#rating").bounding_box(), page.locator("#cards .now").bounding_box()
        assert bar["y"] > 0
        assert bar["y"] + bar["height"] <= 901
        assert card["y"] >= 0
        assert card["y"] + card["height"] <= bar["y"], "the bar hides what is rated"
    page.locator("#as-table").click()
    assert page.locator("#rating").evaluate("bar => getComputedStyle(bar).position") == "static"


def test_what_has_no_result_comes_last_among_the_pictures_and_is_not_rated(page: Any) -> None:
    page.locator('[data-state="failed"]').click()
    page.locator('[data-state="fail"]').click()
    page.locator("#as-pictures").click()
    page.evaluate("further(1000)")
    states = page.locator("#cards .card").evaluate_all("cards => cards.map(c => c.classList[1])")
    assert states == sorted(states, key=["fail", "failed"].index)
    assert set(states) == {"fail", "failed"}
    assert page.locator("#cards .card.failed .grades button").count() == 0
    assert page.locator("#cards .card.fail .grades button").count() == 3 * states.count("fail")


def test_paper_holds_the_first_rows_and_no_empty_page(page: Any, tmp_path: Path) -> None:
    data = page.pdf(format="A4", print_background=True)
    assert 1 <= len(re.findall(rb"/Type\s*/Page\b", data)) <= 4
    page.emulate_media(color_scheme="dark")
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert page.locator("#body tr:not(.gap)").count() == 60
    assert page.locator("#on-paper").text_content() == f"The first 60 of {COUNT} pairs."
    light = page.evaluate("getComputedStyle(document.documentElement).getPropertyValue('--card').trim()")
    assert light == "#fff", "paper is light"
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator("#on-paper").text_content() == ""


def test_nothing_hangs_over_on_a_telephone(browser: Any, page_path: Path) -> None:
    opened = browser.new_page(viewport={"width": 390, "height": 800})
    opened.goto(page_path.as_uri())
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.locator("#as-pictures").click()
    assert opened.evaluate("document.documentElement.scrollWidth") <= 390
    opened.close()
