"""Additions of the kind `math` to Math-Verify: no answer explodes or runs code, and fewer wrong ones are accepted.

complexity.py  bounds on the size of an answer, before it is evaluated or compared
reading.py     conversion of LaTeX to expressions, checked part by part
equality.py    comparison of two expressions
notation.py    notation that Math-Verify misreads, rewritten
statements.py  comparison of answers with parts, words, units, ratios and conditions
"""
