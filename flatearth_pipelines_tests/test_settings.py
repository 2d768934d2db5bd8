import os
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from psycopg.conninfo import conninfo_to_dict

from flatearth_pipelines import settings
from flatearth_pipelines.errors import WrongSetting
from flatearth_pipelines.settings import Settings

ROOT = Path(__file__).parents[1]


def test_with_nothing_set_everything_is_embedded_in_the_checkout() -> None:
    assert Settings.from_environment({}) == Settings(
        home=ROOT / ".flatearth",
        database=None,
        postgres_programs=None,
        smtp_url=f"file:{ROOT / '.flatearth' / 'outbox'}",
        storage_url=f"file:{ROOT / '.flatearth' / 'storage'}",
        mail_from="Flat Earth <notifications@flatearth.local>",
        alert_email=None,
        secret_key=None,
        public_url="http://localhost:3000",
        webhook_allow_networks=(),
    )


def test_an_empty_variable_counts_as_unset() -> None:
    names = ("HOME", "DATABASE_URL", "PG_BIN", "SMTP_URL", "MAIL_FROM", "ALERT_EMAIL", "SECRET_KEY", "PUBLIC_URL")
    empty = {f"FLATEARTH_{name}": "" for name in (*names, "WEBHOOK_ALLOW_NETWORKS")}
    assert Settings.from_environment(empty) == Settings.from_environment({})


def test_the_project_is_the_checkout_also_from_another_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.project() == ROOT


def test_a_relative_home_is_taken_from_the_current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"FLATEARTH_HOME": "here"}).home == tmp_path / "here"


def test_a_tilde_in_the_home_is_the_users_directory() -> None:
    assert Settings.from_environment({"FLATEARTH_HOME": "~/flat"}).home == Path(os.path.expanduser("~/flat"))  # noqa: PTH111


@pytest.mark.parametrize(
    "scheme", ["postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2", "postgresql+asyncpg"]
)
def test_the_url_may_be_libpqs_or_sqlalchemys(scheme: str) -> None:
    assert _database(f"{scheme}://ada:secret@db.example:5433/earth") == {
        "user": "ada",
        "password": "secret",
        "host": "db.example",
        "port": "5433",
        "dbname": "earth",
    }


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql:///earth", {"dbname": "earth"}),
        ("postgresql://db.example", {"host": "db.example"}),
        ("postgresql:///earth?host=/var/run/postgresql", {"dbname": "earth", "host": "/var/run/postgresql"}),
        (
            "postgresql+psycopg:///earth?host=/srv/a%20b&port=5433",
            {"dbname": "earth", "host": "/srv/a b", "port": "5433"},
        ),
        ("postgresql://%2Fvar%2Frun/earth", {"dbname": "earth", "host": "/var/run"}),
        ("postgresql://[::1]:5433/earth", {"dbname": "earth", "host": "::1", "port": "5433"}),
        ("postgresql://a:1,b:2/earth", {"dbname": "earth", "host": "a,b", "port": "1,2"}),
        ("postgresql://ada:p%40s%2Fs%3A%25%20@h/earth", {"user": "ada", "password": "p@s/s:% "}),
        ("postgresql://%C3%A4da@h/%E5%9C%B0", {"user": "äda", "dbname": "地"}),
        (
            "postgresql://h/earth?sslmode=require&connect_timeout=3&options=-c%20work_mem%3D8MB",
            {"sslmode": "require", "connect_timeout": "3", "options": "-c work_mem=8MB"},
        ),
    ],
)
def test_what_the_url_says_reaches_libpq(url: str, expected: dict[str, str]) -> None:
    assert expected.items() <= _database(url).items()


@pytest.mark.parametrize(
    "url",
    [
        "mysql://ada:hunter2@h/earth",
        "sqlite:///hunter2",
        "hunter2",
        "ada:hunter2@h/earth",
        "postgresql:ada:hunter2@h",
        "host=h user=ada password=hunter2",
        "postgresql://ada:hunter2@h/earth?no_such_parameter=1",
        "postgresql://ada:hunter2%zz@h/earth",
        "postgresql://ada:hunter2@[::1/earth",
        "postgresqlx://ada:hunter2@h/earth",
        "postgresql://ada:hunter2@h:not-a-port/earth",
        "postgresql://ada:hunter2@h:70000/earth",
    ],
)
def test_a_wrong_url_is_refused_in_one_line_that_names_the_variable_and_not_the_password(url: str) -> None:
    with pytest.raises(WrongSetting) as refusal:
        Settings.from_environment({"FLATEARTH_DATABASE_URL": url})
    message = str(refusal.value)
    assert message.startswith("FLATEARTH_DATABASE_URL ")
    assert "postgresql://" in message, "it says what it takes"
    assert "hunter2" not in message
    assert "\n" not in message


