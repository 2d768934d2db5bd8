"""The application's tables as SQLAlchemy Core; a test holds them equal to the migrated database."""

from datetime import datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.postgresql import INET, JSONB

SCHEMA = "flatearth"

metadata = sa.MetaData(schema=SCHEMA)

views = sa.MetaData(schema=SCHEMA)
"""What is read but never written; Postgres takes every column of a view to be nullable."""


def _id() -> sa.Column[int]:
    return sa.Column("id", sa.BigInteger, sa.Identity(always=False), primary_key=True)


def _key(name: str, *, nullable: bool = False, primary: bool = False) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=nullable, primary_key=primary)


def _text(name: str, *, nullable: bool = False) -> sa.Column[str]:
    return sa.Column(name, sa.Text, nullable=nullable)


def _flag(name: str) -> sa.Column[bool]:
    return sa.Column(name, sa.Boolean, nullable=False)


def _count(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.Integer, nullable=False)


def _at(name: str, *, nullable: bool = False) -> sa.Column[datetime]:
    return sa.Column(name, sa.DateTime(timezone=True), nullable=nullable)


def _table(name: str, *columns: sa.Column[Any]) -> sa.Table:
    return sa.Table(name, metadata, *columns)


accounts = _table("accounts", _id(), _text("name"), _at("cancelled_at", nullable=True), _at("created_at"))

users = _table(
    "users",
    _id(),
    _key("account_id"),
    _text("name"),
    _text("email", nullable=True),
    _text("role"),
    _flag("active"),
    _at("verified_at", nullable=True),
    _text("time_zone"),
    _at("created_at"),
)

boards = _table(
    "boards",
    _id(),
    _key("account_id"),
    _key("creator_id", nullable=True),
    _text("name"),
    _flag("all_access"),
    _at("created_at"),
)

accesses = _table("accesses", _id(), _key("account_id"), _key("board_id"), _key("user_id"), _text("involvement"))

columns = _table(
    "columns",
    _id(),
    _key("account_id"),
    _key("board_id"),
    _text("name"),
    sa.Column("position", sa.Integer, nullable=False),
)

cards = _table(
    "cards",
    _id(),
    _key("account_id"),
    _key("board_id"),
    _key("column_id", nullable=True),
    _key("creator_id", nullable=True),
    _key("number", nullable=True),
    _text("title"),
    _text("status"),
    _at("closed_at", nullable=True),
    _at("postponed_at", nullable=True),
    _at("activity_spike_at", nullable=True),
    _at("last_active_at"),
    _at("created_at"),
)

assignments = _table(
    "assignments", _key("account_id"), _key("card_id", primary=True), _key("user_id", primary=True), _at("created_at")
)

watches = _table(
    "watches",
    _key("account_id"),
    _key("card_id", primary=True),
    _key("user_id", primary=True),
    _flag("watching"),
    _at("created_at"),
)

pins = _table(
    "pins", _key("account_id"), _key("card_id", primary=True), _key("user_id", primary=True), _at("created_at")
)

comments = _table(
    "comments",
    _id(),
    _key("account_id"),
    _key("card_id"),
    _key("creator_id", nullable=True),
    _text("body"),
    _at("created_at"),
)

mentions = _table(
    "mentions",
    _id(),
    _key("account_id"),
    _text("source_type"),
    _key("source_id"),
    _key("mentioner_id", nullable=True),
    _key("mentionee_id"),
    _at("created_at"),
)

tags = _table("tags", _id(), _key("account_id"), _text("title"), _at("created_at"))

taggings = _table("taggings", _id(), _key("account_id"), _key("tag_id"), _key("card_id"), _at("created_at"))

events = _table(
    "events",
    _id(),
    _key("account_id"),
    _key("board_id"),
    _key("creator_id"),
    _text("action"),
    _text("eventable_type"),
    _key("eventable_id"),
    sa.Column("particulars", JSONB, nullable=False),
    _at("created_at"),
)

entropies = _table(
    "entropies",
    _id(),
    _key("account_id"),
    _text("container_type"),
    _key("container_id"),
    _key("auto_postpone_period_ms"),
    sa.Column(
        "board_id",
        sa.BigInteger,
        sa.Computed("case when container_type = 'board' then container_id end", persisted=True),
    ),
)

notifications = _table(
    "notifications",
    _id(),
    _key("account_id"),
    _key("user_id"),
    _key("creator_id", nullable=True),
    _text("source_type"),
    _key("source_id"),
    _at("read_at", nullable=True),
    _at("created_at"),
)

notification_settings = _table(
    "notification_settings",
    _key("user_id", primary=True),
    _key("account_id"),
    _text("email_frequency"),
    sa.Column("quiet_from", sa.Time),
    sa.Column("quiet_until", sa.Time),
    sa.Column("quiet_days", sa.ARRAY(sa.SmallInteger), nullable=False),
    _flag("instant_mentions"),
    _flag("instant_assignments"),
)

board_mutes = _table(
    "board_mutes", _key("account_id"), _key("board_id", primary=True), _key("user_id", primary=True), _at("created_at")
)

unnotified_events = _table("unnotified_events", _key("event_id", primary=True))

unscanned_sources = _table("unscanned_sources", _id(), _text("source_type"), _key("source_id"))

notification_bundles = _table(
    "notification_bundles",
    _id(),
    _key("account_id"),
    _key("user_id"),
    _at("starts_at"),
    _at("ends_at"),
    _text("status"),
    sa.Column("attempts", sa.Integer, nullable=False),
    _at("next_attempt_at", nullable=True),
    sa.Column(
        "due_at",
        sa.DateTime(timezone=True),
        sa.Computed("greatest(ends_at, next_attempt_at)", persisted=True),
        nullable=False,
    ),
    _at("claimed_until", nullable=True),
    sa.Column("claim", sa.Uuid),
    _at("delivered_at", nullable=True),
    _text("outcome", nullable=True),
    _text("message_id", nullable=True),
    _text("last_error", nullable=True),
    sa.Column("items", sa.Integer),
    _at("created_at"),
    _at("failed_at", nullable=True),
)

