"""The report in a real browser: Chromium without a window, from disk and from `tts view`, with hostile answers inside.

`install_chromium.sh` puts it where TTS_CHROMIUM points (default: ~/.cache/ttscale/chromium/chromium).
"""

import asyncio
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from tests.support.searched import BEAM, searching
from tts import MockModel
from tts.report import RunComparison, write_page
from tts.report.page import size
from tts.runs import Experiment, Run

CHROMIUM = Path(os.environ.get("TTS_CHROMIUM", "~/.cache/ttscale/chromium/chromium")).expanduser()
HOSTILE = """</script><script>window.harmed = 1</script>
<img src="https://evil.example/a.png" onerror="window.harmed = 1">
<a href="javascript:window.harmed=1">x</a> \u2028 ${alert(1)} {{ 7 * 7 }} --> <!--"""
PROBLEMS = 12
PATIENCE = 120_000
"""Milliseconds for what a busy machine may take long to draw; only what never appears takes as long."""
T = TypeVar("T")

expect.set_options(timeout=PATIENCE)


def finished(work: Coroutine[Any, Any, T]) -> T:
    """The result of `work`, in a thread of its own: Playwright has an event loop in this one."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, work).result()


def answering() -> Callable[[dict[str, Any]], str]:
    """Right, plausible or absurd; harder problems are right less often. In whichever order problems are solved, the
    answers to each are the same.
    """
    chances: dict[str, random.Random] = {}

    def answer(request: dict[str, Any]) -> str:
        asked = json.dumps(request["messages"])
        chance = chances.setdefault(asked, random.Random(asked))
        number = int(re.findall(r"\[(\d+)\]", asked)[0])
        right = chance.random() < 1 - number / PROBLEMS
        return f"{HOSTILE}\nAnswer: {42 if right else chance.choice([41, 45, 7])}"

    return answer


def experiment(folder: Path, **more: Any) -> Experiment:
    lines = [
        {"id": f"<b>p{i}</b>", "prompt": f"[{i}] What is six times seven? {HOSTILE}", "answer": 42}
        for i in range(PROBLEMS)
    ]
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)))
    weak = {"name": "regex", "pattern": r"Answer: 4[12]"}
    return Experiment.parse(
        {
            "task": {"name": "jsonl", "path": str(folder / "questions.jsonl"), "answer_verifier": "numeric_answer"},
            "strategies": [
                {"name": "best_of_n", "n": 16, "verifier": weak},
                {"name": "self_consistency", "n": 16, "answer": "numeric_answer"},
                {"name": "self_refine", "rounds": 4, "verifier": weak},
            ],
            "models": {"mock": MockModel(answering(), card={"parameters": 1e9})},
            **more,
        }
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def run(folder: Path) -> Run:
    finished(experiment(folder).run(folder / "one"))
    return Run(folder / "one")


@pytest.fixture(scope="module")
def report(folder: Path, run: Run) -> str:
    write_page(RunComparison([run]), folder / "report.html")
    return (folder / "report.html").as_uri()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    if not CHROMIUM.exists():
        pytest.fail(f"no browser at {CHROMIUM}: run tests/integration/install_chromium.sh {CHROMIUM.parent}")
    environment: dict[str, str | float | bool] = {**os.environ, "LD_LIBRARY_PATH": str(CHROMIUM.parent / "lib")}
    with sync_playwright() as play:
        browser = play.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox"], env=environment, timeout=PATIENCE
        )
        yield browser
        browser.close()


@contextmanager
def opened(browser: Browser, url: str, **options: Any) -> Iterator[Page]:
    """A page of `url` that is drawn. At the end nothing may have failed, and nothing been asked from elsewhere."""
    page = browser.new_page(**{"locale": "en-US", "viewport": {"width": 1280, "height": 900}, **options})
    page.set_default_timeout(PATIENCE)
    complaints: list[str] = []
    asked: list[str] = []
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("dialog", lambda dialog: complaints.append(f"dialog: {dialog.message}"))
    page.on("request", lambda request: asked.append(request.url))
    page.goto(url)
    page.wait_for_selector("html[data-ready]")
    page.wait_for_selector("#curves-chart canvas")
    try:
        yield page
        assert complaints == []
        assert page.evaluate("window.harmed") is None
        here = url.partition("/report")[0]
        assert [one for one in asked if not one.startswith(here)] == []
    finally:
        page.close()


def inked(page: Page, selector: str) -> int:
    """How many colours the canvas shows: a blank one has a single one."""
    return page.evaluate(
        """(selector) => {
            const canvas = document.querySelector(selector);
            const pixels = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data;
            return new Set(new Uint32Array(pixels.buffer)).size;
        }""",
        selector,
    )


def test_who_is_ahead_is_said_with_the_differences_and_filtered_pass_at_k(chromium: Browser, report: str, run: Run):
    comparison = RunComparison([run])
    (contest,) = comparison.contests
    with opened(chromium, report) as page:
        card = page.locator(".card").first
        assert (card.locator("h3").text_content() == "Best strategy") == (not contest.equals)
        assert contest.words.replace(" · mock", "") in (card.text_content() or "")
        behind = page.locator('#summary [data-name="behind the most accurate"]').all_text_contents()
        assert sum("to" in text for text in behind) == len(contest.differences) == 2
        assert page.locator("#filtered tbody tr").count() == len(comparison.filtered) == 2
        submitted = page.locator('#filtered td[data-name="k = 1"] b').all_text_contents()
        assert submitted == [f"{100 * curve.y[0]:.1f} %" for curve in comparison.filtered]
        if folder := os.environ.get("TTS_SCREENSHOTS"):
            page.screenshot(path=f"{folder}/summary.png", full_page=True)


def test_it_opens_from_disk_with_charts_and_asks_for_nothing(chromium: Browser, report: str, run: Run):
    with opened(chromium, report) as page:
        assert report.startswith("file://")
        assert [one.text_content() for one in page.locator("#sections a").all()] == [
            "Summary", "Accuracy against compute", "Problem by problem", "Verifiers", "Further questions",
            "How it was made",
        ]  # fmt: skip
        assert page.locator("#summary tbody tr").count() == 3
        for chart in ("#curves-chart canvas", "#verifiers .chart canvas", "#problems canvas"):
            assert inked(page, chart) > 3
        accuracies = [float(text.rstrip(" %")) for text in page.locator("#summary td b").all_text_contents()]
        assert f"{max(accuracies):.1f} %" == page.locator(".card .figure").first.text_content()
        made = page.locator("#made").text_content() or ""
        assert "self_refine" in made
        assert "seeds0" in made.replace(" ", "")


def test_names_are_broken_after_their_marks(chromium: Browser, report: str):
    with opened(chromium, report) as page:
        names = page.locator("#summary tbody code").all()
        assert [name.locator("wbr").count() for name in names] == [
            len(re.findall(r"(?<=\S)[,:/_(](?=\S)", name.text_content() or "")) for name in names
        ]
        assert names


def test_it_draws_where_the_system_has_no_language(chromium: Browser, report: str):
    with opened(chromium, report, locale="en-US@posix") as page:
        assert inked(page, "#curves-chart canvas") > 3


def test_the_axis_and_its_scale_are_chosen(chromium: Browser, report: str):
    def state(page: Page) -> tuple[str, int]:
        return page.evaluate(
            """() => {
                const chart = document.querySelector("#curves-chart .plot").chart;
                return [chart.axes[0].label, chart.scales.x.distr];
            }"""
        )

    with opened(chromium, report) as page:
        assert state(page) == ["completion tokens", 3]
        offered = page.locator("#curves select").first.locator("option").all_text_contents()
        assert offered == [
            "samples",
            "completion tokens",
            "prompt tokens",
            "total tokens",
            "seconds (s)",
            "flops (FLOPs)",
        ]
        page.locator("#curves select").first.select_option("samples")
        assert state(page) == ["samples", 3]
        page.get_by_label("log scale").uncheck()
        assert state(page) == ["samples", 1]
        before = page.locator("#frontier tbody tr").all_text_contents()
        changed = []
        for button in page.locator(".legend button").all():  # which strategies are ahead is the run's own affair
            button.click()
            assert button.get_attribute("aria-pressed") == "false"
            changed.append(page.locator("#frontier tbody tr").all_text_contents() != before)
            button.click()
        assert any(changed)


def test_hovering_and_arrow_keys_name_values(chromium: Browser, report: str):
    with opened(chromium, report) as page:
        chart = page.locator("#curves-chart .plot")
        chart.focus()
        page.keyboard.press("ArrowRight")
        first = page.locator("#hover").text_content() or ""
        assert "%" in first
        page.keyboard.press("ArrowRight")
        assert page.locator("#hover").text_content() != first
        page.keyboard.press("Escape")
        expect(page.locator("#hover")).to_be_hidden()
        x, y = page.evaluate(
            """() => {
                const chart = document.querySelector("#curves-chart .plot").chart;
                const points = chart.data[0].map((x, i) => [x, chart.data[1][i]]).filter((point) => point[1] != null);
                const [x, y] = points[Math.floor(points.length / 2)];
                return [chart.valToPos(x, "x"), chart.valToPos(y, "y")];
            }"""
        )
        chart.locator(".u-over").hover(position={"x": x, "y": y})
        expect(page.locator("#hover")).to_be_visible()


def test_a_problem_opens_with_candidates_verdicts_lineage_timeline_and_cost(chromium: Browser, report: str, run: Run):
    searched = next(track for track in run.tracks if track.strategy.startswith("self_refine"))
    number = next(int(row.problem[4:-4]) for row in searched.rows if len(searched.candidates(row)) > 1)
    with opened(chromium, report) as page:
        page.locator("#problem-list button.link").nth(number).click()
        dialog = page.locator("dialog")
        dialog.locator(".candidate").first.wait_for()
        expect(dialog.locator("h2")).to_have_text(f"<b>p{number}</b>")
        assert "six times seven" in (dialog.locator(".prompt").text_content() or "")
        assert dialog.locator(".candidate").count() == 16
        assert dialog.locator(".dot").count() == 16
        assert dialog.locator(".timeline rect").count() >= 1
        assert dialog.locator("table tbody tr").count() >= 1
        assert dialog.locator(".outline").count() == 0  # independent samples have no origin to show
        page.get_by_role("tab").nth(2).click()
        assert dialog.locator(".candidate").count() > 1
        expect(dialog.locator(".outline .row")).to_have_count(dialog.locator(".candidate").count())
        refused = dialog.locator(".candidate", has_text="refused").first
        refused.locator("summary").click()
        assert "Answer: " in (refused.locator("pre").first.text_content() or "")
        assert refused.locator(".feedback small").all_text_contents() == ["the verifier says", "grading says"]
        page.keyboard.press("Escape")
        expect(dialog).to_be_hidden()
        expect(page).not_to_have_url(re.compile("#problem"))


def test_the_tiles_are_used_with_the_keyboard_and_an_address_opens_a_problem(chromium: Browser, report: str):
    with opened(chromium, report) as page:
        page.locator("#problems canvas").nth(1).focus()
        for key in ("ArrowRight", "ArrowRight", "ArrowRight", "Enter"):
            page.keyboard.press(key)
        page.locator("dialog .candidate").first.wait_for()
        expect(page).to_have_url(re.compile("#problem-2$"))
        expect(page.locator("dialog h2")).to_have_text("<b>p2</b>")
        assert (page.locator("dialog [role=tab][aria-selected=true]").text_content() or "").startswith("self_consist")
        page.get_by_label("Next problem").click()
        expect(page.locator("dialog h2")).to_have_text("<b>p3</b>")
    with opened(chromium, report + "#problem-5") as page:
        expect(page.locator("dialog h2")).to_have_text("<b>p5</b>")


def test_problems_are_filtered_ordered_and_found(chromium: Browser, report: str):
    with opened(chromium, report) as page:
        controls = page.locator("#problems select")
        controls.nth(1).select_option("easy")
        expect(page.locator("#problem-list tbody tr th").first).to_have_text("<b>p0</b>")
        controls.nth(0).select_option("mistaken")
        mistaken = page.locator("#problem-list tbody tr").count()
        assert 0 < mistaken < PROBLEMS
        controls.nth(0).select_option("all")
        page.get_by_role("searchbox").fill("p11")
        expect(page.locator("#problem-list tbody tr th")).to_have_text(["<b>p11</b>"])


def test_each_task_has_a_chart_of_its_own(chromium: Browser, folder: Path, run: Run):
    lab = {"task": "lab_math", "limit": 4, "strategies": ["single", "self_consistency:n=4"]}
    finished(Experiment.parse(lab | {"models": {"mock": MockModel(lambda _: "Answer: 7")}}).run(folder / "lab"))
    write_page(RunComparison([run, Run(folder / "lab")]), folder / "tasks.html")
    with opened(chromium, (folder / "tasks.html").as_uri()) as page:
        assert page.locator("#curves-chart > h3").all_text_contents() == ["jsonl", "lab_math"]
        spoken = [plot.get_attribute("aria-label") or "" for plot in page.locator("#curves-chart .plot").all()]
        assert [words.partition(":")[0] for words in spoken] == ["jsonl", "lab_math"]
        buttons = [legend.locator("button").count() for legend in page.locator("#curves-chart .legend").all()]
        assert buttons == [3, 2]
        assert page.locator("#frontier > h3").all_text_contents() == ["jsonl", "lab_math"]
        for chart, run_name in zip(page.locator("#curves-chart .chart").all(), ("one", "lab"), strict=True):
            chart.locator("summary").click()
            lines = chart.locator('.numbers [data-name="line"]')
            lines.first.wait_for()
            assert {line.partition("/")[0] for line in lines.all_text_contents()} - {"frontier"} == {run_name}


def test_in_print_nothing_is_cut_off_and_colours_stay(chromium: Browser, report: str):
    parts = "[...document.querySelectorAll('html, .table, figure, .chart')]"
    with opened(chromium, report) as page:
        page.emulate_media(media="print")
        page.set_viewport_size({"width": 720, "height": 1020})  # A4 between its margins
        until(page, "Math.max(...[...document.querySelectorAll('canvas')].map((one) => one.clientWidth)) <= 720")
        until(page, f"{parts}.every((one) => one.scrollWidth <= one.clientWidth + 1)")
        assert page.evaluate("getComputedStyle(document.querySelector('.swatch')).printColorAdjust") == "exact"


PHONE: dict[str, Any] = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_on_a_phone_nothing_scrolls_sideways(chromium: Browser, report: str, scheme: str):
    with opened(chromium, report, **PHONE, color_scheme=scheme) as page:
        sideways = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert page.evaluate(sideways) == 0
        ground = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert (sum(map(int, re.findall(r"\d+", ground))) < 200) == (scheme == "dark")
        page.locator("#problems canvas").first.tap(position={"x": 5, "y": 5})
        page.locator("dialog .candidate").first.wait_for()
        assert page.evaluate("document.querySelector('dialog .body').scrollWidth <= innerWidth")
        assert page.evaluate(sideways) == 0


def until(page: Page, expression: str) -> None:
    """Wait until it holds; the page's policy forbids the browser to evaluate texts while it waits by itself."""
    deadline = time.monotonic() + PATIENCE / 1000
    while not page.evaluate(expression):
        assert time.monotonic() < deadline, f"never became true: {expression}"
        page.wait_for_timeout(25)


