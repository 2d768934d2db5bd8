"""`tables.py` equals the migrated database, and the database refuses what would break a rule."""

import re
from datetime import date, time, timedelta
from typing import Any, NamedTuple

import psycopg
import pytest
import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError, IntegrityError

from flatearth_pipelines import database as db
from flatearth_pipelines import tables
from flatearth_pipelines_tests import factories as make

BOOKKEEPING = {"migration_checksums", "yoyo_lock"}
"""Of the migrations, with everything that begins with yoyo's underscore."""

BEHIND_THE_QUEUE = {
    "live_jobs",
    "finished_jobs",
    "dead_jobs",
    "job_leases",
    "job_keys",
    "job_progress",
    "job_stop_requests",
    "job_pauses",
    "job_limits",
    "job_alerts",
}
"""What only the queue's SQL functions touch; everybody else reads the view `jobs`."""


TABLES_AND_VIEWS = [*tables.metadata.sorted_tables, *tables.views.sorted_tables]

# The same tables


def test_the_database_has_these_tables_and_no_others(connection: sa.Connection) -> None:
    inspected = sa.inspect(connection)
    there = {name for name in inspected.get_table_names(tables.SCHEMA) if not name.startswith("_yoyo")}
    partitions = {name for name in there if re.fullmatch(r"(finished|dead)_jobs_(\d{8}|of_other_days)", name)}
    assert there - BOOKKEEPING - partitions - BEHIND_THE_QUEUE == {
        table.name for table in tables.metadata.tables.values()
    }
    assert there >= BEHIND_THE_QUEUE
    assert set(inspected.get_view_names(tables.SCHEMA)) == {view.name for view in tables.views.tables.values()}


@pytest.mark.parametrize("table", TABLES_AND_VIEWS, ids=lambda table: table.name)
def test_a_table_has_these_columns_in_this_order_with_these_types(connection: sa.Connection, table: sa.Table) -> None:
    there = [
        (column["name"], column["type"].compile(connection.dialect), column["nullable"])
        for column in sa.inspect(connection).get_columns(table.name, tables.SCHEMA)
    ]
    assert there == [
        (column.name, column.type.compile(connection.dialect), column.nullable) for column in table.columns
    ]


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
def test_a_table_has_this_primary_key(connection: sa.Connection, table: sa.Table) -> None:
    there = sa.inspect(connection).get_pk_constraint(table.name, tables.SCHEMA)
    assert there["constrained_columns"] == [column.name for column in table.primary_key]


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
def test_a_table_has_these_generated_columns(connection: sa.Connection, table: sa.Table) -> None:
    columns = sa.inspect(connection).get_columns(table.name, tables.SCHEMA)
    identities = {column["name"]: column["identity"]["always"] for column in columns if column.get("identity")}
    assert identities == {column.name: column.identity.always for column in table.columns if column.identity}
    assert {column["name"] for column in columns if column.get("computed")} == {
        column.name for column in table.columns if column.computed
    }


@pytest.mark.parametrize("table", tables.metadata.sorted_tables, ids=lambda table: table.name)
def test_every_tenant_table_carries_its_account(table: sa.Table) -> None:
    reaches_its_account_otherwise = {
        "accounts",
        "sessions",
        "undispatched_events",
        "unnotified_events",
        "unscanned_sources",
    }
    is_of_every_account = {"alerts", "email_suppressions"}
    assert ("account_id" in table.c) == (table.name not in reaches_its_account_otherwise | is_of_every_account)


# Rows that are refused


class Tenant(NamedTuple):
    """An account with one of everything that others refer to."""

    account: int
    user: int
    board: int
    column: int
    card: int
    tag: int
    webhook: int
    delivery: int


def _tenant(connection: sa.Connection) -> Tenant:
    account = make.account(connection)
    board = make.board(connection, account)
    webhook = make.webhook(connection, account)
    insert_tag = sa.insert(tables.tags).values(account_id=account, title="bug").returning(tables.tags.c.id)
    return Tenant(
        account=account,
        user=make.user(connection, account),
        board=board,
        column=make.column(connection, board),
        card=make.card(connection, board),
        tag=connection.execute(insert_tag).scalar_one(),
        webhook=webhook,
        delivery=make.delivery(connection, webhook),
    )


