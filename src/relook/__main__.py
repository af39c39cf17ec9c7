"""`python -m relook`."""

from relook.cli import main

main()