def test_tiles_and_charts_fit_again_after_the_window_has_changed(chromium: Browser, report: str):
    shape = "[...document.querySelectorAll('#problems canvas, #curves-chart canvas')].map((one) => one.clientWidth)"
    with opened(chromium, report) as page:
        before = page.evaluate(shape)
        page.set_viewport_size({"width": 340, "height": 600})
        until(page, f"Math.max(...{shape}) <= 340")
        page.locator("#verifiers").screenshot()  # sets the window to the height of the section for a moment
        page.set_viewport_size({"width": 1280, "height": 900})
        until(page, f"String({shape}) === String({json.dumps(before)})")


def test_colours_follow_the_system_or_the_reader(chromium: Browser, report: str):
    with opened(chromium, report) as page:
        ground = "getComputedStyle(document.body).backgroundColor"
        light = page.evaluate(ground)
        page.emulate_media(color_scheme="dark")
        dark = page.evaluate(ground)
        assert light != dark
        page.locator("#theme").click()
        assert page.evaluate(ground) == light


TALL = "document.querySelector('.outline').scrollHeight"


@pytest.fixture(scope="module")
def searches(folder: Path) -> str:
    """The address of a report on a small search, and on one of 10,000 steps."""
    finished(searching(BEAM, "broad", remark=HOSTILE).run(folder / "searches"))
    write_page(RunComparison([Run(folder / "searches")]), folder / "report-searches.html")
    return (folder / "report-searches.html").as_uri() + "#problem-0"


