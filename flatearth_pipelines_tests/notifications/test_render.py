"""Templates: every one is there twice, escapes what people typed, and asks nobody for anything."""

import re
from html.parser import HTMLParser
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flatearth_pipelines.errors import WrongUsage
from flatearth_pipelines.message import one_line
from flatearth_pipelines.notifications.mail_payload import Newsletter, Verification
from flatearth_pipelines.notifications.render import TEMPLATES, Rendered, rendered
from flatearth_pipelines_tests.notifications.test_digest import item, said

HOSTILE = [
    "<script>alert(1)</script>",
    "<b>bold</b> & 'quoted' \"twice\"",
    "{{ 7 * 7 }} {% for x in y %} {# gone #}",
    "{{ config }}{{ ''.__class__ }}",
    "</mj-text></mj-column><mj-raw>",
    "<mj-include path='/etc/passwd'/>",
    "<!-- foot --> <!-- content --> --> <![endif]-->",
    "]]> &amp; &lt;b&gt;",
    "javascript:alert(1)",
    "'\"><img src=x onerror=alert(1)>",
    "مرحبا שלום 👩‍👩‍👧 地球",
]


class Page(HTMLParser):
    """The tags, the attributes and the text that a browser finds."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.links: list[str] = []
        self.words = ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.links += [value or "" for name, value in attrs if name in {"href", "src", "background"}]

    def handle_data(self, data: str) -> None:
        self.words += data


def filled_in(text: str = "Text") -> dict[str, Rendered]:
    """Every template with this text wherever people can have theirs."""
    shown = said(item(title=text, body=text, actor=text, board=text, total=60), in_several_accounts=True, account=text)
    link = {"unsubscribe_url": "https://earth.example/unsubscribe/x"}
    verification = Verification.model_construct(subject=text, name=text, url="https://earth.example/v", code=text)
    news = Newsletter.model_construct(
        subject=text, paragraphs=[text, text], url="https://earth.example/n", link_text=text, reason=text
    )
    return {
        "digest": rendered("digest", vars(shown)),
        "verification": rendered("verification", verification.model_dump() | link | {"preview": text}),
        "newsletter": rendered("newsletter", news.model_dump() | link | {"preview": text}),
    }


def test_every_template_has_an_html_and_a_text() -> None:
    names = {path.name for path in TEMPLATES.iterdir()} - {"_layout.mjml"}
    assert names == {f"{name}.{kind}" for name in filled_in() for kind in ("mjml", "txt")}


@pytest.mark.parametrize("text", HOSTILE)
@pytest.mark.parametrize("template", ["digest", "verification", "newsletter"])
def test_what_people_typed_is_text_and_nothing_else(template: str, text: str) -> None:
    plain, hostile = filled_in()[template], filled_in(text)[template]

    assert Page(hostile.html).tags == Page(plain.html).tags
    assert Page(hostile.html).links == Page(plain.html).links
    assert text in Page(hostile.html).words
    assert text in hostile.text
    assert hostile.html.isascii()


@given(st.text().filter(one_line))
def test_no_text_changes_what_an_html_consists_of(text: str) -> None:
    for template, page in filled_in(text).items():
        assert Page(page.html).tags == Page(filled_in()[template].html).tags


@pytest.mark.parametrize("template", ["digest", "verification", "newsletter"])
def test_a_mail_loads_nothing_from_anywhere(template: str) -> None:
    """No picture that counts readers, no font: whoever reads a mail tells nobody."""
    html = filled_in()[template].html
    assert not re.search(r"<(img|link|script|iframe|object)\b|@import|url\(", html)
    assert all(link.startswith("https://earth.example") for link in Page(html).links)


@pytest.mark.parametrize("template", ["digest", "verification", "newsletter"])
def test_every_line_of_the_html_may_be_sent_as_it_is(template: str) -> None:
    html = filled_in("x " * 100)[template].html
    assert max(map(len, html.splitlines())) <= 900


def test_every_link_of_the_html_stands_in_the_text_too() -> None:
    page = filled_in()["digest"]
    for link in Page(page.html).links:
        assert link in page.text


def test_a_digest_says_in_both_parts_what_happened_where_and_when() -> None:
    page = rendered("digest", vars(said(item(body="Works now.", total=61), time_zone="Europe/Berlin")))
    for words in (
        "61 new notifications",
        "Acme",
        "Roadmap",
        "Fix the bug",
        "#42",
        "Ada closed this",
        "Sun 22 Nov, 13:30",
        "Works now.",
        "and 60 more",
        "Times are in Europe/Berlin",
    ):
        assert words in Page(page.html).words
        assert words in page.text


def test_what_is_not_there_leaves_no_trace() -> None:
    page = rendered("digest", vars(said(item(number=None))))
    for words in (Page(page.html).words.partition("Acme")[2], page.text):
        assert not re.search(r"None|#|\bmore\b", words)


def test_a_right_to_left_name_does_not_turn_what_stands_around_it() -> None:
    html = rendered("digest", vars(said(item(title="<t>", body="<b>", actor="<a>", board="<r>"), account="<c>"))).html
    for name in "tarc":
        assert f"<bdi>&lt;{name}&gt;</bdi>" in html
    assert '<div class="excerpt" dir="auto">&lt;b&gt;</div>' in html
    assert '<html lang="en" dir="ltr"' in html


def test_a_value_that_a_template_needs_and_does_not_get_is_an_error_that_names_it() -> None:
    values: dict[str, Any] = vars(said(item())) | {}
    del values["zone"]
    with pytest.raises(WrongUsage, match=r"^The template digest cannot be filled in: 'zone' is undefined$"):
        rendered("digest", values)
