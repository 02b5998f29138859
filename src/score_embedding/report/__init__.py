"""The report of a run, from the files of its folder."""