def test_a_search_is_walked_and_folded_with_the_keyboard_and_leads_to_its_answer(chromium: Browser, searches: str):
    with opened(chromium, searches) as page:
        dialog, outline = page.locator("dialog"), page.locator(".outline")
        row, here = outline.locator(".row"), outline.locator('[aria-selected="true"]')
        expect(here).to_contain_text("selected")
        whole = page.evaluate(TALL)
        outline.focus()
        page.keyboard.press("Home")
        expect(here).to_have_attribute("aria-level", "1")
        expect(here).to_have_id(outline.get_attribute("aria-activedescendant") or "")
        name = here.locator("b").text_content()
        for key, then in (("ArrowLeft", "false"), ("ArrowRight", "true")):
            page.keyboard.press(key)
            expect(here).to_have_attribute("aria-expanded", then)
            assert (page.evaluate(TALL) < whole) == (then == "false")
        page.keyboard.press("ArrowRight")
        expect(here.locator("b")).to_contain_text(f"{name}.0")
        page.keyboard.press("ArrowLeft")  # folds it
        page.keyboard.press("ArrowLeft")
        expect(here.locator("b")).to_have_text(str(name))
        page.get_by_role("button", name="Fold all", exact=True).click()
        assert row.count() == page.locator('.row[aria-level="1"]').count() == 8
        page.get_by_role("button", name="To the selected answer").click()
        expect(here).to_contain_text("selected")
        assert "passed over in turn" in (outline.text_content() or "")
        assert inked(page, ".picture canvas") > 3
        outline.focus()
        page.keyboard.press("Enter")
        assert page.evaluate("document.activeElement.closest('.candidate') !== null")
        expect(dialog).to_be_visible()


