drop function flatearth.postponing_soon(bigint, bigint, timestamptz);

drop function flatearth.set_auto_postpone_period(bigint, text, bigint, bigint);

drop function flatearth.auto_postpone_period_ms(bigint, bigint);

drop function flatearth.board_for_actor(bigint, bigint);

drop function flatearth.account_of_actor(bigint);
