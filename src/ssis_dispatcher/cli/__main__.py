"""`python -m ssis_dispatcher.cli`: the `ssis` command where it is not on the PATH."""

from ssis_dispatcher.cli import main

main(prog_name="ssis")
