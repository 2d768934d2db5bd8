import asyncio
from datetime import timedelta

import sqlalchemy as sa

from flatearth_pipelines import database as db
from flatearth_pipelines.queue import functions, leases
from flatearth_pipelines.queue.handlers import Context, Handler, NoPayload, Registry
from flatearth_pipelines.queue.ledger import Ledger, Report


async def _noop(_context: Context, _payload: NoPayload) -> None:
    """Do nothing."""


HANDLERS = Registry([Handler("noop", NoPayload, _noop)])


def test_a_job_that_ends_while_others_are_being_recorded_is_recorded_next(database: str) -> None:
    engine = db.engine(database, "test")
    with engine.begin() as connection:
        functions.enqueue_jobs(connection, HANDLERS, [{"handler": "noop"}] * 2)

    async def work() -> Ledger:
        connection = await db.connect_async(database, "drain")
        async with connection:
            lease, _ = await leases.open_lease(connection, "test", timedelta(minutes=5))
            jobs = await (await leases.claim(connection, lease, 2)).fetchall()
            ledger = Ledger(Report())
            ledger.claim(jobs)
            ledger.succeed(jobs[0].id, None)
            async with connection.pipeline():
                await connection.lock.acquire()  # as while the connection's socket is full
                recording = asyncio.create_task(ledger.record(connection, lease))
                await asyncio.sleep(0)
                ledger.succeed(jobs[1].id, None)
                connection.lock.release()
                recorded = await recording
            await ledger.count(recorded)
            async with connection.pipeline():
                recorded = await ledger.record(connection, lease)
            await ledger.count(recorded)
            return ledger

    ledger = asyncio.run(work())
    assert ledger.is_empty
    with engine.connect() as connection:
        ended = connection.execute(sa.text("SELECT state, count(*) FROM flatearth.jobs GROUP BY state")).all()
    engine.dispose()
    assert ended == [("succeeded", 2)]
