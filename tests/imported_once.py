"""Imported last by the server in command_line.py: what is imported until then is never garbage."""

import gc

gc.collect()
gc.freeze()
