"""``python -m engine``; see ``engine/cli.py``."""

import sys

from engine.environment import prepare_environment

prepare_environment()

from engine.cli import main  # noqa: E402  (torch reads the environment when it is loaded)

if __name__ == "__main__":
    sys.exit(main())
