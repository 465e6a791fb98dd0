"""Where do problems come from? Files, object stores and the Hub, row by row; what cannot be used is set aside.

records.py        the rows of JSONL and Parquet files, whatever their columns
hub.py            the rows of a Hub data set
layouts.py        which columns hold what: NuminaMath, GSM8K, chats, or as configured
problems.py       rows as problems; benchmarks
seen.py           which problems and questions came before, on disk
contamination.py  which questions overlap with the evaluation sets
"""
