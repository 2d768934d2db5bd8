"""The development inbox: a mail server for one machine that shows in the browser what it was sent (mail-devel)."""

import os
import socket
import sys
from collections.abc import Mapping
from pathlib import Path

from flatearth_pipelines.errors import FlatEarthError

ADDRESS = "127.0.0.1"

SMTP_PORT = 4_025
HTTP_PORT = 4_080
IMAP_PORT = 4_143
"""Those of mail-devel itself."""

PROGRAM = "mail_devel"

USER, PASSWORD = "inbox@flatearth.local", "inbox"
"""For a mail program that reads it by IMAP; no secret, as nobody else reaches it."""

URL = f"http://{ADDRESS}:{HTTP_PORT}"

SMTP_URL = f"smtp://{ADDRESS}:{SMTP_PORT}"


def command() -> list[str] | None:
    """What runs it; None when it is not installed. Whatever it was sent is gone when it ends."""
    program = Path(sys.executable).with_name(PROGRAM)
    if not program.is_file():
        return None
    ports = {"smtp": SMTP_PORT, "http": HTTP_PORT, "imap": IMAP_PORT}
    listen = [word for name, port in ports.items() for word in (f"--{name}-port", str(port))]
    return [str(program), "--host", ADDRESS, *listen, "--user", USER, "--password", PASSWORD]


def is_wanted(environment: Mapping[str, str] = os.environ) -> bool:
    """Whether emails should go there: no mail server is named, and it is installed."""
    return not environment.get("FLATEARTH_SMTP_URL") and command() is not None


def is_running() -> bool:
    """Whether somebody listens where it does."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex((ADDRESS, SMTP_PORT)) == 0


def run() -> None:
    """Become the inbox, until Ctrl-C.

    Raises:
        FlatEarthError: it is not installed, or runs already.
    """
    arguments = command()
    if arguments is None:
        raise FlatEarthError("The development inbox is not installed: `make inbox` installs it")
    if is_running():
        raise FlatEarthError(f"The development inbox runs already, on {URL}, or another program has port {SMTP_PORT}")
    os.execv(arguments[0], arguments)  # noqa: S606 - our own virtual environment's program
