"""The door: `python train.py recipe=fixmatch …`; `--help` says what there is."""

import sys

from recipes.cli.main import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