def _row(table: str, tenant: Tenant) -> dict[str, Any]:
    """A row that is accepted, with every reference filled in."""
    on_card = {"card_id": tenant.card, "user_id": tenant.user}
    rows: dict[str, dict[str, Any]] = {
        "users": {"name": "Ada"},
        "boards": {"creator_id": tenant.user, "name": "Roadmap"},
        "accesses": {"board_id": tenant.board, "user_id": tenant.user},
        "columns": {"board_id": tenant.board, "name": "Doing"},
        "cards": {"board_id": tenant.board, "creator_id": tenant.user, "column_id": tenant.column},
        "assignments": on_card,
        "watches": on_card,
        "pins": on_card,
        "comments": {"card_id": tenant.card, "creator_id": tenant.user, "body": "Done"},
        "mentions": {
            "source_type": "card",
            "source_id": tenant.card,
            "mentioner_id": tenant.user,
            "mentionee_id": tenant.user,
        },
        "tags": {"title": "feature"},
        "taggings": {"tag_id": tenant.tag, "card_id": tenant.card},
        "events": {
            "board_id": tenant.board,
            "creator_id": tenant.user,
            "action": "card_published",
            "eventable_type": "card",
            "eventable_id": tenant.card,
        },
        "entropies": {"container_type": "board", "container_id": tenant.board, "auto_postpone_period_ms": 1},
        "notifications": {
            "user_id": tenant.user,
            "creator_id": tenant.user,
            "source_type": "event",
            "source_id": 1,
        },
        "notification_settings": {"user_id": tenant.user},
        "board_mutes": {"board_id": tenant.board, "user_id": tenant.user},
        "notification_bundles": {"user_id": tenant.user, "starts_at": make.NOON, "ends_at": make.NOON + make.DAY},
        "webhooks": {
            "board_id": tenant.board,
            "name": "Chat",
            "url": "https://hooks.acme.example",
            "actions": ["card_closed"],
            "sealed_secret": b"sealed",
        },
        "webhook_payloads": {"event_id": tenant.account, "format": "json", "body": b"{}"},
        "webhook_deliveries": {"webhook_id": tenant.webhook, "event_id": 1},
        "webhook_attempts": {
            "delivery_id": tenant.delivery,
            "attempt": 1,
            "started_at": make.NOON,
            "duration_ms": 0,
            "code": "ok",
        },
        "api_audit_logs": {"user_id": tenant.user, "action": "card.read"},
        "files": {"storage_key": f"files/{tenant.account}"},
        "daily_reports": {"day": date(2026, 11, 22), "board_id": tenant.board},
        "cron_jobs": {"name": f"tidy {tenant.account}", "pattern": "hourly", "handler": "tidy", "payload": {}},
        "live_jobs": {"handler": "tidy", "run_at": make.NOON},
        "job_limits": {"per_minute": 1},
    }
    without_an_account: dict[str, dict[str, Any]] = {
        "finished_jobs": {
            "id": 1,
            "handler": "tidy",
            "state": "succeeded",
            "origin": "adhoc",
            "priority": 0,
            "attempts": 1,
            "own_run": False,
            "run_at": make.NOON,
            "created_at": make.NOON,
            "finished_at": make.NOON,
        },
        "unscanned_sources": {"source_type": "card", "source_id": 1},
        "alerts": {"subject": "failed run of auto_postpone"},
        "email_suppressions": {"address": "ada@acme.example", "reason": "550 5.1.1"},
        "job_progress": {"job_id": 1, "percent": 50},
    }
    if table in without_an_account:
        return without_an_account[table]
    return {"account_id": tenant.account, **rows[table]}


def _insert(connection: sa.Connection, table: str, row: dict[str, Any]) -> None:
    known = tables.metadata.tables.get(f"{tables.SCHEMA}.{table}")
    light = sa.table(table, *map(sa.column, row), schema=tables.SCHEMA)
    connection.execute(sa.insert(light if known is None else known).values(**row))


