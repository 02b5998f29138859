"""One file per training method: its batches, its loss, its sampler.

A method that is trained gives the loop (training.py) an `Objective`; every method has a `sample`.
"""
