"""Problems from files, object stores and the Hub, read row by row; unusable rows are set aside.

records.py        the rows of JSONL and Parquet files
hub.py            the rows of a Hub data set
layouts.py        the columns of known data sets, or as configured
chats.py          the turns of rows that are chats
problems.py       training problems from these rows
benchmarks.py     evaluation problems: the playground's, the paper's, or those of a file
screening.py      checks that decide which training problems a run uses
gold_check.py     the check of gold answers
contamination.py  the check for overlap with the benchmarks
problem_index.py  the index of earlier ids and questions, on disk
"""