def _violated(connection: sa.Connection, table: str, *rows: dict[str, Any]) -> str:
    """The constraint that refuses the last of the rows; the others are accepted."""
    connection.execute(sa.text("set constraints all immediate"))  # those that are checked at the commit
    for row in rows[:-1]:
        _insert(connection, table, row)
    with pytest.raises(DBAPIError) as refusal, connection.begin_nested():
        _insert(connection, table, rows[-1])
    assert isinstance(refusal.value.orig, psycopg.Error)
    return str(refusal.value.orig.diag.constraint_name)


REFERENCES = {
    "board_creator_is_of_the_account": ("boards", "creator_id", "user"),
    "accessed_board_is_of_the_account": ("accesses", "board_id", "board"),
    "accessing_user_is_of_the_account": ("accesses", "user_id", "user"),
    "column_board_is_of_the_account": ("columns", "board_id", "board"),
    "card_board_is_of_the_account": ("cards", "board_id", "board"),
    "card_creator_is_of_the_account": ("cards", "creator_id", "user"),
    "card_column_is_of_the_board": ("cards", "column_id", "column"),
    "assigned_card_is_of_the_account": ("assignments", "card_id", "card"),
    "assignee_is_of_the_account": ("assignments", "user_id", "user"),
    "watched_card_is_of_the_account": ("watches", "card_id", "card"),
    "watcher_is_of_the_account": ("watches", "user_id", "user"),
    "pinned_card_is_of_the_account": ("pins", "card_id", "card"),
    "pinner_is_of_the_account": ("pins", "user_id", "user"),
    "commented_card_is_of_the_account": ("comments", "card_id", "card"),
    "comment_creator_is_of_the_account": ("comments", "creator_id", "user"),
    "mentioner_is_of_the_account": ("mentions", "mentioner_id", "user"),
    "mentionee_is_of_the_account": ("mentions", "mentionee_id", "user"),
    "tagging_tag_is_of_the_account": ("taggings", "tag_id", "tag"),
    "tagged_card_is_of_the_account": ("taggings", "card_id", "card"),
    "event_board_is_of_the_account": ("events", "board_id", "board"),
    "event_creator_is_of_the_account": ("events", "creator_id", "user"),
    "board_container_is_of_the_account": ("entropies", "container_id", "board"),
    "notified_user_is_of_the_account": ("notifications", "user_id", "user"),
    "notifier_is_of_the_account": ("notifications", "creator_id", "user"),
    "settings_user_is_of_the_account": ("notification_settings", "user_id", "user"),
    "muted_board_is_of_the_account": ("board_mutes", "board_id", "board"),
    "muter_is_of_the_account": ("board_mutes", "user_id", "user"),
    "bundled_user_is_of_the_account": ("notification_bundles", "user_id", "user"),
    "audited_user_is_of_the_account": ("api_audit_logs", "user_id", "user"),
    "webhook_board_is_of_the_account": ("webhooks", "board_id", "board"),
    "delivering_webhook_is_of_the_account": ("webhook_deliveries", "webhook_id", "webhook"),
    "reported_board_is_of_the_account": ("daily_reports", "board_id", "board"),
}
"""Every foreign key that stays within the account: its table, the column, and what that names."""


@pytest.mark.parametrize(("constraint", "reference"), REFERENCES.items(), ids=REFERENCES)
def test_a_reference_into_another_account_is_refused(
    connection: sa.Connection, constraint: str, reference: tuple[str, str, str]
) -> None:
    table, column, target = reference
    ours, theirs = _tenant(connection), _tenant(connection)
    row = _row(table, ours)
    if constraint == "card_column_is_of_the_board":
        row["creator_id"] = None
    with connection.begin_nested() as accepted:
        _insert(connection, table, row)
        accepted.rollback()
    stolen = row | {column: getattr(theirs, target)}
    if constraint == "card_board_is_of_the_account":
        stolen["column_id"] = None
    assert _violated(connection, table, stolen) == constraint


