"""`python -m datasets.demo`; see `datasets.demo.command`."""

from common.cli import call_main

from .command import main

if __name__ == "__main__":
    call_main(main)
