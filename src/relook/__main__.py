"""Run the command line as `python -m relook`."""

from relook.cli import main

main()