def test_the_programs_directory_takes_one_with_pg_ctl(tmp_path: Path) -> None:
    (tmp_path / "pg_ctl").touch()
    assert Settings.from_environment({"FLATEARTH_PG_BIN": str(tmp_path)}).postgres_programs == tmp_path


@pytest.mark.parametrize("name", ["nowhere", "a file", "empty directory"])
def test_a_programs_directory_without_pg_ctl_is_refused_in_one_line_that_names_the_variable(
    tmp_path: Path, name: str
) -> None:
    (tmp_path / "a file").touch()
    (tmp_path / "empty directory").mkdir()
    with pytest.raises(WrongSetting, match=r"^FLATEARTH_PG_BIN [^\n]+$"):
        Settings.from_environment({"FLATEARTH_PG_BIN": str(tmp_path / name)})


def test_a_home_that_is_a_file_is_refused_in_one_line_that_names_the_variable(tmp_path: Path) -> None:
    (tmp_path / "a file").touch()
    with pytest.raises(WrongSetting, match=r"^FLATEARTH_HOME [^\n]+$"):
        Settings.from_environment({"FLATEARTH_HOME": str(tmp_path / "a file")})


# Mail


@pytest.mark.parametrize(
    "url",
    [
        "smtp://mail.example",
        "smtp://mail.example:587",
        "smtps://ada:p%40ss@mail.example:465",
        "smtp://[::1]:25",
        "smtp://127.0.0.1:65535",
    ],
)
def test_a_mail_server_is_taken_as_it_is_named(url: str) -> None:
    assert Settings.from_environment({"FLATEARTH_SMTP_URL": url}).smtp_url == url


@pytest.mark.parametrize("url", ["file:outbox", "file:./outbox"])
def test_a_relative_outbox_is_taken_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"FLATEARTH_SMTP_URL": url}).smtp_url == f"file:{tmp_path}/outbox"


@pytest.mark.parametrize("url", ["file:/var/out", "file:///var/out"])
def test_an_absolute_outbox_is_written_in_two_ways(url: str) -> None:
    assert Settings.from_environment({"FLATEARTH_SMTP_URL": url}).smtp_url == "file:/var/out"


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "mail.hunter2.example",
        "mail.hunter2.example:25",
        "smtp:hunter2",
        "smtp://",
        "smtp://:25",
        "smtp://ada:hunter2@",
        "smtp://ada:hunter2@mail.example:0",
        "smtp://ada:hunter2@mail.example:65536",
        "smtp://ada:hunter2@mail.example:not-a-port",
        "smtp://ada:hunter2@[::1",
        "http://ada:hunter2@mail.example",
        "file:",
        "file://hunter2",
    ],
)
def test_a_wrong_mail_server_is_refused_in_one_line_that_names_the_variable_and_not_the_value(url: str) -> None:
    with pytest.raises(WrongSetting, match=r"^FLATEARTH_SMTP_URL [^\n]+smtp[^\n]+file:[^\n]+$") as refusal:
        Settings.from_environment({"FLATEARTH_SMTP_URL": url})
    assert "hunter2" not in str(refusal.value)


MAILBOXES = {"FLATEARTH_MAIL_FROM": "mail_from", "FLATEARTH_ALERT_EMAIL": "alert_email"}


@pytest.mark.parametrize("variable", MAILBOXES)
@pytest.mark.parametrize("value", ["ada@acme.example", "Ada L. <ada@acme.example>", '"Ada, L." <ada@acme.example>'])
def test_an_address_is_taken_with_or_without_a_name(variable: str, value: str) -> None:
    assert getattr(Settings.from_environment({variable: value}), MAILBOXES[variable]) == value


