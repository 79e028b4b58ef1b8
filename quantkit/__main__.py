"""`python -m quantkit` is the command `quantkit`."""

from quantkit.cli import main

main()
