"""Many runs as one thing: each job a process of its own, what is done is not done again, one table
at the end.

    SWEEP/                  the folder of a sweep
      N/                    the folder of job N, that of any run, and beside the run's own files
        job.json            what was asked, how it ended
        log.txt             all that the run said
      sweep.html, sweep.csv, sweep.json, jobs.csv

`jobs` is what Hydra calls for each job, `process` starts it, `child` is what runs there; `grid` and
`search` are Hydra's sweepers of ours; `table`, `figures` and `page` tell how it went.
"""