@pytest.mark.parametrize("variable", MAILBOXES)
@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        "@",
        "hunter2@",
        "@hunter2.example",
        "Ada <hunter2>",
        "Ada <>",
        "hunter2@acme.example\r\nBcc: eve@evil.example",
        "hunter2@acme.example\nBcc: eve@evil.example",
        "hunter2@acme.example\0",
    ],
)
def test_what_is_no_address_is_refused_in_one_line_that_names_the_variable_and_not_the_value(
    variable: str, value: str
) -> None:
    with pytest.raises(WrongSetting, match=rf"^{variable} [^\n]+name@example\.com[^\n]*$") as refusal:
        Settings.from_environment({variable: value})
    assert "hunter2" not in str(refusal.value)


# Storage


@pytest.mark.parametrize("url", ["file:here", "file:./here/"])
def test_a_relative_storage_is_taken_from_the_current_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert Settings.from_environment({"FLATEARTH_STORAGE_URL": url}).storage_url == f"file:{tmp_path / 'here'}"


@pytest.mark.parametrize("url", ["file:/var/objects", "file:///var/objects", "file://localhost/var/objects/"])
def test_an_absolute_storage_is_written_in_three_ways(url: str) -> None:
    assert Settings.from_environment({"FLATEARTH_STORAGE_URL": url}).storage_url == "file:/var/objects"


def test_a_storage_that_is_unset_or_empty_is_in_the_home_whatever_its_name(tmp_path: Path) -> None:
    home = tmp_path / "50% of #1?"
    environment = {"FLATEARTH_HOME": str(home), "FLATEARTH_STORAGE_URL": ""}
    url = Settings.from_environment(environment).storage_url
    assert url.startswith("file:/")
    assert not set(" %#?") & set(url.replace("%20", "").replace("%25", "").replace("%23", "").replace("%3F", ""))


@pytest.mark.parametrize(
    ("url", "taken"),
    [
        ("s3://acme", "s3://acme"),
        ("s3://acme/", "s3://acme"),
        ("s3://acme/flat/earth", "s3://acme/flat/earth"),
        ("s3://acme/flat/earth/", "s3://acme/flat/earth"),
        ("s3://files.acme-2.example/Flat_Earth", "s3://files.acme-2.example/Flat_Earth"),
        ("s3://abc", "s3://abc"),
    ],
)
def test_a_bucket_is_taken_with_or_without_a_prefix(url: str, taken: str) -> None:
    assert Settings.from_environment({"FLATEARTH_STORAGE_URL": url}).storage_url == taken


@pytest.mark.parametrize(
    "url",
    [
        "hunter2",
        "/var/objects",
        "file:",
        "file:/",
        "file://hunter2/objects",
        "file:/var/objects?hunter2",
        "file:/var/objects#hunter2",
        "file:/var/a%0Ab",
        "s3:",
        "s3://",
        "s3:///flat",
        "s3://ab",
        "s3://-acme",
        "s3://key:hunter2@acme/flat",
        "s3://acme:9000/flat",
        "s3://acme/a//b",
        "s3://acme/../b",
        "s3://acme/a/./b",
        "s3://acme/a b",
        "s3://acme/a?hunter2",
        "s3://acme/a#hunter2",
        "s3://acme/a\n",
        "gs://acme/flat",
        "https://acme.example/flat",
    ],
)
def test_a_wrong_storage_is_refused_in_one_line_that_names_the_variable_and_not_the_value(url: str) -> None:
    with pytest.raises(WrongSetting, match=r"^FLATEARTH_STORAGE_URL [^\n]+s3://bucket/prefix$") as refusal:
        Settings.from_environment({"FLATEARTH_STORAGE_URL": url})
    assert "hunter2" not in str(refusal.value)


# Links


@pytest.mark.parametrize("value", [" ", "\t\n", "hunter2\udcff"])
def test_a_secret_that_is_no_text_is_refused_in_one_line_that_names_the_variable_and_not_the_value(value: str) -> None:
    with pytest.raises(WrongSetting, match=r"^FLATEARTH_SECRET_KEY [^\n]+$") as refusal:
        Settings.from_environment({"FLATEARTH_SECRET_KEY": value})
    assert "hunter2" not in str(refusal.value)


