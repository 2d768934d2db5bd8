// graphile-worker, copied to where it is installed: `graphile_worker.mjs install|fill|drain URL [JOBS]`.
//
// `drain` prints `ready`, begins at the first line on standard input, and prints when it began and ended by the
// monotonic clock: the end is when its table is empty. The settings are those of its own performance page.

import { Logger, run, runMigrations } from "graphile-worker";
import pg from "pg";

const [what, connectionString, jobs] = process.argv.slice(2);
const logger = new Logger(() => () => undefined);
const seconds = () => Number(process.hrtime.bigint()) / 1e9;

async function query(text, values = []) {
  const client = new pg.Client({ connectionString });
  await client.connect();
  try {
    return (await client.query(text, values)).rows;
  } finally {
    await client.end();
  }
}

async function drain(total) {
  let done = 0;
  let tell;
  const all = new Promise((resolve) => {
    tell = resolve;
  });
  const began = seconds();
  const runner = await run({
    connectionString,
    logger,
    noHandleSignals: true,
    preset: {
      worker: {
        connectionString,
        concurrentJobs: 24,
        maxPoolSize: 10,
        pollInterval: 2000,
        localQueue: { size: 500 },
        completeJobBatchDelay: 0,
        failJobBatchDelay: 0,
        logger,
      },
    },
    taskList: {
      noop: async () => {
        done += 1;
        if (done === total) tell();
      },
    },
  });
  await all;
  const watcher = new pg.Client({ connectionString });
  await watcher.connect();
  while ((await watcher.query("select exists (select from graphile_worker._private_jobs) as left")).rows[0].left) {
    await new Promise((resolve) => setTimeout(resolve, 2));
  }
  const ended = seconds();
  await watcher.end();
  await runner.stop();
  return { began, ended };
}

if (what === "install") {
  await runMigrations({ connectionString, logger });
} else if (what === "fill") {
  const add = `
    select count(*) from graphile_worker.add_jobs((
      select array_agg(row('noop', '{}', null, null, null, null, null, null)::graphile_worker.job_spec)
      from generate_series(1, $1)
    ))`;
  for (let start = 0; start < Number(jobs); start += 1000) {
    await query(add, [Math.min(1000, Number(jobs) - start)]);
  }
} else {
  const [{ total }] = await query("select count(*)::integer as total from graphile_worker._private_jobs");
  process.stdout.write("ready\n");
  await new Promise((resolve) => process.stdin.once("data", resolve));
  process.stdout.write(`${JSON.stringify(await drain(total))}\n`);
  process.exit(0);
}
