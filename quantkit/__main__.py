"""`python -m quantkit` is the command `quantkit`."""

import sys

from quantkit.cli import main

sys.exit(main())
