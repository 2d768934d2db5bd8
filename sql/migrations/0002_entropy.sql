-- What an application calls, inside its own transaction, about cards that go stale. The errors are those of the
-- contract: 42501 for an actor who may not, P0002 for what is not there, 22023 for a bad value.

-- The actor's account, or 42501 for somebody inactive. Shared by every function that acts on behalf of a person.
create function flatearth.account_of_actor(actor_id bigint) returns bigint
language plpgsql stable
as $$
declare
    actor flatearth.users;
begin
    if account_of_actor.actor_id is null then
        raise exception 'actor_id is null' using errcode = '22023';
    end if;
    select * into actor from flatearth.users where users.id = account_of_actor.actor_id;
    if not found then
        raise exception 'there is no user %', account_of_actor.actor_id using errcode = 'P0002';
    end if;
    if not actor.active then
        raise exception 'user % is inactive', actor.id using errcode = '42501';
    end if;
    return actor.account_id;
end
$$;

-- The board, if the actor may see it: people of its account with access, and every owner and admin.
create function flatearth.board_for_actor(actor_id bigint, board_id bigint) returns flatearth.boards
language plpgsql stable
as $$
declare
    actor_account_id bigint := flatearth.account_of_actor(board_for_actor.actor_id);
    board flatearth.boards;
begin
    if board_for_actor.board_id is null then
        raise exception 'board_id is null' using errcode = '22023';
    end if;
    select * into board from flatearth.boards where boards.id = board_for_actor.board_id;
    if not found then
        raise exception 'there is no board %', board_for_actor.board_id using errcode = 'P0002';
    end if;
    if board.account_id <> actor_account_id then
        raise exception 'user % is of another account than board %', board_for_actor.actor_id, board.id
        using errcode = '42501';
    end if;
    if not (
        board.all_access
        or exists (
            select from flatearth.users
            where users.id = board_for_actor.actor_id and users.role in ('owner', 'admin', 'system')
        )
        or exists (
            select from flatearth.accesses
            where accesses.board_id = board.id and accesses.user_id = board_for_actor.actor_id
        )
    ) then
        raise exception 'user % has no access to board %', board_for_actor.actor_id, board.id using errcode = '42501';
    end if;
    return board;
end
$$;

-- The effective period of a board, in milliseconds: its own, else its account's, else thirty days.
create function flatearth.auto_postpone_period_ms(actor_id bigint, board_id bigint) returns bigint
language plpgsql stable
as $$
declare
    board flatearth.boards := flatearth.board_for_actor(auto_postpone_period_ms.actor_id, auto_postpone_period_ms.board_id);
begin
    return coalesce(
        (
            select entropies.auto_postpone_period_ms from flatearth.entropies
            where entropies.container_type = 'board' and entropies.container_id = board.id
        ),
        (
            select entropies.auto_postpone_period_ms from flatearth.entropies
            where entropies.container_type = 'account' and entropies.container_id = board.account_id
        ),
        2592000000
    );
end
$$;

-- Sets the period of an account or a board; null clears it, so that the container inherits again. Takes an owner or
-- admin of the account. Acts on the next run, also on cards that are already old.
create function flatearth.set_auto_postpone_period(
    actor_id bigint, container_type text, container_id bigint, period_ms bigint
) returns void
language plpgsql
as $$
declare
    actor_account_id bigint := flatearth.account_of_actor(set_auto_postpone_period.actor_id);
    container_account_id bigint;
begin
    if set_auto_postpone_period.container_type is null
    or set_auto_postpone_period.container_type not in ('account', 'board') then
        raise exception 'container_type is %, not account or board',
            coalesce(quote_literal(set_auto_postpone_period.container_type), 'null')
        using errcode = '22023';
    end if;
    if set_auto_postpone_period.container_id is null then
        raise exception 'container_id is null' using errcode = '22023';
    end if;
    if set_auto_postpone_period.period_ms <= 0 then
        raise exception 'period_ms is %, not a positive number of milliseconds', set_auto_postpone_period.period_ms
        using errcode = '22023';
    end if;
    if set_auto_postpone_period.container_type = 'account' then
        select accounts.id into container_account_id from flatearth.accounts
        where accounts.id = set_auto_postpone_period.container_id;
    else
        select boards.account_id into container_account_id from flatearth.boards
        where boards.id = set_auto_postpone_period.container_id;
    end if;
    if container_account_id is null then
        raise exception 'there is no % %', set_auto_postpone_period.container_type, set_auto_postpone_period.container_id
        using errcode = 'P0002';
    end if;
    if container_account_id <> actor_account_id or not exists (
        select from flatearth.users
        where users.id = set_auto_postpone_period.actor_id and users.role in ('owner', 'admin')
    ) then
        raise exception 'user % is not an owner or admin of account %',
            set_auto_postpone_period.actor_id, container_account_id
        using errcode = '42501';
    end if;
    if set_auto_postpone_period.period_ms is null then
        delete from flatearth.entropies
        where entropies.container_type = set_auto_postpone_period.container_type
        and entropies.container_id = set_auto_postpone_period.container_id;
    else
        insert into flatearth.entropies (account_id, container_type, container_id, auto_postpone_period_ms)
        values (
            container_account_id,
            set_auto_postpone_period.container_type,
            set_auto_postpone_period.container_id,
            set_auto_postpone_period.period_ms
        )
        on conflict on constraint one_period_per_container
        do update set auto_postpone_period_ms = excluded.auto_postpone_period_ms;
    end if;
end
$$;

-- The cards of a board that will be postponed soon or are overdue, longest idle first: idle for more than three
-- quarters of the board's period. Compared in whole microseconds, which no period overflows.
create function flatearth.postponing_soon(
    actor_id bigint, board_id bigint, as_of timestamptz default now()
) returns setof flatearth.cards
language plpgsql stable
as $$
declare
    board flatearth.boards := flatearth.board_for_actor(postponing_soon.actor_id, postponing_soon.board_id);
    soon_after_us numeric := 750 * flatearth.auto_postpone_period_ms(postponing_soon.actor_id, board.id)::numeric;
begin
    return query
    select cards.* from flatearth.cards
    where cards.board_id = board.id
    and cards.status = 'published' and cards.closed_at is null and cards.postponed_at is null
    and extract(epoch from postponing_soon.as_of - cards.last_active_at) * 1000000 > soon_after_us
    and exists (
        select from flatearth.accounts where accounts.id = board.account_id and accounts.cancelled_at is null
    )
    order by cards.last_active_at, cards.id;
end
$$;