@pytest.mark.parametrize("screen", [{}, PHONE], ids=["desk", "phone"])
def test_ten_thousand_steps_stay_fluent(chromium: Browser, searches: str, screen: dict[str, Any]):
    step = """async () => {
        const outline = document.querySelector(".outline");
        const steps = [];
        for (let i = 1; i <= 40; i++) {
            const start = performance.now();
            outline.scrollTop = i * 6000;
            await new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)));
            steps.push(performance.now() - start);
        }
        return steps.sort((a, b) => a - b);
    }"""
    key = """() => {
        const outline = document.querySelector(".outline");
        const start = performance.now();
        const down = { key: "ArrowDown", bubbles: true };
        for (let i = 0; i < 40; i++) outline.dispatchEvent(new KeyboardEvent("keydown", down));
        return (performance.now() - start) / 40;
    }"""
    with opened(chromium, searches, **screen) as page:
        start = time.perf_counter()
        page.get_by_role("tab").nth(1).click()
        page.locator("dialog", has_text="10,000 nodes").locator(".outline .row").first.wait_for()
        ready = time.perf_counter() - start
        page.get_by_role("button", name="Unfold all").click()
        assert page.evaluate(TALL) > 10_000 * (40 if screen else 20)
        assert page.evaluate("document.querySelector('dialog .body').scrollWidth <= innerWidth")
        scrolled, pressed = page.evaluate(step), page.evaluate(key)
        assert 0 < page.locator(".outline .row").count() < 100
        print(f"first row after {ready:.2f} s, two frames of scrolling: {scrolled[20]:.0f} ms, a key: {pressed:.1f} ms")
        page.locator(".outline").focus()
        page.keyboard.press("End")
        expect(page.locator('.outline [aria-selected="true"]')).to_contain_text("9")


