"""Commands beside the main ones: `python -m tools.NAME --help`."""
