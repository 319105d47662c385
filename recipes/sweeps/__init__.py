"""Sweeps: many runs, each in its own process; finished jobs are not repeated; a table at the end.

    SWEEP/                  the folder of a sweep
      N/                    the folder of job N: the files of a run, and
        job.json            its overrides, state and metrics
        log.txt             the output of its process
      sweep.html, sweep.csv, sweep.json, jobs.csv

`grid` and `search` are Hydra sweepers. Hydra calls `cli.multirun` for each job, `process` starts
the job's process, and `child` is its main program. `table`, `figures` and `page` report results.
"""
