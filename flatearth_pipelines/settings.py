"""Every environment variable, and what stands for it when it is unset."""

import contextlib
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import parseaddr
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Self
from urllib.parse import quote, unquote, urlsplit

from psycopg import Error as PsycopgError
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from flatearth_pipelines.errors import WrongSetting

_CHECKOUT = Path(__file__).resolve().parents[1]

_HIGHEST_PORT = 65_535

_BUCKET = re.compile(r"s3://[A-Za-z0-9][A-Za-z0-9._-]{1,253}[A-Za-z0-9](/[\w!*'()=+,-][\w.!*'()=+,-]*)*/?", re.ASCII)
"""A bucket and a prefix of the characters that S3 recommends; no part of it begins with a dot."""

Network = IPv4Network | IPv6Network


@dataclass(frozen=True)
class Settings:
    """What the environment says; `from_environment` reads it, nothing else does."""

    home: Path
    """`FLATEARTH_HOME`: the embedded server, exports and logs. Unset: `.flatearth/` in the project."""

    database: str | None
    """`FLATEARTH_DATABASE_URL` as a libpq connection string. None (unset): the embedded server."""

    postgres_programs: Path | None
    """`FLATEARTH_PG_BIN`: a directory with `initdb` and `pg_ctl`. None (unset): those of the embedded server."""

    smtp_url: str = "file:.flatearth/outbox"
    """`FLATEARTH_SMTP_URL`: `smtp[s]://user:password@host:port`, or `file:` and a directory. Unset: the outbox of
    `home`."""

    storage_url: str = "file:.flatearth/storage"
    """`FLATEARTH_STORAGE_URL`: `file:` and a directory, or `s3://bucket/prefix`. Unset: `storage` of `home`."""

    mail_from: str = "Flat Earth <notifications@flatearth.local>"
    """`FLATEARTH_MAIL_FROM`: the sender of every email."""

    alert_email: str | None = None
    """`FLATEARTH_ALERT_EMAIL`: who hears of dead jobs. None (unset): nobody; a warning in the log."""

    secret_key: str | None = field(default=None, repr=False)
    """`FLATEARTH_SECRET_KEY`: signs links. None (unset): see `secret_key.secret_key`."""

    public_url: str = "http://localhost:3000"
    """`FLATEARTH_PUBLIC_URL`: where the application is; the base of the links in emails, without a slash at its end."""

    webhook_allow_networks: tuple[Network, ...] = ()
    """`FLATEARTH_WEBHOOK_ALLOW_NETWORKS`: private networks that webhooks may reach all the same. Unset: none."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """Read the variables; an empty one counts as unset.

        Raises:
            WrongSetting: naming the variable and what it takes, never its value.
        """
        home = environment.get("FLATEARTH_HOME")
        database = environment.get("FLATEARTH_DATABASE_URL")
        programs = environment.get("FLATEARTH_PG_BIN")
        smtp = environment.get("FLATEARTH_SMTP_URL")
        storage = environment.get("FLATEARTH_STORAGE_URL")
        sender = environment.get("FLATEARTH_MAIL_FROM")
        alerted = environment.get("FLATEARTH_ALERT_EMAIL")
        key = environment.get("FLATEARTH_SECRET_KEY")
        public = environment.get("FLATEARTH_PUBLIC_URL")
        networks = environment.get("FLATEARTH_WEBHOOK_ALLOW_NETWORKS")
        place = _directory(home) if home else project() / ".flatearth"
        return cls(
            home=place,
            database=_connection_string(database) if database else None,
            postgres_programs=_program_directory(programs) if programs else None,
            smtp_url=_smtp_url(smtp) if smtp else _file_url(place / "outbox"),
            storage_url=_storage_url(storage) if storage else _file_url(place / "storage"),
            mail_from=_mailbox("FLATEARTH_MAIL_FROM", sender) if sender else cls.mail_from,
            alert_email=_mailbox("FLATEARTH_ALERT_EMAIL", alerted) if alerted else None,
            secret_key=_key(key) if key else None,
            public_url=_public_url(public) if public else cls.public_url,
            webhook_allow_networks=_networks(networks) if networks else (),
        )


def project() -> Path:
    """The checkout this package runs from; for an installed wheel, the current directory."""
    return _CHECKOUT if (_CHECKOUT / "dagster.yaml").is_file() else Path.cwd()


def _connection_string(url: str) -> str:
    """The URL as libpq takes it: SQLAlchemy's `postgresql+driver://` loses its driver."""
    scheme, _, rest = url.partition("://")
    if scheme.partition("+")[0] in {"postgresql", "postgres"}:
        with contextlib.suppress(PsycopgError, ValueError):
            conninfo = make_conninfo(f"postgresql://{rest}")
            ports = str(conninfo_to_dict(conninfo).get("port", "")).split(",")  # one for each host
            if all(not port or 0 < int(port) <= _HIGHEST_PORT for port in ports):
                return conninfo
    raise WrongSetting(
        "FLATEARTH_DATABASE_URL is not a Postgres URL: it takes postgresql://user:password@host:port/database"
    )


