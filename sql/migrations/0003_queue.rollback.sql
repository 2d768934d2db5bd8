drop view flatearth.jobs cascade;
drop table flatearth.cron_jobs;
drop table flatearth.job_alerts;
drop table flatearth.job_limits;
drop table flatearth.job_pauses;
drop table flatearth.job_stop_requests;
drop table flatearth.job_progress;
drop table flatearth.job_keys;
drop function flatearth.next_job_due(boolean);
drop function flatearth.sweep_jobs();
drop function flatearth.hand_back_jobs(bigint, bigint[], boolean);
drop function flatearth.fail_jobs(bigint, bigint[], text[], bigint[], boolean);
drop function flatearth.finish_jobs(bigint, bigint[], jsonb, text, text);
drop function flatearth.wake_next_of_keys(text[]);
drop function flatearth.wake_next_of_jobs(bigint[], bigint);
drop function flatearth.runnable_jobs(tid[], text[], boolean, boolean, boolean);
drop function flatearth.claim_jobs(bigint, integer, boolean, integer, timestamptz, bigint);
drop function flatearth.resume_jobs(text);
drop function flatearth.pause_jobs(text);
drop function flatearth.delete_job(bigint);
drop function flatearth.retry_job(bigint);
drop function flatearth.enqueue_jobs(jsonb);
drop function flatearth.enqueue_job(
    text, jsonb, timestamptz, interval, integer, text, text, integer, text, integer, jsonb, interval, bigint, boolean,
    text, bigint
);
drop function flatearth.cancel_job(bigint, text);
drop function flatearth.count_against_job_limit(bigint, integer);
drop function flatearth.ring_for_jobs();
drop function flatearth.drop_job_partitions(interval, interval);
drop function flatearth.make_job_partitions(integer);
drop table flatearth.dead_jobs;
drop table flatearth.finished_jobs;
drop table flatearth.live_jobs;
drop table flatearth.job_leases;
drop function flatearth.is_backoff(jsonb);
