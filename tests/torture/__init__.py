"""Campaigns that try to break each promise: many rounds, each made up from a seed.

`scripts/torture NAME -n ROUNDS --seed SEED` runs one; a fixed share of each is part of the suite. A
round that fails is named with the command that runs it alone.
"""
