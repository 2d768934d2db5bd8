alter table flatearth.webhook_attempts reset (autovacuum_vacuum_scale_factor);
alter table flatearth.webhook_payloads reset (autovacuum_vacuum_scale_factor);
alter table flatearth.tags reset (autovacuum_vacuum_scale_factor);
alter table flatearth.files reset (autovacuum_vacuum_scale_factor);
alter table flatearth.api_audit_logs reset (autovacuum_vacuum_scale_factor);
alter table flatearth.sessions reset (autovacuum_vacuum_scale_factor);
