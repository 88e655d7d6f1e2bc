"""`python -m core`: the headless commands, for machines without Qt."""

import sys

from core.cli import main

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
