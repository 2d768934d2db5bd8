"""What people do with the queue in the UI, done in headless Chromium: as test_ui.py, whose fixtures these are."""

import contextlib
import re
import subprocess
from collections.abc import Generator

import sqlalchemy as sa
from playwright.sync_api import Page, expect

from flatearth_pipelines import database as db
from flatearth_pipelines_tests import test_ui
from flatearth_pipelines_tests.test_ui import PROGRAMS, ROOT, Ui

ui, browser, page = test_ui.ui, test_ui.browser, test_ui.page

SECONDS_OF_A_RUN = 60


def test_the_sensor_and_the_schedules_of_the_queue_are_listed_as_on(page: Page) -> None:
    page.get_by_role("link", name="Automation").click()

    for name in ("run_due_jobs_when_due", "run_due_jobs_every_5_minutes", "delete_finished_jobs_daily"):
        row = page.locator("[data-index]", has=page.get_by_role("link", name=name))
        drawn_switch = row.locator("label:has(rect)")
        expect(drawn_switch.get_by_role("checkbox", include_hidden=True)).to_be_checked()


def test_a_handler_is_paused_from_the_launchpad(ui: Ui, page: Page) -> None:
    open_job(page, "pause_jobs", "Launchpad")
    page.locator(".CodeMirror").first.click()
    page.keyboard.press("ControlOrMeta+A")
    page.keyboard.insert_text("ops: {pause_handler: {config: {handler: check_card_entropy}}}\n")
    launch(page)
    paused = ask(ui, "SELECT array_agg(handler) FROM flatearth.job_pauses")
    ask(ui, "SELECT flatearth.resume_jobs('check_card_entropy')")

    assert paused == ["check_card_entropy"]
    show_output(page)
    expect(page.get_by_role("row", name=re.compile("^changed true"))).to_be_visible()


def test_a_run_shows_what_became_of_which_jobs_in_a_table(ui: Ui, page: Page) -> None:
    with sensor_kept_waiting(ui):
        for handler in ("check_card_entropy", "check_card_entropy", "unheard_of"):
            ask(ui, f"SELECT flatearth.enqueue_job('{handler}', '{{\"card_id\": 1}}')")
        open_job(page, "run_due_jobs", "Launchpad")
        launch(page)

    show_output(page)
    page.get_by_role("button", name="View full message").click()
    metadata = page.get_by_role("dialog")
    for row in ("succeeded 2", "failed 1", "claimed 3"):
        expect(metadata.get_by_role("row", name=row, exact=True)).to_be_visible()
    table = metadata.get_by_role("table").last.get_by_role("row")
    rows = ("handler.*outcome.*jobs", r"^check_card_entropy\s*succeeded\s*2$", r"^unheard_of\s*failed\s*1$")
    expect(table).to_have_text([re.compile(row) for row in rows])


def test_the_page_of_the_queue_s_health_plots_it_over_the_runs(ui: Ui, page: Page) -> None:
    with sensor_kept_waiting(ui):
        for _ in range(2):
            ask(ui, "SELECT flatearth.enqueue_job('check_card_entropy', delay => '1 day')")
            run_from_the_command_line(ui)
    page.get_by_role("link", name="Catalog").click()
    page.get_by_text("queue_health", exact=True).first.click()
    for name in ("waiting", "running", "dead", "oldest_wait_seconds", "finished_per_minute"):
        expect(page.get_by_role("row", name=re.compile(rf"^{name} "))).to_be_visible()

    page.get_by_role("button", name="Plots").click()
    title = page.get_by_text("scheduled", exact=True)
    plot = page.locator("div", has=title).filter(has=page.locator("canvas")).last.locator("canvas")
    plot.scroll_into_view_if_needed()
    test_ui._expect_a_line_that_is_not_flat(plot)  # noqa: SLF001 - the same of another plot


def open_job(page: Page, job: str, tab: str) -> None:
    page.get_by_role("navigation").get_by_role("link", name="Jobs").click()
    page.get_by_text(job, exact=True).click()
    page.get_by_role("tab", name=tab).click()


def launch(page: Page) -> None:
    page.get_by_role("button", name="Launch Run").click()
    page.wait_for_url("**/runs/*")
    expect(page.get_by_text("Success", exact=True)).to_be_visible(timeout=SECONDS_OF_A_RUN * 1000)


def show_output(page: Page) -> None:
    """What the run's op returned, alone in the log."""
    log_filter = page.get_by_placeholder("Filter…")
    log_filter.press_sequentially("type:STEP_OUTPUT")
    log_filter.press("Enter")


def ask(ui: Ui, query: str) -> object:
    with db.transaction(ui.settings, "tests") as connection:
        return connection.execute(sa.text(query.replace(":", "\\:"))).scalar()


@contextlib.contextmanager
def sensor_kept_waiting(ui: Ui) -> Generator[None]:
    """As if a drain were at work: the sensor and the schedule leave what is due to the test's own run."""
    ask(
        ui,
        "INSERT INTO flatearth.job_leases (owner, renewed_at, expires_at)"
        " VALUES ('tests', clock_timestamp() + interval '1 hour', clock_timestamp() + interval '1 hour') RETURNING id",
    )
    try:
        yield
    finally:
        ask(ui, "DELETE FROM flatearth.job_leases WHERE owner = 'tests' RETURNING id")


def run_from_the_command_line(ui: Ui) -> None:
    command = [
        str(PROGRAMS / "dagster"),
        "job",
        "execute",
        "-m",
        "flatearth_pipelines.definitions",
        "-j",
        "run_due_jobs",
    ]
    subprocess.run(command, cwd=ROOT, env=ui.environment, capture_output=True, check=True, timeout=SECONDS_OF_A_RUN)
