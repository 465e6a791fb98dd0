"""The parts of `benchmarks/four_way.py`.

lab.py         data sets, trained models and scores, each made once and kept in the work folder
statistics.py  intervals over both seeds and problems
page.py        the tables
"""
