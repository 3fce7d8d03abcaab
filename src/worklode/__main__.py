"""`python -m worklode`: the same as the command `worklode`."""

from worklode.cli import main

main()
