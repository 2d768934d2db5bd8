drop function flatearth.mute_board(bigint, bigint, boolean);
drop function flatearth.set_notification_settings(bigint, jsonb);
drop trigger windows_follow_frequency on flatearth.notification_settings;
drop function flatearth.follow_frequency();
drop function flatearth.create_notification(bigint, bigint, text, bigint, bigint);
drop function flatearth.create_notifications(jsonb);
drop function flatearth.asked_notifications(jsonb);
drop function flatearth.write_notifications(bigint[], text[], bigint[], bigint[], text[]);
drop function flatearth.bundle_end(timestamptz, text, text, time, time, smallint[]);
drop function flatearth.after_quiet(timestamptz, text, time, time, smallint[]);
drop function flatearth.known_zone(text);
drop table flatearth.email_suppressions;
drop index flatearth.users_by_email;
drop table flatearth.notification_bundles;
drop trigger comments_of_drafts_are_scanned on flatearth.cards;
drop trigger cards_are_scanned on flatearth.cards;
drop trigger comments_are_scanned on flatearth.comments;
drop trigger new_events_are_told on flatearth.events;
drop function flatearth.record_comments_of_draft();
drop function flatearth.record_unscanned_source();
drop function flatearth.record_unnotified_event();
drop table flatearth.unscanned_sources;
drop table flatearth.unnotified_events;
drop table flatearth.board_mutes;
alter table flatearth.notification_settings
drop constraint quiet_days_leave_a_day,
drop constraint quiet_hours_have_two_ends,
drop column instant_assignments,
drop column instant_mentions,
drop column quiet_days,
drop column quiet_until,
drop column quiet_from;