@pytest.mark.parametrize(
    ("url", "base"),
    [
        ("https://earth.example", "https://earth.example"),
        ("https://earth.example/", "https://earth.example"),
        ("https://earth.example/boards//", "https://earth.example/boards"),
        ("http://localhost:3000", "http://localhost:3000"),
        ("http://[::1]:8080", "http://[::1]:8080"),
    ],
)
def test_the_base_of_links_is_taken_without_a_slash_at_its_end(url: str, base: str) -> None:
    assert Settings.from_environment({"FLATEARTH_PUBLIC_URL": url}).public_url == base


@pytest.mark.parametrize(
    "url",
    [
        "earth.example",
        "//earth.example",
        "ftp://earth.example",
        "javascript:alert(1)",
        "https://",
        "https://:80",
        "https://earth.example:0",
        "https://earth.example:x",
        "https://ada:hunter2@earth.example",
        "https://earth.example/?a=b",
        "https://earth.example/#a",
        "https://earth.example/a b",
        'https://earth.example/"><script>',
        "https://earth.example\r\nBcc: eve@evil.example",
        "https://bücher.example",
    ],
)
def test_a_wrong_base_is_refused_in_one_line_that_names_the_variable_and_not_the_value(url: str) -> None:
    with pytest.raises(WrongSetting, match=r"^FLATEARTH_PUBLIC_URL [^\n]+http[^\n]+$") as refusal:
        Settings.from_environment({"FLATEARTH_PUBLIC_URL": url})
    assert "earth.example" not in str(refusal.value)
    assert "hunter2" not in str(refusal.value)


# Webhooks


@pytest.mark.parametrize(
    ("value", "networks"),
    [
        ("10.1.0.0/16", ["10.1.0.0/16"]),
        ("10.1.0.0/16,fd00:1::/64", ["10.1.0.0/16", "fd00:1::/64"]),
        (" 127.0.0.0/8 ,\t::1/128 ", ["127.0.0.0/8", "::1/128"]),
        ("192.168.1.7", ["192.168.1.7/32"]),
        ("fd00::7", ["fd00::7/128"]),
        ("10.1.0.0/255.255.0.0", ["10.1.0.0/16"]),
        ("10.1.0.0/16,,", ["10.1.0.0/16"]),
        ("0.0.0.0/0,::/0", ["0.0.0.0/0", "::/0"]),
        (" , ", []),
    ],
)
def test_networks_that_webhooks_may_reach_are_separated_by_commas_and_an_address_is_a_network_of_one(
    value: str, networks: list[str]
) -> None:
    taken = Settings.from_environment({"FLATEARTH_WEBHOOK_ALLOW_NETWORKS": value}).webhook_allow_networks
    assert taken == tuple(map(ip_network, networks))


def test_a_network_that_is_taken_has_its_first_and_last_address_and_not_those_beside_them() -> None:
    (network,) = Settings.from_environment({"FLATEARTH_WEBHOOK_ALLOW_NETWORKS": "10.1.0.0/16"}).webhook_allow_networks
    assert ip_address("10.1.0.0") in network
    assert ip_address("10.1.255.255") in network
    assert ip_address("10.0.255.255") not in network
    assert ip_address("10.2.0.0") not in network


@pytest.mark.parametrize(
    "value",
    [
        "hunter2",
        "hunter2.example",
        "10.1.0.0/33",
        "10.1.0.0/-1",
        "fd00::/129",
        "10.1.0.1/16",
        "fd00::1/64",
        "10.1/16",
        "010.1.0.0/16",
        "10.1.0.0/16;hunter2",
        "10.1.0.0/16 10.2.0.0/16",
        "10.1.0.0-10.1.255.255",
        "10.1.0.0/16,hunter2",
        "[fd00::]/64",
        "*",
        "10.1.0.0/16\n10.2.0.0/16",
    ],
)
def test_a_wrong_network_is_refused_in_one_line_that_names_the_variable_and_not_the_value(value: str) -> None:
    with pytest.raises(
        WrongSetting, match=r"^FLATEARTH_WEBHOOK_ALLOW_NETWORKS [^\n]+10\.1\.0\.0/16,fd00:1::/64$"
    ) as no:
        Settings.from_environment({"FLATEARTH_WEBHOOK_ALLOW_NETWORKS": value})
    assert "hunter2" not in str(no.value)


def _database(url: str) -> dict[str, str]:
    conninfo = Settings.from_environment({"FLATEARTH_DATABASE_URL": url}).database
    assert conninfo is not None
    return {key: str(value) for key, value in conninfo_to_dict(conninfo).items()}
