drop table flatearth.webhook_attempts;
drop table flatearth.webhook_deliveries;
drop function flatearth.account_of_delivery();
drop table flatearth.webhook_payloads;
drop trigger new_events_are_dispatched on flatearth.events;
drop function flatearth.record_undispatched_events();
drop table flatearth.undispatched_events;
drop table flatearth.webhooks;
