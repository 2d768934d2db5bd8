-- What goes by its age every night, about a hundredth of its table. By Postgres's default a table is vacuumed once a
-- fifth of it is dead: for weeks every clean-up would begin with the index entries of what earlier ones deleted.

alter table flatearth.sessions set (autovacuum_vacuum_scale_factor = 0.01);

alter table flatearth.api_audit_logs set (autovacuum_vacuum_scale_factor = 0.01);

alter table flatearth.files set (autovacuum_vacuum_scale_factor = 0.01);

alter table flatearth.tags set (autovacuum_vacuum_scale_factor = 0.01);

alter table flatearth.webhook_payloads set (autovacuum_vacuum_scale_factor = 0.01);

alter table flatearth.webhook_attempts set (autovacuum_vacuum_scale_factor = 0.01);
