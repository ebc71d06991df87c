"""Run the command line: `python -m interaction_svc` is the same as `interaction-svc`."""

from interaction_svc.cli import main

main()
