"""The emails as people see them: in Chromium, as wide as a desktop program and as a phone, light and dark.

With FLATEARTH_SCREENSHOTS set the README's picture is taken anew, and all others are kept in `.flatearth/looks`.
"""

import os
import shutil
from collections.abc import Generator
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path

import pytest

from flatearth_pipelines.notifications.mail_payload import SendEmail
from flatearth_pipelines.notifications.render import rendered
from flatearth_pipelines_tests.notifications.test_digest import NOON, item, said
from flatearth_pipelines_tests.smtp import parsed, part

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
if CHROMIUM is None or find_spec("playwright") is None:
    # A module may be skipped but not failed: pytest collects an exception as the failure.
    missing = "These tests need Chromium (apt-get install chromium) and playwright (`make check` installs it)"
    if os.environ.get("CI"):
        raise RuntimeError(missing)
    pytest.skip(missing, allow_module_level=True)

from playwright.sync_api import Browser, Page, sync_playwright  # noqa: E402 - it may be missing

WIDTHS = {"desktop": 800, "phone": 390}

LEAST_CONTRAST = 4.5
"""Of text of ordinary size, by WCAG 2.2 level AA."""

ROOT = Path(__file__).parents[2]
KEPT = ROOT / ".flatearth" / "looks" if os.environ.get("FLATEARTH_SCREENSHOTS") else None

CONTRASTS = """
() => {
  const channel = value => { const c = value / 255; return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4 };
  const luminance = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
  const colour = text => text.match(/[\\d.]+/g).map(Number);
  const behind = element => {
    for (let each = element; each; each = each.parentElement) {
      const found = colour(getComputedStyle(each).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  const found = [];
  while (walker.nextNode()) {
    const element = walker.currentNode.parentElement;
    if (!walker.currentNode.data.trim() || getComputedStyle(element).opacity === '0'
        || element.closest('[style*="display:none"]')) continue;
    const both = [colour(getComputedStyle(element).color), behind(element)];
    const [one, other] = both.map(luminance).sort((a, b) => b - a);
    found.push([walker.currentNode.data.trim().slice(0, 40), (one + 0.05) / (other + 0.05)]);
  }
  return found;
}
"""


def digest() -> str:
    """What a busy morning leaves behind, in several scripts."""
    ago = [NOON - minutes * timedelta(minutes=1) for minutes in range(0, 600, 37)]
    login = {"board": "Website", "board_id": 2, "card_id": 7, "number": 218, "title": "Rework the login redirect"}
    other = {"board": "Website", "board_id": 2, "card_id": 8, "number": 224, "title": "Measure the form 地球 🌍"}
    hiring = {"board": "Hiring", "board_id": 3, "card_id": 9, "number": 31, "title": "Write the job advert"}
    arabic = {"board": "Hiring", "board_id": 3, "card_id": 10, "number": 33, "title": "مراجعة إعلان الوظيفة"}
    long = {"board": "Website", "board_id": 2, "card_id": 11, "number": 230, "title": "W" + "o" * 120 + "w"}
    body = (
        "@[Priya Rahman](user:5) could you have a look? The redirect goes to the page before the last one when the"
        " session has expired, and only in Firefox. I can show you after lunch."
    )
    markup = "<b>Not bold</b> & {{ 7 * 7 }}"
    items = [
        item(**login, actor="Greta Lindqvist", action="mention", body=body, created_at=ago[2]),
        item(**login, actor="Hugo Kimani", action="comment_created", body="Same here, on Android.", created_at=ago[1]),
        item(**login, actor="Greta Lindqvist", action="card_assigned", for_you=True, created_at=ago[3]),
        item(**other, actor="Mei Tanaka", action="card_closed", created_at=ago[6]),
        item(**long, actor="Hugo Kimani", action="card_published", created_at=ago[4]),
        item(**hiring, actor="Tariq Osman", action="comment_created", body=markup, created_at=ago[5]),
        item(**arabic, actor="ليلى حداد", action="comment_created", body="شكراً، سأراجعه اليوم.", created_at=ago[7]),
    ]
    shown = said(*(each._replace(total=61) for each in items), account="Meridian Bicycles", time_zone="Europe/Berlin")
    return rendered("digest", vars(shown)).html


