"""The parts of `benchmarks/four_way.py`.

lab.py         data sets, trained models and scores, each made once and kept in the work folder
statistics.py  intervals that count seeds and problems both
page.py        the tables
"""