email_suppressions = _table(
    "email_suppressions",
    sa.Column("address", sa.Text, primary_key=True),
    _text("reason"),
    _text("source"),
    _at("created_at"),
)

sessions = _table("sessions", _id(), _key("user_id"), _at("expires_at"), _at("created_at"))

api_audit_logs = _table(
    "api_audit_logs", _id(), _key("account_id"), _key("user_id", nullable=True), _text("action"), _at("created_at")
)

files = _table(
    "files",
    _id(),
    _key("account_id"),
    _text("storage_key"),
    sa.Column("byte_size", sa.BigInteger, nullable=False),
    _at("created_at"),
)

webhooks = _table(
    "webhooks",
    _id(),
    _key("account_id"),
    _key("board_id", nullable=True),
    _text("name"),
    _text("url"),
    sa.Column("actions", sa.ARRAY(sa.Text), nullable=False),
    _text("format"),
    _text("signature"),
    sa.Column("sealed_secret", sa.LargeBinary, nullable=False),
    sa.Column("previous_sealed_secret", sa.LargeBinary),
    _at("previous_secret_until", nullable=True),
    _text("public_key", nullable=True),
    _flag("active"),
    _at("disabled_at", nullable=True),
    _text("disabled_reason", nullable=True),
    sa.Column("consecutive_failures", sa.Integer, nullable=False),
    _at("first_failure_at", nullable=True),
    sa.Column("trips", sa.Integer, nullable=False),
    _at("open_until", nullable=True),
    _at("created_at"),
)

undispatched_events = _table("undispatched_events", _key("event_id", primary=True))

webhook_payloads = _table(
    "webhook_payloads",
    _key("event_id", primary=True),
    sa.Column("format", sa.Text, primary_key=True),
    _key("account_id"),
    sa.Column("body", sa.LargeBinary, nullable=False),
    _at("created_at"),
)

webhook_deliveries = _table(
    "webhook_deliveries",
    _id(),
    _key("account_id"),
    _key("webhook_id"),
    _key("event_id", nullable=True),
    _text("type", nullable=True),
    sa.Column("body", sa.LargeBinary),
    _text("state"),
    sa.Column("attempts", sa.Integer, nullable=False),
    _at("next_attempt_at"),
    _at("claimed_until", nullable=True),
    sa.Column("claim", sa.Uuid),
    _at("completed_at", nullable=True),
    _text("last_code", nullable=True),
    _at("created_at"),
)

webhook_attempts = _table(
    "webhook_attempts",
    _id(),
    _key("delivery_id"),
    _key("account_id"),
    sa.Column("attempt", sa.Integer, nullable=False),
    _at("started_at"),
    sa.Column("duration_ms", sa.Integer, nullable=False),
    _text("code"),
    sa.Column("status", sa.Integer),
    sa.Column("address", INET),
    sa.Column("response", sa.LargeBinary),
    _text("detail", nullable=True),
)

daily_reports = _table(
    "daily_reports",
    sa.Column("day", sa.Date, nullable=False),
    _key("account_id"),
    _key("board_id", nullable=True),
    _count("cards_created"),
    _count("cards_closed"),
    _count("cards_postponed"),
    _count("cards_auto_postponed"),
    _count("comments"),
    _count("active_people"),
    _count("bundles_mailed"),
    _count("bundles_failed"),
    _count("deliveries_completed"),
    _count("deliveries_errored"),
)

alerts = _table(
    "alerts",
    sa.Column("subject", sa.Text, primary_key=True),
    _at("told_at"),
    _count("untold"),
)

cron_jobs = _table(
    "cron_jobs",
    _id(),
    _text("name"),
    _text("pattern"),
    _text("time_zone"),
    _text("handler"),
    sa.Column("payload", JSONB, nullable=False),
    _flag("enabled"),
    sa.Column("priority", sa.Integer, nullable=False),
    sa.Column("max_attempts", sa.SmallInteger),
    sa.Column("backoff", JSONB),
    sa.Column("timeout_ms", sa.Integer),
    _key("account_id", nullable=True),
    _at("next_run_at", nullable=True),
    _at("last_run_at", nullable=True),
    _key("last_job_id", nullable=True),
    _key("run_count"),
    _text("last_error", nullable=True),
    _at("created_at"),
)

jobs = sa.Table(
    "jobs",
    views,
    _key("id", nullable=True),
    _text("handler", nullable=True),
    _text("state", nullable=True),
    sa.Column("attempts", sa.SmallInteger),
    sa.Column("max_attempts", sa.SmallInteger),
    _text("last_error", nullable=True),
    _key("account_id", nullable=True),
    sa.Column("priority", sa.Integer),
    _at("run_at", nullable=True),
    _at("created_at", nullable=True),
    _at("started_at", nullable=True),
    _at("finished_at", nullable=True),
    _text("job_key", nullable=True),
    _text("concurrency_key", nullable=True),
    sa.Column("backoff", JSONB),
    sa.Column("timeout_ms", sa.Integer),
    _text("origin", nullable=True),
    _key("cron_job_id", nullable=True),
    sa.Column("payload", JSONB),
    sa.Column("result", JSONB),
    sa.Column("progress", sa.REAL),
    _text("progress_line", nullable=True),
    _text("parked", nullable=True),
)
"""A view: every job, unfinished or ended."""
