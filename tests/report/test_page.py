from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from mspipeline.errors import StorageError, TableError
from mspipeline.report.page import CASE_ROWS, COLUMNS, RUN_ROWS, write_page
from tests.report.report_rows import case_row, epoch_row, run_row, sample_row

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """Elements and text of a page; a tag that closes another than the last opened one is an error."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, self.getpos()

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def output(campaign: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page on the campaign."""
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_page(campaign, path, "U-Net on two backends")
    return path


@pytest.fixture
def write(tables_folder: Callable[..., Path], tmp_path: Path) -> Callable[..., str]:
    """Writes a page on rows and gives its text."""

    def write_rows(**rows: Any) -> str:
        output = tmp_path / "report.html"
        write_page(tables_folder(**rows), output, "A campaign")
        return output.read_text(encoding="utf-8")

    return write_rows


def test_the_page_is_well_formed_and_holds_the_values(output: Path) -> None:
    page = Page(output.read_text(encoding="utf-8"))
    assert page.open == []
    for words in (
        "U-Net on two backends",
        "Of 2 groups, unet2d (base_width=8) with tensorflow on the CPU had the highest median Dice",
        "The columns of different backends are not certified: networks were not proven equal.",
        "1,941,105",
        "19.2 s ± 0.3 s, n = 2",
        "ran on GPU",
        "not measured",
        "2 of 3 runs complete, seeds 0, 1",
        "tensorflow-seed2",
        "failed",
        "Tesla T4 (driver 550.54)",
        "keras 3.15.1, numpy 2.4.6",
        "0.9991",
        "-12.5",
    ):
        assert words in page.text, words
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))


def test_every_row_links_to_its_definition_and_every_header_has_a_scope(output: Path) -> None:
    page = Page(output.read_text(encoding="utf-8"))
    ids = {attributes.get("id") for _, attributes in page.tags}
    links = [attributes["href"] or "" for tag, attributes in page.tags if tag == "a"]
    assert len(links) > 30
    assert all(link[0] == "#" and link[1:] in ids for link in links)
    assert all("scope" in attributes for tag, attributes in page.tags if tag == "th")
    drawings = [attributes for _, attributes in page.tags if attributes.get("role") == "img"]
    assert len(drawings) == 7  # loss, Dice, three subsets of cases, hardware of two groups
    assert all(attributes["aria-label"] for attributes in drawings)


def test_the_page_fetches_nothing(output: Path) -> None:
    page = Page(output.read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in page.tags}
    sources = [attributes.get(name) for _, attributes in page.tags for name in ("src", "href", "xlink:href")]
    assert {source.split(",")[0] for source in sources if source and not source.startswith("#")} == {"data:"}


def test_equal_tables_give_equal_bytes(campaign: Path, output: Path, tmp_path: Path) -> None:
    shutil.copytree(campaign, tmp_path / "copy")
    write_page(tmp_path / "copy", tmp_path / "two.html", "U-Net on two backends")
    assert (tmp_path / "two.html").read_bytes() == output.read_bytes()


@pytest.mark.parametrize("hostile", ["<script>alert(1)</script>", '"><img src=x onerror=alert(1)>', "{{ 7*7 }}"])
def test_hostile_names_are_text(write: Callable[..., str], hostile: str) -> None:
    names = {"model": hostile, "host": hostile, "versions": hostile, "graph_hash": hostile, "campaign": hostile}
    page = Page(
        write(
            runs=[run_row(hostile, **names)],
            epochs=[epoch_row(hostile, 1, "train", dice=0.5, loss=1.0)],
            cases=[case_row(hostile, hostile, "test")],
            samples=[sample_row(hostile, 0, hostile, rss_bytes=1)],
        )
    )
    assert page.open == []
    assert not {"script", "img"} & {tag for tag, _ in page.tags}
    assert hostile in page.text


def test_an_undefined_score_is_said_so(write: Callable[..., str]) -> None:
    page = Page(write(runs=[run_row("a")], cases=[case_row("a", "sub-01", "test", dice=float("nan"))]))
    assert page.text.count("undefined") > 4
    page = Page(write(runs=[run_row("a")], cases=[case_row("a", f"sub-0{n}", "test", dice=None) for n in (1, 2)]))
    assert "undefined in all 2 scores" in page.text


def test_a_score_that_is_defined_in_some_runs_says_in_how_many(write: Callable[..., str]) -> None:
    cases = [case_row(run, "sub-01", "test", hd95_mm=mm) for run, mm in (("a", float("nan")), ("b", 3.0))]
    page = Page(write(runs=[run_row("a"), run_row("b", seed=1)], cases=cases))
    assert "3.0 (1 of 2)" in page.text
    assert "1 of 2 scores defined" in page.text


