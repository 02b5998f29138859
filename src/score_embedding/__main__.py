"""`python -m score_embedding`."""

from score_embedding.cli import main

main()
