"""What people do in the UI, done in headless Chromium against `flatearth up` with an embedded Postgres of its own.

Skipped where Playwright or Chromium is missing; in CI, where both have to be there, that fails. With
FLATEARTH_SCREENSHOTS set the README's picture is taken anew.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import pytest
import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines import tables
from flatearth_pipelines.settings import Settings
from flatearth_pipelines_tests import factories as make
from flatearth_pipelines_tests.factories import DAY

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None or find_spec("playwright") is None:
    # A module may be skipped but not failed: pytest collects an exception as the failure.
    missing = "These tests need Chromium (apt-get install chromium) and playwright (`make check` installs it)"
    if os.environ.get("CI"):
        raise RuntimeError(missing)
    pytest.skip(missing, allow_module_level=True)

from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright  # noqa: E402 - it may be missing
from playwright.sync_api import Error as PlaywrightError  # noqa: E402 - likewise

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.executable).parent
SCREENSHOTS = ROOT / "docs" / "images" if os.environ.get("FLATEARTH_SCREENSHOTS") else None

SECONDS_TO_START = 90
SECONDS_OF_PATIENCE = 30
SECONDS_OF_A_BACKFILL = 150
"""Its daemon wakes every 30 s: once to launch the runs, once more to see that they ended."""

DUE_CARDS = {
    "Roadmap": 214,
    "Website": 163,
    "Support": 131,
    "Mobile app": 97,
    "Infrastructure": 58,
    "Marketing": 42,
    "Hiring": 17,
    "Office move": 6,
}
"""A board each in accounts of their own, with consecutive ids: two for each of the four shards."""


@dataclass(frozen=True)
class Ui:
    """A running `flatearth up`."""

    url: str
    settings: Settings
    environment: dict[str, str]


@pytest.fixture(scope="module")
def ui(tmp_path_factory: pytest.TempPathFactory) -> Generator[Ui]:
    home = tmp_path_factory.mktemp("ui")
    port = _free_port()
    # The committed .env takes DAGSTER_HOME from PWD, which subprocess does not set.
    environment = os.environ | {"FLATEARTH_HOME": str(home), "PWD": str(ROOT)}
    environment.pop("FLATEARTH_DATABASE_URL", None)
    log = home / "up.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [PROGRAMS / "flatearth", "up", "--port", str(port)],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )
    try:
        _wait_for(f"Flat Earth is at http://127.0.0.1:{port}", log, process)
        yield Ui(f"http://127.0.0.1:{port}", Settings.from_environment(environment), environment)
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == 0, log.read_text()
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    expect.set_options(timeout=SECONDS_OF_PATIENCE * 1000)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM,
            args=[
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--disable-quic",
                "--no-first-run",
                "--disable-background-networking",
                "--disable-component-update",
                "--disable-sync",
            ],
        )
        yield browser
        browser.close()


@pytest.fixture
def page(browser: Browser, ui: Ui) -> Generator[Page]:
    """The UI's first page, as a new visitor sees it."""
    with browser.new_context(
        base_url=ui.url, viewport={"width": 1400, "height": 900}, locale="en-US", timezone_id="UTC"
    ) as context:
        context.set_default_timeout(SECONDS_OF_PATIENCE * 1000)
        page = context.new_page()
        page.goto("/")
        yield page


def test_the_hourly_schedule_is_listed_as_on_and_can_be_switched_off_and_on_again(page: Page) -> None:
    page.get_by_role("link", name="Automation").click()
    schedule = page.get_by_role("link", name="auto_postpone_hourly")
    expect(schedule).to_contain_text("Every hour")
    drawn_switch = page.locator("label:has(rect)")
    switch = page.locator("div", has=schedule).filter(has=drawn_switch).last.locator(drawn_switch)
    state = switch.get_by_role("checkbox", include_hidden=True)
    expect(state).to_be_checked()

    turn(switch, on=False)
    page.reload()
    expect(schedule).to_be_visible()
    expect(state).not_to_be_checked()

    turn(switch, on=True)
    page.reload()
    expect(schedule).to_be_visible()
    expect(state).to_be_checked()


def turn(switch: Locator, *, on: bool) -> None:
    """The list is drawn anew now and then: for a moment a row has no switch of its own, and a click may go nowhere."""
    state = switch.get_by_role("checkbox", include_hidden=True)
    for _ in range(SECONDS_OF_PATIENCE // 5):
        with contextlib.suppress(PlaywrightError):
            if state.is_checked() is not on:
                switch.click(timeout=5_000)
        with contextlib.suppress(AssertionError):
            expect(state).to_be_checked(checked=on, timeout=5_000)
            return
    expect(state).to_be_checked(checked=on)


def test_a_run_from_the_launchpad_succeeds_and_shows_its_counts_and_its_boards(ui: Ui, page: Page) -> None:
    _add_boards(ui, DUE_CARDS)
    _open_job(page, "auto_postpone", "Launchpad")
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("Success", exact=True)).to_be_visible(timeout=60_000)

    log_filter = page.get_by_placeholder("Filter…")
    log_filter.press_sequentially("type:STEP_OUTPUT")
    log_filter.press("Enter")
    page.get_by_role("button", name="View full message").click()
    metadata = page.get_by_role("dialog")
    due = sum(DUE_CARDS.values())
    counts = {"boards": len(DUE_CARDS), "due": due, "postponed": due, "changed_meanwhile": 0, "unattributed": 0}
    for name, count in counts.items():
        expect(metadata.get_by_role("row", name=f"{name} {count}", exact=True)).to_be_visible()
    boards = metadata.get_by_role("table").last.get_by_role("row")
    expected = [re.compile("board.*name.*postponed")] + [
        re.compile(rf"^\d+\s*{name}\s*{postponed}$") for name, postponed in DUE_CARDS.items()
    ]
    expect(boards).to_have_text(expected)
    if SCREENSHOTS:
        page.wait_for_timeout(1000)  # the dialog fades in
        page.screenshot(path=SCREENSHOTS / "ui.png")


