-- What somebody was told of, so that they are not told of it again for an hour. untold counts what came meanwhile.
create table flatearth.alerts (
    subject text primary key,
    told_at timestamptz not null default '-infinity',
    untold integer not null default 0,
    constraint untold_is_not_negative check (untold >= 0)
);
