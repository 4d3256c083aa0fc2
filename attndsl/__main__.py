"""`python -m attndsl` is the command `attndsl`."""

import sys

from attndsl.cli import main

sys.exit(main())
