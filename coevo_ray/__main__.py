"""`python -m coevo_ray` is the command line."""

from coevo_ray.cli import main

main()
