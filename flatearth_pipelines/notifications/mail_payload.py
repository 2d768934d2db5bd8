"""What an application can have sent by the handler `send_email`: bodies of its own, or a template with data."""

from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Base64Bytes, Field, ValidationError, model_validator

from flatearth_pipelines.message import CONTENT_TYPE, Attachment, Message, WrongMessage, compose, mailbox
from flatearth_pipelines.notifications.letter import AUTOMATIC, unsubscribe_headers
from flatearth_pipelines.notifications.render import rendered
from flatearth_pipelines.queue.handlers import Payload, invalidity

_LONGEST_URL = 800
"""Characters: it stands in a header that is not folded."""


def _one_address(text: str) -> str:
    try:
        mailbox(text)
    except WrongMessage as error:
        raise ValueError(str(error)) from None
    return text


def _one_line(text: str) -> str:
    if any(sign in text for sign in "\r\n\0"):
        raise ValueError("it has a line break, which a header must not have")
    return text


def _web_address(text: str) -> str:
    url = urlsplit(text)
    if url.scheme not in {"http", "https"} or not url.hostname or any(sign in text for sign in ' <>"\\'):
        raise ValueError("it is no address that begins with http:// or https://")
    if not text.isascii() or not text.isprintable():
        raise ValueError("it has signs that an address must encode with %")
    return text


Address = Annotated[str, Field(max_length=500), AfterValidator(_one_address)]
Line = Annotated[str, Field(min_length=1, max_length=500), AfterValidator(_one_line)]
Url = Annotated[str, Field(max_length=_LONGEST_URL), AfterValidator(_web_address)]


class AttachedFile(Payload):
    """A file that comes with the email; together with everything else in a payload of 8 MB."""

    name: Line
    content_type: str = Field(default="application/octet-stream", pattern=CONTENT_TYPE)
    content: Base64Bytes


class Verification(Payload):
    """What the template `verification` shows: a link, a code or both."""

    subject: Line = "Confirm your email address"
    name: Line | None = None
    url: Url | None = None
    code: Line | None = None

    @model_validator(mode="after")
    def _has_something_to_do(self) -> Self:
        if self.url is None and self.code is None:
            raise ValueError("it takes a url, a code or both")
        return self


class Newsletter(Payload):
    """What the template `newsletter` shows."""

    subject: Line
    paragraphs: list[str] = Field(min_length=1)
    url: Url | None = None
    link_text: Line = "Read more"
    reason: Line = "You get this because you asked for news."


_TEMPLATES: dict[str, type[Verification] | type[Newsletter]] = {"verification": Verification, "newsletter": Newsletter}


class SendEmail(Payload):
    """An email: `text` (and `html`) with a subject, or a `template` with its data."""

    to: Address
    subject: Line | None = None
    text: str | None = None
    html: str | None = None
    template: Literal["verification", "newsletter"] | None = None
    data: dict[str, Any] = Field(default_factory=dict)
    attachments: list[AttachedFile] = Field(default_factory=list)
    unsubscribe_url: Url | None = None
    """Answers to POST by unsubscribing (RFC 8058), and to GET with a page that asks."""

    @model_validator(mode="after")
    def _says_one_thing(self) -> Self:
        if (self.text is None) == (self.template is None):
            raise ValueError("it takes either a text or a template")
        if self.template is not None:
            if self.html is not None:
                raise ValueError("with a template it takes no html")
            try:
                self._filled_in()
            except ValidationError as error:
                raise ValueError(invalidity(error)) from None
        elif self.subject is None:
            raise ValueError("with a text it takes a subject")
        elif self.data:
            raise ValueError("data is for a template")
        return self

    def message(self, sender: str, message_id: str) -> Message:
        """The email as it is sent.

        Raises:
            WrongUsage: what it says cannot be put into an email after all.
        """
        subject, text, html = self.subject or "", self.text or "", self.html
        if self.template is not None:
            data = self._filled_in()
            subject = data.subject
            beside = {"preview": subject, "unsubscribe_url": self.unsubscribe_url}
            html, text = rendered(self.template, data.model_dump() | beside)
        one_click = unsubscribe_headers(self.unsubscribe_url) if self.unsubscribe_url else {}
        files = [Attachment(file.name, file.content_type, file.content) for file in self.attachments]
        return compose(
            sender,
            self.to,
            subject,
            text,
            html=html,
            message_id=message_id,
            headers=AUTOMATIC | one_click,
            attachments=files,
        )

    def _filled_in(self) -> Verification | Newsletter:
        subject = {} if self.subject is None else {"subject": self.subject}
        return _TEMPLATES[self.template or ""].model_validate(self.data | subject)