def quiet_morning() -> str:
    """What the README shows."""
    ago = [NOON - minutes * timedelta(minutes=1) for minutes in range(0, 600, 37)]
    login = {"board": "Website", "board_id": 2, "card_id": 7, "number": 218, "title": "Rework the login redirect"}
    form = {"board": "Website", "board_id": 2, "card_id": 8, "number": 224, "title": "Measure the sign-up form"}
    hiring = {"board": "Hiring", "board_id": 3, "card_id": 9, "number": 31, "title": "Write the job advert"}
    body = "@[Priya](user:5) could you have a look? It goes to the page before the last one once a session is over."
    remark = "Two more sentences, then it is done."
    items = [
        item(**hiring, actor="Tariq Osman", action="comment_created", body=remark, created_at=ago[5]),
        item(**login, actor="Greta Lindqvist", action="card_assigned", for_you=True, created_at=ago[3]),
        item(**login, actor="Greta Lindqvist", action="mention", body=body, created_at=ago[2]),
        item(**form, actor="Mei Tanaka", action="card_closed", created_at=ago[1]),
    ]
    return rendered("digest", vars(said(*items, account="Meridian Bicycles", time_zone="Europe/Berlin"))).html


def sent(payload: dict[str, object]) -> str:
    message = SendEmail.model_validate({"to": "ada@acme.example", **payload}).message("earth@earth.example", "<a@b>")
    return part(parsed(message.content), "html")


def verification() -> str:
    data = {"name": "Ada", "url": "https://earth.example/verify/x", "code": "482 913"}
    return sent({"template": "verification", "data": data})


def newsletter() -> str:
    data = {"paragraphs": ["Boards load twice as fast. " * 9, "And more."], "url": "https://earth.example/news"}
    return sent({"template": "newsletter", "subject": "What is new in November", "data": data})


MAILS = {"digest": digest, "quiet_morning": quiet_morning, "verification": verification, "newsletter": newsletter}


@pytest.fixture(scope="module")
def browser() -> Generator[Browser]:
    with sync_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        yield browser
        browser.close()


@pytest.fixture(params=["light", "dark"])
def page(browser: Browser, request: pytest.FixtureRequest) -> Generator[Page]:
    page = browser.new_page(color_scheme=request.param, device_scale_factor=2)
    page.route("**/*", lambda route: route.abort())  # a mail asks nobody for anything
    yield page
    page.close()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", MAILS)
def test_a_mail_fits_its_window_and_can_be_read(
    page: Page, request: pytest.FixtureRequest, name: str, width: str
) -> None:
    page.set_viewport_size({"width": WIDTHS[width], "height": 300})
    page.set_content(MAILS[name]())

    if KEPT:
        scheme = request.node.callspec.params["page"]
        of_the_readme = (name, width, scheme) == ("quiet_morning", "desktop", "light")
        place = ROOT / "docs" / "images" / "email.png" if of_the_readme else KEPT / f"{name}-{width}-{scheme}.png"
        page.screenshot(path=place, full_page=True)
    assert page.evaluate("document.documentElement.scrollWidth") <= WIDTHS[width], "nothing sticks out"
    contrasts = page.evaluate(CONTRASTS)
    assert len(contrasts) > 3
    assert [each for each in contrasts if each[1] < LEAST_CONTRAST] == []


def test_what_people_typed_is_shown_as_they_typed_it(page: Page) -> None:
    page.set_content(digest())

    text = page.inner_text("body")
    for words in ("<b>Not bold</b> & {{ 7 * 7 }}", "@Priya Rahman could you", "مراجعة إعلان الوظيفة", "地球 🌍"):
        assert words in text
    assert page.locator("b").count() == 0
