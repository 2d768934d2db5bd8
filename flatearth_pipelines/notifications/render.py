"""Templates as the HTML and the text of an email. What people typed is data: it never passes through a parser.

A template is MJML with Jinja in it. MJML becomes HTML once, when it is first used (0.3 ms); each mail is then that
HTML, filled in by Jinja, which escapes every value.
"""

import functools
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from flatearth_pipelines.errors import WrongUsage

if TYPE_CHECKING:
    from jinja2 import Template

TEMPLATES = Path(__file__).parent / "templates"


class Rendered(NamedTuple):
    """The two parts of an email."""

    html: str
    """ASCII, other signs as references, in lines of moderate length: it need not be encoded to be sent."""
    text: str


def rendered(template: str, values: Mapping[str, Any]) -> Rendered:
    """The template of that name with these values.

    Raises:
        WrongUsage: a value that the template needs is not there.
    """
    from jinja2 import TemplateError  # noqa: PLC0415 - see `_compiled`

    page, text = _compiled(template)
    try:
        html = page.render(values).encode("ascii", "xmlcharrefreplace").decode()
        return Rendered(html, text.render(values))
    except TemplateError as error:
        raise WrongUsage(f"The template {template} cannot be filled in: {error.message}") from None


@functools.cache
def _compiled(template: str) -> tuple["Template", "Template"]:
    from jinja2 import Environment, StrictUndefined  # noqa: PLC0415 - costs every process 25 ms to import

    html, text = (
        Environment(
            autoescape=escaped,  # noqa: S701 - there is nothing to escape in a text
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        for escaped in (True, False)
    )
    return (
        html.from_string(_html(template)),
        text.from_string((TEMPLATES / f"{template}.txt").read_text(encoding="utf-8")),
    )


def _html(template: str) -> str:
    """The layout with the template's two parts in it, as HTML that Jinja can fill in."""
    from mrml import RenderOptions, to_html  # noqa: PLC0415 - see `_compiled`

    layout = (TEMPLATES / "_layout.mjml").read_text(encoding="utf-8")
    content, foot = (TEMPLATES / f"{template}.mjml").read_text(encoding="utf-8").split("<!-- foot -->")
    source = layout.replace("<!-- content -->", content).replace("<!-- foot -->", foot)
    # No fonts: by default a mail with a font of Google's has every reader's program ask Google for it.
    html = to_html(source, render_options=RenderOptions(fonts={})).content
    return html.replace("><", ">\n<").replace("]>\n<!-->", "]><!-->") + "\n"  # Outlook wants that in one piece
