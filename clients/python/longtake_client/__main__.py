"""``python -m longtake_client``."""

import sys

from longtake_client.cli import main

sys.exit(main())