def test_a_search_is_read_on_a_phone(chromium: Browser, searches: str):
    with opened(chromium, searches, **PHONE) as page:
        row = page.locator(".outline .row")
        row.first.wait_for()
        assert page.evaluate("document.querySelector('dialog .body').scrollWidth <= innerWidth")
        box = row.first.bounding_box()
        assert box
        assert box["height"] >= 44
        before = page.evaluate(TALL)
        row.first.locator(".fold").tap()
        expect(row.first).to_have_attribute("aria-expanded", "false")
        assert page.evaluate(TALL) < before
        page.locator(".picture canvas").tap(position={"x": 5, "y": 5})
        expect(page.locator(".step-detail")).to_contain_text("reward")


def test_two_runs_are_compared_and_large_ones_are_sampled(chromium: Browser, tmp_path: Path, run: Run):
    shutil.copytree(run.path, tmp_path / "two")
    both = RunComparison([run, Run(tmp_path / "two")])
    write_page(both, tmp_path / "report-two.html", most=size(both) // 4 + 1)
    with opened(chromium, (tmp_path / "report-two.html").as_uri()) as page:
        assert page.locator(".legend button").count() == 6
        assert "of 3 of them" in (page.locator("#sampled").text_content() or "")
        page.locator("#problem-list button.link").nth(1).click()
        page.locator("dialog .dots").first.wait_for()
        assert "is not among them" in (page.locator("dialog").text_content() or "")


def test_view_shows_a_folder_and_follows_a_run(chromium: Browser, tmp_path: Path, run: Run):
    async def only(limit: int) -> None:
        await experiment(tmp_path, limit=limit).run(tmp_path / "live", resume=True)

    shutil.copytree(run.path, tmp_path / "one")
    finished(only(3))
    command = [sys.executable, "-m", "tts", "view", str(tmp_path), "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            address = server.stdout.readline().strip()
            with opened(chromium, f"{address}report?run=live") as page:
                assert page.locator("#problem-list tbody tr").count() == 3
                finished(only(5))
                page.locator("#problem-list tbody tr").nth(4).wait_for()
                page.locator("#problem-list button.link").nth(4).click()
                page.locator("dialog .candidate").first.wait_for()
            page = chromium.new_page(locale="en-US")
            page.set_default_timeout(PATIENCE)
            page.goto(address)
            page.locator("section.run").nth(1).wait_for()
            assert set(page.locator("section.run h2").all_text_contents()) >= {"one", "live"}
            assert page.locator("[data-state]").first.get_attribute("data-state") == "finished"
            page.get_by_label("Order").select_option("name")
            names = page.locator("section.run h2").all_text_contents()
            assert names == sorted(names)
            page.get_by_label("Find runs").fill("live")
            expect(page.locator("section.run h2")).to_have_text(["live"])
            page.get_by_label("State").select_option("stopped")
            expect(page.locator("section.run")).to_have_count(0)
            page.close()
        finally:
            server.send_signal(signal.SIGINT)
            server.wait(PATIENCE / 1000)
