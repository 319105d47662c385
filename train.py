"""The door: `python train.py recipe=fixmatch …`; `--help` says what there is."""

import sys

if __name__ == "__main__":
    from foundation.exit_codes import end_at_sigterm
    from recipes.runs.ranks import further_rank

    # before anything heavy is imported: a cluster may take the machine at any moment
    end_at_sigterm(silent=further_rank())

    from recipes.cli.main import main

    sys.exit(main(sys.argv[1:]))