def test_the_asset_page_plots_how_many_cards_were_postponed_over_the_runs(ui: Ui, page: Page) -> None:
    for due in (10, 40):
        _add_boards(ui, {"Roadmap": due})
        _run_from_the_command_line(ui)
    page.get_by_role("link", name="Catalog").click()
    page.get_by_text("auto_postponed_cards", exact=True).first.click()
    expect(page.get_by_role("row", name=re.compile(r"^postponed .* 40$"))).to_be_visible()

    page.get_by_role("button", name="Plots").click()
    title = page.get_by_text("postponed", exact=True)
    plot = page.locator("div", has=title).filter(has=page.locator("canvas")).last.locator("canvas")
    plot.scroll_into_view_if_needed()
    _expect_a_line_that_is_not_flat(plot)


def test_a_backfill_of_all_shards_launched_from_the_partitions_tab_completes(ui: Ui, page: Page) -> None:
    _add_boards(ui, dict.fromkeys(DUE_CARDS, 3))
    _open_job(page, "auto_postpone_by_shard", "Partitions")
    page.get_by_role("button", name="Launch backfill…").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="All", exact=True).click()
    dialog.get_by_role("button", name="Submit 4 runs").click()

    page.get_by_role("row", name=re.compile("4 partitions")).get_by_role("link").first.click()
    page.wait_for_url("**/runs/b/*")
    targeted_running_succeeded_failed = page.get_by_role("row").last.get_by_role("cell")
    expect(targeted_running_succeeded_failed).to_have_text(
        [re.compile("100% completed"), "4", "0", "4", "0"], timeout=SECONDS_OF_A_BACKFILL * 1000
    )
    expect(page.get_by_text("Status").locator("..")).to_contain_text("Succeeded", timeout=SECONDS_OF_A_BACKFILL * 1000)
    _open_job(page, "auto_postpone_by_shard", "Partitions")
    for count, what in ((4, "Total partitions"), (0, "Failed partitions"), (0, "Missing partitions")):
        expect(page.get_by_text(what, exact=True).locator("..")).to_have_text(f"{count}{what}")
    assert _postponed(ui) == 3 * len(DUE_CARDS)


def test_a_run_from_the_command_line_is_on_the_page_of_its_job(ui: Ui, page: Page) -> None:
    run_id = _run_from_the_command_line(ui)
    _open_job(page, "auto_postpone", "Runs")
    page.get_by_role("link", name=run_id[:8]).click()
    page.wait_for_url(f"**/runs/{run_id}")
    expect(page.get_by_text("Success", exact=True)).to_be_visible()


def _open_job(page: Page, job: str, tab: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    page.get_by_text(job, exact=True).click()
    page.get_by_role("tab", name=tab).click()


def _run_from_the_command_line(ui: Ui) -> str:
    done = subprocess.run(
        [PROGRAMS / "dagster", "job", "execute", "-m", "flatearth_pipelines.definitions", "-j", "auto_postpone"],
        cwd=ROOT,
        env=ui.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    run = re.search(r"auto_postpone - ([0-9a-f]{8}-[0-9a-f-]{27}) ", done.stderr)
    assert run, done.stderr
    return run[1]


def _add_boards(ui: Ui, due_cards: dict[str, int]) -> None:
    """These boards and no others, each with that many due cards and as many that are not."""
    if (time.time() + 30) % 3600 < 45:
        time.sleep(45)  # so that the hourly run does not take the cards away
    with db.transaction(ui.settings, "tests") as connection:
        connection.execute(sa.delete(tables.boards))  # with their cards and events
        now = connection.execute(sa.select(sa.func.now())).scalar_one()
        for name, due in due_cards.items():
            account_id = make.account(connection)
            make.user(connection, account_id, "system")
            board_id = make.board(connection, account_id, name=name)
            for _ in range(due):
                make.card(connection, board_id, last_active_at=now - 40 * DAY)
                make.card(connection, board_id, last_active_at=now - 4 * DAY)


def _postponed(ui: Ui) -> int:
    with db.transaction(ui.settings, "tests") as connection:
        count: int = connection.execute(
            sa.select(sa.func.count()).where(tables.cards.c.postponed_at.is_not(None))
        ).scalar_one()
        return count


def _expect_a_line_that_is_not_flat(plot: Locator) -> None:
    """The plot is drawn on a canvas: its line, the only thing in colour, has two ends, at different heights."""
    plot.page.wait_for_function(
        """canvas => {
            const {data} = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height)
            const xs = [], ys = []
            for (let i = 0; i < data.length; i += 4)
                if (data[i + 3] > 128 && data[i + 2] - data[i] > 80) {
                    xs.push(i / 4 % canvas.width)
                    ys.push(Math.floor(i / 4 / canvas.width))
                }
            const extent = numbers => Math.max(...numbers) - Math.min(...numbers)
            return extent(xs) > canvas.width / 3 && extent(ys) > canvas.height / 5
        }""",
        arg=plot.element_handle(),
    )


def _wait_for(sentence: str, log: Path, process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + SECONDS_TO_START
    while sentence not in log.read_text():
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
