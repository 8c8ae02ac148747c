"""From the Parquet of a results folder to every table, figure and the report, with pandas alone.

`report.py` is the command; the rest are small functions that a notebook calls: `results.load` reads and
checks the trials, `inference` has tests and intervals, `measures` makes numbers of them, one row each
(`statements`), and each module of `exhibits` a section of the report. Nothing here imports torch, timm, Ray
or `study`: results outlive the program that made them.
"""
