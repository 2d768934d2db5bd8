-- What every day came to. daily_report counts a day when it is over, once more whenever it is asked to, and for any day
-- of the past.

-- One row for each account and board where something happened on the day [00:00, 24:00) UTC, and one without a board
-- for what is the account's: its mails, the deliveries of its webhooks of all boards, and its active people, each once.
-- Every other count of an account is the sum over its rows. A day when nothing happened has none.
create table flatearth.daily_reports (
    day date not null,
    account_id bigint not null references flatearth.accounts (id) on delete cascade,
    board_id bigint,
    cards_created integer not null default 0,
    cards_closed integer not null default 0,
    cards_postponed integer not null default 0,
    cards_auto_postponed integer not null default 0,
    comments integer not null default 0,
    active_people integer not null default 0,
    bundles_mailed integer not null default 0,
    bundles_failed integer not null default 0,
    deliveries_completed integer not null default 0,
    deliveries_errored integer not null default 0,
    constraint one_report_per_day_and_board unique nulls not distinct (day, account_id, board_id),
    constraint reported_counts_are_not_negative check (
        least(
            cards_created, cards_closed, cards_postponed, cards_auto_postponed, comments, active_people,
            bundles_mailed, bundles_failed, deliveries_completed, deliveries_errored
        ) >= 0
    ),
    constraint mails_are_of_no_board check (board_id is null or greatest(bundles_mailed, bundles_failed) = 0),
    constraint reported_board_is_of_the_account foreign key (account_id, board_id)
    references flatearth.boards (account_id, id) on delete cascade
);

-- An account's days; it serves both foreign keys too.
create index reports_of_a_board on flatearth.daily_reports (account_id, board_id, day);

-- When a bundle was given up: nothing else says so, and its window may have ended days before. Whatever gives it up
-- need not know.
alter table flatearth.notification_bundles add column failed_at timestamptz;

update flatearth.notification_bundles set failed_at = due_at
where status = 'failed';

alter table flatearth.notification_bundles
add constraint failure_time_is_of_failed check (failed_at is null or status = 'failed');

create function flatearth.time_of_failure() returns trigger
language plpgsql
as $$
begin
    new.failed_at := case when new.status = 'failed' then clock_timestamp() end;
    return new;
end
$$;

create trigger failed_bundles_know_when before insert or update of status on flatearth.notification_bundles
for each row
when (new.status = 'failed' and new.failed_at is null)
execute function flatearth.time_of_failure();

create trigger reopened_bundles_have_not_failed before update of status on flatearth.notification_bundles
for each row
when (old.status = 'failed' and new.status <> 'failed')
execute function flatearth.time_of_failure();

-- What a day's report reads. These tables grow in the order of time: a summary of each megabyte is enough to find a
-- day, is small (24 kB for a million events), and costs those who write next to nothing. Deliveries are kept for a
-- week: they have none.
create index events_by_time on flatearth.events using brin (created_at) with (autosummarize = on);

create index cards_by_time on flatearth.cards using brin (created_at) with (autosummarize = on);

create index comments_by_time on flatearth.comments using brin (created_at) with (autosummarize = on);

create index bundles_by_delivery on flatearth.notification_bundles using brin (delivered_at) with (autosummarize = on);

create index failed_bundles on flatearth.notification_bundles (failed_at)
where status = 'failed';
