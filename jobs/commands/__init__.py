"""The command line behind jobs/cli.py: what it accepts (options/), and commands that are not jobs, one module for each."""
