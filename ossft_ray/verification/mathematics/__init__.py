"""What the kind `math` needs beside Math-Verify: no answer explodes or runs code, and no wrong one is accepted.

screening.py   is it small enough to be compared?
reading.py     LaTeX to expressions, screened part by part
equality.py    do two expressions say the same?
wording.py     do the words of two answers contradict each other?
"""
