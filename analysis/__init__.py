"""From the Parquet of a results folder to every table, figure and the report, with pandas alone.

`report.py`, `success_rate.py` and `complementarity.py` are commands; the rest are small functions that a
notebook calls: `results.load` reads and checks the trials, `statistics` has tests and intervals, `measures`
makes tables of trials, `figures` draws them. Nothing here imports torch, timm, Ray or `study`: results
outlive the program that made them.
"""