def test_a_card_in_a_column_of_another_board_of_the_same_account_is_refused(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    elsewhere = make.column(connection, make.board(connection, ours.account))
    row = _row("cards", ours) | {"column_id": elsewhere}
    assert _violated(connection, "cards", row) == "card_column_is_of_the_board"


def test_every_foreign_key_within_an_account_is_among_those_tested(connection: sa.Connection) -> None:
    assert _constraints(connection, "c.contype = 'f' and cardinality(c.conkey) > 1") == REFERENCES.keys()


def test_every_table_with_an_account_is_bound_to_it_by_every_reference_it_has(connection: sa.Connection) -> None:
    """A plain reference, beside those to accounts, could point into another account."""
    plain = "c.contype = 'f' and cardinality(c.conkey) = 1 and c.confrelid <> 'flatearth.accounts'::regclass"
    of_tables_without = {
        "sessions_user_id_fkey",
        "undispatched_events_event_id_fkey",
        "unnotified_events_event_id_fkey",
    }
    written_by_one_statement_with_its_delivery = {"webhook_attempts_delivery_id_fkey"}
    assert _constraints(connection, plain) == of_tables_without | written_by_one_statement_with_its_delivery


class Refused(NamedTuple):
    """Changes to an accepted row: the first are accepted, the last is not."""

    constraint: str
    table: str
    changes: tuple[dict[str, Any], ...]


REFUSED = [
    Refused("role_is_known", "users", ({"role": "guest"},)),
    Refused("one_system_user_per_account", "users", ({"role": "system"}, {"role": "system"})),
    Refused("involvement_is_known", "accesses", ({"involvement": "ignoring"},)),
    Refused("one_access_per_person_and_board", "accesses", ({}, {"involvement": "watching"})),
    Refused("card_status_is_known", "cards", ({"status": "archived"},)),
    Refused("card_status_is_known", "cards", ({"status": ""},)),
    Refused("activity_is_finite", "cards", ({"last_active_at": sa.text("'infinity'")},)),
    Refused("activity_is_finite", "cards", ({"last_active_at": sa.text("'-infinity'")},)),
    Refused("mention_source_is_known", "mentions", ({"source_type": "board"},)),
    Refused("one_mention_per_source_and_person", "mentions", ({}, {"mentioner_id": None})),
    Refused("one_tag_per_title", "tags", ({}, {})),
    Refused("one_tagging_per_tag_and_card", "taggings", ({}, {})),
    Refused("eventable_is_known", "events", ({"eventable_type": "board"},)),
    Refused("container_is_known", "entropies", ({"container_type": "column"},)),
    Refused("one_period_per_container", "entropies", ({}, {"auto_postpone_period_ms": 2})),
    Refused("period_is_positive", "entropies", ({"auto_postpone_period_ms": 0},)),
    Refused("period_is_positive", "entropies", ({"auto_postpone_period_ms": -1},)),
    Refused("account_container_is_the_account", "entropies", ({"container_type": "account", "container_id": 0},)),
    Refused("notification_source_is_known", "notifications", ({"source_type": "card"},)),
    Refused("one_notification_per_person_and_source", "notifications", ({}, {"creator_id": None})),
    Refused("email_frequency_is_known", "notification_settings", ({"email_frequency": "hourly"},)),
    Refused("quiet_hours_have_two_ends", "notification_settings", ({"quiet_from": time(22)},)),
    Refused("quiet_hours_have_two_ends", "notification_settings", ({"quiet_until": time(8)},)),
    Refused("quiet_hours_have_two_ends", "notification_settings", ({"quiet_from": time(8), "quiet_until": time(8)},)),
    Refused(
        "quiet_hours_have_two_ends",
        "notification_settings",
        ({"quiet_from": time(0), "quiet_until": sa.text("'24:00'")},),
    ),
    Refused("quiet_days_leave_a_day", "notification_settings", ({"quiet_days": [1, 2, 3, 4, 5, 6, 7]},)),
    Refused("quiet_days_leave_a_day", "notification_settings", ({"quiet_days": [0]},)),
    Refused("quiet_days_leave_a_day", "notification_settings", ({"quiet_days": [8]},)),
    Refused("quiet_days_leave_a_day", "notification_settings", ({"quiet_days": [1, None]},)),
    Refused("unscanned_source_is_known", "unscanned_sources", ({"source_type": "event"},)),
    Refused("bundle_status_is_known", "notification_bundles", ({"status": "sent"},)),
    Refused("window_ends_after_its_start", "notification_bundles", ({"ends_at": make.NOON},)),
    Refused("processing_has_a_claim", "notification_bundles", ({"status": "processing"},)),
    Refused("delivery_time_is_of_delivered", "notification_bundles", ({"delivered_at": make.NOON},)),
    Refused("failure_has_a_reason", "notification_bundles", ({"status": "failed"},)),
    Refused("failure_time_is_of_failed", "notification_bundles", ({"failed_at": make.NOON},)),
    Refused("outcome_is_of_the_end", "notification_bundles", ({"outcome": "mailed"},)),
    Refused("outcome_is_of_the_end", "notification_bundles", ({"status": "delivered", "outcome": "exhausted"},)),
    Refused(
        "outcome_is_of_the_end",
        "notification_bundles",
        ({"status": "failed", "last_error": "550", "outcome": "mailed"},),
    ),
    Refused("bundle_attempts_are_not_negative", "notification_bundles", ({"attempts": -1},)),
    Refused(
        "windows_of_one_person_never_overlap",
        "notification_bundles",
        ({}, {"starts_at": make.NOON + make.DAY - make.MICROSECOND, "ends_at": make.NOON + 2 * make.DAY}),
    ),
    Refused("untold_is_not_negative", "alerts", ({"untold": -1},)),
    Refused("address_is_lower_case", "email_suppressions", ({"address": "Ada@acme.example"},)),
    Refused("address_is_lower_case", "email_suppressions", ({"address": ""},)),
    Refused("webhook_has_a_name", "webhooks", ({"name": ""},)),
    Refused("webhook_has_actions", "webhooks", ({"actions": []},)),
    Refused("webhook_actions_are_known", "webhooks", ({"actions": ["card_closed", "card_eaten"]},)),
    Refused("webhook_actions_are_known", "webhooks", ({"actions": [None]},)),
    Refused("webhook_format_is_known", "webhooks", ({"format": "xml"},)),
    Refused("webhook_signature_is_known", "webhooks", ({"signature": "md5", "public_key": "whpk_"},)),
    Refused("public_key_is_of_a_pair", "webhooks", ({"public_key": "whpk_"},)),
    Refused("public_key_is_of_a_pair", "webhooks", ({"signature": "ed25519"},)),
    Refused("previous_secret_ends", "webhooks", ({"previous_sealed_secret": b"sealed"},)),
    Refused("previous_secret_ends", "webhooks", ({"previous_secret_until": make.NOON},)),
    Refused("disabled_has_a_reason", "webhooks", ({"active": False},)),
    Refused("disabled_has_a_reason", "webhooks", ({"active": False, "disabled_at": make.NOON},)),
    Refused("disabled_has_a_reason", "webhooks", ({"disabled_at": make.NOON, "disabled_reason": "gone"},)),
    Refused("failures_have_a_first", "webhooks", ({"consecutive_failures": 1},)),
    Refused("failures_have_a_first", "webhooks", ({"first_failure_at": make.NOON},)),
    Refused("failures_are_not_negative", "webhooks", ({"consecutive_failures": -1, "first_failure_at": make.NOON},)),
    Refused("failures_are_not_negative", "webhooks", ({"trips": -2, "open_until": make.NOON},)),
    Refused("open_breaker_has_tripped", "webhooks", ({"open_until": make.NOON},)),
    Refused("open_breaker_has_tripped", "webhooks", ({"trips": 1},)),
    Refused("payload_format_is_known", "webhook_payloads", ({"format": "xml"},)),
    Refused("one_delivery_per_event_and_endpoint", "webhook_deliveries", ({}, {})),
    Refused("delivery_state_is_known", "webhook_deliveries", ({"state": "sent"},)),
    Refused("delivery_has_something_to_say", "webhook_deliveries", ({"event_id": None},)),
    Refused("delivery_has_something_to_say", "webhook_deliveries", ({"event_id": None, "type": "ping"},)),
    Refused("delivery_has_something_to_say", "webhook_deliveries", ({"event_id": None, "body": b"{}"},)),
    Refused("in_progress_has_a_claim", "webhook_deliveries", ({"state": "in_progress"},)),
    Refused("in_progress_has_a_claim", "webhook_deliveries", ({"state": "in_progress", "claimed_until": make.NOON},)),
    Refused(
        "in_progress_has_a_claim",
        "webhook_deliveries",
        ({"claim": sa.func.gen_random_uuid(), "claimed_until": make.NOON},),
    ),
    Refused("completion_time_is_of_completed", "webhook_deliveries", ({"completed_at": make.NOON},)),
    Refused("delivery_attempts_are_not_negative", "webhook_deliveries", ({"attempts": -1},)),
    Refused("attempt_code_is_known", "webhook_attempts", ({"code": "tired"},)),
    Refused("attempt_duration_is_not_negative", "webhook_attempts", ({"duration_ms": -1},)),
    Refused("response_is_short", "webhook_attempts", ({"response": sa.text("repeat('x', 20001)::bytea")},)),
    Refused("one_file_per_storage_key", "files", ({}, {"byte_size": 1})),
    Refused("byte_size_is_not_negative", "files", ({"byte_size": -1},)),
    Refused("handler_is_named", "live_jobs", ({"handler": ""},)),
    Refused("handler_is_named", "live_jobs", ({"handler": 101 * "x"},)),
    Refused("run_at_is_finite", "live_jobs", ({"run_at": sa.text("'infinity'")},)),
    Refused("attempts_are_1_to_25", "live_jobs", ({"max_attempts": 0},)),
    Refused("attempts_are_1_to_25", "live_jobs", ({"max_attempts": 26},)),
    Refused("timeout_is_positive", "live_jobs", ({"timeout_ms": 0},)),
    Refused("backoff_is_known", "live_jobs", ({"backoff": sa.text('\'{"kind": "never"}\'')},)),
    Refused("payload_is_an_object", "live_jobs", ({"payload": sa.text("'[]'")},)),
    Refused("parked_is_known", "live_jobs", ({"parked": "rain"},)),
    Refused("only_waiting_jobs_are_parked", "live_jobs", ({"parked": "key", "lease_id": 1},)),
    Refused("origin_is_known", "live_jobs", ({"origin": "somewhere"},)),
    Refused("finished_state_is_known", "finished_jobs", ({"state": "failed"},)),
    Refused("percent_is_0_to_100", "job_progress", ({"percent": 100.5},)),
    Refused("limit_is_not_negative", "job_limits", ({"per_minute": -1},)),
    Refused("one_report_per_day_and_board", "daily_reports", ({}, {})),
    Refused("one_report_per_day_and_board", "daily_reports", ({"board_id": None}, {"board_id": None})),
    Refused("reported_counts_are_not_negative", "daily_reports", ({"comments": -1},)),
    Refused("reported_counts_are_not_negative", "daily_reports", ({"deliveries_errored": -2},)),
    Refused("mails_are_of_no_board", "daily_reports", ({"bundles_mailed": 1},)),
    Refused("mails_are_of_no_board", "daily_reports", ({"bundles_failed": 2},)),
    Refused("one_cron_job_per_name", "cron_jobs", ({}, {})),
    Refused("cron_name_is_given", "cron_jobs", ({"name": ""},)),
    Refused("cron_handler_is_named", "cron_jobs", ({"handler": ""},)),
    Refused("cron_payload_is_an_object", "cron_jobs", ({"payload": []},)),
    Refused("cron_attempts_are_1_to_25", "cron_jobs", ({"max_attempts": 26},)),
    Refused("cron_timeout_is_positive", "cron_jobs", ({"timeout_ms": 0},)),
    Refused("cron_backoff_is_known", "cron_jobs", ({"backoff": {"kind": "fixed", "seconds": -1}},)),
    Refused("next_run_is_finite", "cron_jobs", ({"next_run_at": sa.text("'-infinity'")},)),
]


@pytest.mark.parametrize(
    "refused", REFUSED, ids=lambda refused: "-".join([refused.constraint, *map(str, refused.changes[-1].values())])
)
def test_a_row_that_breaks_a_rule_is_refused_by_the_constraint_of_that_name(
    connection: sa.Connection, refused: Refused
) -> None:
    row = _row(refused.table, _tenant(connection))
    assert _violated(connection, refused.table, *[row | change for change in refused.changes]) == refused.constraint


def test_every_check_and_every_unique_rule_is_among_those_tested(connection: sa.Connection) -> None:
    """But for the keys that foreign keys refer to: those repeat a primary key."""
    rules = _constraints(connection, "c.contype in ('c', 'x') or c.contype = 'u' and c.conname not like '%\\_of\\_a%'")
    unique_indexes = connection.execute(
        sa.text("""
            select i.indexrelid::regclass::text from pg_index as i
            where i.indrelid::regclass::text like 'flatearth.%' and i.indisunique and i.indpred is not null
        """)
    ).scalars()
    rules |= {name.removeprefix("flatearth.") for name in unique_indexes}
    assert rules - {"one_system_user_per_account"} == {refused.constraint for refused in REFUSED} - {
        "one_system_user_per_account"
    }


def test_two_accounts_may_each_have_a_system_user_and_the_same_tag(connection: sa.Connection) -> None:
    for tenant in (_tenant(connection), _tenant(connection)):
        _insert(connection, "users", _row("users", tenant) | {"role": "system"})
        _insert(connection, "tags", _row("tags", tenant))


def test_an_account_and_its_board_may_each_have_a_period_of_one_millisecond(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    make.period(connection, "account", ours.account, timedelta(milliseconds=1))
    make.period(connection, "board", ours.board, timedelta(milliseconds=1))


def test_windows_of_a_person_may_touch_and_those_of_two_people_may_be_the_same(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    first = _row("notification_bundles", ours)
    second = first | {"starts_at": first["ends_at"], "ends_at": first["ends_at"] + make.MICROSECOND}
    somebody_else = first | {"user_id": make.user(connection, ours.account)}
    for row in (first, second, somebody_else):
        _insert(connection, "notification_bundles", row)


def test_a_bundle_is_due_at_its_end_or_at_its_next_attempt_whichever_is_later(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    day = _row("notification_bundles", ours)
    for number, next_attempt_at in enumerate([None, make.NOON, make.NOON + 9 * make.DAY]):
        window = {"starts_at": make.NOON + number * make.DAY, "ends_at": make.NOON + (number + 1) * make.DAY}
        _insert(connection, "notification_bundles", day | window | {"next_attempt_at": next_attempt_at})
    bundles = tables.notification_bundles
    due = connection.execute(sa.select(bundles.c.due_at).where(bundles.c.user_id == ours.user).order_by(bundles.c.id))
    assert due.scalars().all() == [make.NOON + make.DAY, make.NOON + 2 * make.DAY, make.NOON + 9 * make.DAY]


def test_the_board_of_a_period_follows_from_its_container(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    make.period(connection, "account", ours.account, make.DAY)
    make.period(connection, "board", ours.board, make.DAY)
    query = sa.select(tables.entropies.c.container_type, tables.entropies.c.board_id)
    rows = connection.execute(query.where(tables.entropies.c.account_id == ours.account)).all()
    assert dict(tuple(row) for row in rows) == {"account": None, "board": ours.board}


def test_a_delivery_that_names_no_account_has_that_of_its_webhook(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    _insert(connection, "webhook_deliveries", {"webhook_id": ours.webhook, "event_id": 1})
    deliveries = tables.webhook_deliveries.c
    query = sa.select(deliveries.account_id).where(deliveries.webhook_id == ours.webhook, deliveries.event_id == 1)
    assert connection.execute(query).scalars().all() == [ours.account]


def test_a_delivery_of_no_webhook_is_refused(connection: sa.Connection) -> None:
    with pytest.raises(IntegrityError, match="there is no webhook 0"), connection.begin_nested():
        _insert(connection, "webhook_deliveries", {"webhook_id": 0, "event_id": 1})


def test_two_webhooks_may_be_told_of_one_event_and_one_of_many_direct_ones(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    other = make.webhook(connection, ours.account)
    for webhook_id, event_id in ((ours.webhook, 1), (other, 1), (other, None), (other, None)):
        make.delivery(connection, webhook_id, event_id)


def test_an_answer_of_exactly_20_000_bytes_is_kept(connection: sa.Connection) -> None:
    _insert(connection, "webhook_attempts", _row("webhook_attempts", _tenant(connection)) | {"response": 20_000 * b"x"})


# What goes with what


def test_deleting_an_account_takes_all_that_is_its_and_nothing_else(database: str) -> None:
    engine = db.engine(database, "tests")
    with engine.begin() as connection:
        ours, theirs = _tenant(connection), _tenant(connection)
        filled = [table.name for table in tables.metadata.sorted_tables if "account_id" in table.c]
        filled += ["live_jobs", "job_limits"]
        for tenant in (ours, theirs):
            for table in filled:
                _insert(connection, table, _row(table, tenant))
    with engine.begin() as connection:
        connection.execute(sa.delete(tables.accounts).where(tables.accounts.c.id == ours.account))
    with engine.begin() as connection:
        for table in filled:
            left = connection.execute(sa.text(f"select account_id from flatearth.{table}")).scalars()
            assert set(left) == {theirs.account}, table
    engine.dispose()


def test_deleting_a_person_leaves_the_boards_and_cards_they_made_without_a_creator(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    _insert(connection, "boards", _row("boards", ours))
    _insert(connection, "cards", _row("cards", ours))
    connection.execute(sa.delete(tables.users).where(tables.users.c.id == ours.user))
    for table in (tables.boards, tables.cards):
        query = sa.select(table.c.creator_id).where(table.c.account_id == ours.account)
        assert connection.execute(query).scalars().all() == [None, None]


@pytest.mark.parametrize("what", ["boards", "webhooks"])
def test_deleting_a_board_or_a_webhook_takes_its_deliveries_and_their_attempts(
    connection: sa.Connection, what: str
) -> None:
    ours = _tenant(connection)
    webhook = make.webhook(connection, ours.account, board_id=ours.board)
    make.attempt(connection, make.delivery(connection, webhook))
    make.attempt(connection, ours.delivery)
    doomed = tables.metadata.tables[f"{tables.SCHEMA}.{what}"]
    connection.execute(sa.delete(tables.cards).where(tables.cards.c.account_id == ours.account))
    connection.execute(sa.delete(doomed).where(doomed.c.id == {"boards": ours.board, "webhooks": webhook}[what]))
    for table in (tables.webhook_deliveries, tables.webhook_attempts):
        column = table.c.id if table is tables.webhook_deliveries else table.c.delivery_id
        query = sa.select(column).where(table.c.account_id == ours.account)
        assert connection.execute(query).scalars().all() == [ours.delivery]


def test_a_person_with_events_cannot_be_deleted(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    _insert(connection, "events", _row("events", ours))
    connection.execute(sa.text("set constraints all immediate"))  # were it checked at the commit
    person = sa.delete(tables.users).where(tables.users.c.id == ours.user)
    with pytest.raises(IntegrityError, match="event_creator_is_of_the_account"), connection.begin_nested():
        connection.execute(person)


def test_deleting_a_column_leaves_its_cards_on_their_board(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    _insert(connection, "cards", _row("cards", ours))
    connection.execute(sa.delete(tables.columns).where(tables.columns.c.id == ours.column))
    query = sa.select(tables.cards.c.board_id, tables.cards.c.column_id)
    assert set(connection.execute(query.where(tables.cards.c.account_id == ours.account)).all()) == {(ours.board, None)}


def test_deleting_a_board_takes_its_period(connection: sa.Connection) -> None:
    ours = _tenant(connection)
    make.period(connection, "board", ours.board, make.DAY)
    connection.execute(sa.delete(tables.boards).where(tables.boards.c.id == ours.board))
    query = sa.select(sa.func.count()).where(tables.entropies.c.account_id == ours.account)
    assert connection.execute(query).scalar_one() == 0


def _constraints(connection: sa.Connection, which: str) -> set[str]:
    query = f"""
        select c.conname from pg_constraint as c
        where c.connamespace = 'flatearth'::regnamespace and ({which})
        and c.conrelid::regclass::text !~ 'yoyo|migration_checksums'
    """
    return set(connection.execute(sa.text(query)).scalars())