def _directory(value: str) -> Path:
    directory = Path(value).expanduser().absolute()
    if directory.exists() and not directory.is_dir():
        raise WrongSetting("FLATEARTH_HOME is not a directory: it takes one, which is created when it is not there")
    return directory


def _program_directory(value: str) -> Path:
    directory = Path(value).expanduser().absolute()
    if not (directory / "pg_ctl").is_file():
        raise WrongSetting("FLATEARTH_PG_BIN has no pg_ctl: it takes the directory of Postgres's server programs")
    return directory


def _smtp_url(value: str) -> str:
    with contextlib.suppress(ValueError):
        url = urlsplit(value)
        if url.scheme == "file" and url.path:
            return _file_url(Path(unquote(url.path)).absolute())
        if url.scheme in {"smtp", "smtps"} and url.hostname and url.port != 0:
            return value
    raise WrongSetting(
        "FLATEARTH_SMTP_URL is not right: it takes smtp[s]://user:password@host:port or file:<directory>"
    )


def _storage_url(value: str) -> str:
    with contextlib.suppress(ValueError):
        url = urlsplit(value)
        path = unquote(url.path)
        if url.scheme == "file" and path.strip("/") and path.isprintable() and value.endswith(url.path):
            if url.netloc in {"", "localhost"}:  # file://storage would be a machine of that name
                return _file_url(Path(path).absolute())
        elif _BUCKET.fullmatch(value):
            return value.rstrip("/")
    raise WrongSetting("FLATEARTH_STORAGE_URL is not right: it takes file:///directory or s3://bucket/prefix")


def _file_url(directory: Path) -> str:
    return f"file:{quote(str(directory))}"


def _mailbox(variable: str, value: str) -> str:
    _, address = parseaddr(value)
    name, _, domain = address.rpartition("@")
    if not name or not domain or any(sign in value for sign in "\r\n\0"):
        raise WrongSetting(f"{variable} is not an address: it takes name@example.com or Name <name@example.com>")
    return value


def _key(value: str) -> str:
    with contextlib.suppress(UnicodeEncodeError):
        if value.encode().strip():
            return value
    raise WrongSetting("FLATEARTH_SECRET_KEY is no text: it takes a long random one, as `openssl rand -hex 32` prints")


def _public_url(value: str) -> str:
    with contextlib.suppress(ValueError):
        url = urlsplit(value)
        plain = value.isascii() and value.isprintable() and not any(sign in value for sign in " <>\"'?#")
        if url.scheme in {"http", "https"} and url.hostname and url.port != 0 and not url.username and plain:
            return value.rstrip("/")
    raise WrongSetting(
        "FLATEARTH_PUBLIC_URL is not right: it takes http[s]://host[:port][/path], where the application is"
    )


def _networks(value: str) -> tuple[Network, ...]:
    """Comma-separated; an address is a network of one."""
    with contextlib.suppress(ValueError):
        return tuple(ip_network(part.strip()) for part in value.split(",") if part.strip())
    raise WrongSetting(
        "FLATEARTH_WEBHOOK_ALLOW_NETWORKS is not right: it takes networks such as 10.1.0.0/16,fd00:1::/64"
    )
