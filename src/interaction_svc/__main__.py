"""`python -m interaction_svc` is `interaction-svc`."""

from interaction_svc.cli import main

main()