def test_collapsed_runs_are_named_before_everything_else(write: Callable[..., str]) -> None:
    collapsed = {"collapsed": True, "collapsed_to": "nothing", "collapsed_epoch": 8, "best_epoch": 9}
    runs = [run_row("a", **collapsed), run_row("b", seed=1)]
    cases = [case_row("a", "sub-01", "test", dice=0.0, prediction_ml=0.0), case_row("b", "sub-01", "test")]
    page = Page(write(runs=runs, cases=cases))
    assert page.open == []
    top = page.text[: page.text.index("Before you compare")]
    assert "1 run collapsed" in top
    assert "a predicts nothing from epoch 8 on; its scores are in no average and not in the ranking." in top
    assert "1 collapsed run left out" in page.text
    assert "2 of 2 runs complete, seeds 0, 1; 1 collapsed" in page.text
    assert "complete , collapsed" in page.text  # in the table of runs


def test_many_collapsed_runs_are_counted(write: Callable[..., str]) -> None:
    collapsed = {"collapsed": True, "collapsed_to": "everything", "collapsed_epoch": 2}
    page = Page(write(runs=[run_row(f"run{n:02d}", seed=n, **collapsed) for n in range(20)]))
    assert "20 runs collapsed" in page.text
    assert "8 more are marked in the table of runs" in page.text
    assert page.text.count("calls every voxel lesion from epoch 2 on") == 12


def test_no_runs_and_no_complete_runs_still_give_a_page(write: Callable[..., str]) -> None:
    assert "No run completed (the tables hold no run)" in Page(write(runs=[])).text
    page = Page(write(runs=[run_row("a", status="failed", seed=None, host=None, cpu_model=None)]))
    assert "No run completed (1 failed)" in page.text
    assert "no complete run" in page.text


def test_a_large_campaign_is_cut_and_says_so(write: Callable[..., str]) -> None:
    runs = [run_row(f"run{n:03d}", model_arguments=f'{{"base_width": {n % 20}}}', seed=n) for n in range(RUN_ROWS + 5)]
    cases = [case_row(f"run{n:03d}", f"sub-{n}", "test", dice=n / 1000) for n in range(CASE_ROWS // 2)]
    cases += [case_row(f"run{n:03d}", f"sub-x{n}", "test", dice=n / 1000) for n in range(CASE_ROWS // 2)]
    text = write(runs=runs, cases=[*cases, case_row("run000", "sub-y", "test")])
    page = Page(text)
    assert f"{COLUMNS} of 20 groups are shown" in page.text
    assert f"{RUN_ROWS} runs are shown, unfinished ones first; 5 more" in page.text
    assert f"The first {CASE_ROWS} rows are shown, test cases first; 1 more" in page.text
    assert "12 more groups are not drawn." in page.text
    assert len(text) < 1_000_000


def test_a_missing_table_leaves_no_page(campaign: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(campaign, tmp_path / "copy"))
    (folder / "samples.parquet").unlink()
    with pytest.raises(TableError, match="samples"):
        write_page(folder, tmp_path / "out" / "report.html", "title")
    assert not (tmp_path / "out").exists()


def test_an_unwritable_place_is_one_error(campaign: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be written"):
        write_page(campaign, tmp_path / "file" / "report.html", "title")


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Any]:
    """A real browser without a window."""
    webdriver = pytest.importorskip("selenium.webdriver", reason="needs the Python package selenium")
    program, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not program or not driver:
        pytest.skip("needs the programs chromium and chromedriver (Debian packages chromium, chromium-driver)")
    options = webdriver.ChromeOptions()
    options.binary_location = program
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "disable-dev-shm-usage",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
        "disable-quic",
        f"user-data-dir={tmp_path / 'browser'}",
    ):
        options.add_argument(f"--{flag}")
    chrome = webdriver.Chrome(options=options, service=webdriver.ChromeService(executable_path=driver))
    yield chrome
    chrome.quit()


def test_a_browser_shows_the_page_at_both_widths(browser: Any, output: Path) -> None:
    for width in (1280, 400):
        metrics = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.get(output.as_uri())
        assert browser.execute_script("return document.documentElement.clientWidth") in range(width - 20, width + 1)
        assert browser.execute_script("return document.documentElement.scrollWidth <= window.innerWidth")
        headers = browser.find_elements("css selector", ".comparison thead th")
        assert [header.is_displayed() for header in headers] == [True, True]
        assert "unet2d" in headers[0].text
        drawings = browser.find_elements("css selector", ".drawing svg")
        assert all(drawing.size["height"] > 80 and drawing.size["width"] > 250 for drawing in drawings)
        assert browser.get_log("browser") == []


def test_a_backend_that_never_ran_has_neither_version_nor_device(write: Callable[..., str]) -> None:
    gone = run_row("b", backend="pyeddl", backend_version=None, device="", status="failed")
    page = Page(write(runs=[run_row("a"), gone]))
    assert "tensorflow 2.21.0, CPU 1 of 1 run complete" in page.text
    assert "pyeddl 0 of 1 run complete" in page.text
