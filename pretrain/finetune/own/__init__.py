"""Fine-tuning on a table of one's own.

open.py      a task's name and a table to a problem: the tables read, a part held out
table.py     CSV, TSV, JSON lines and Parquet to columns
delimited.py the first two of them: separators, quotes, encodings
columns.py   which columns hold text and labels
split.py     the held-out part
values.py    cells to names, numbers and lists
tasks: classify.py  regress.py  spans.py  tags.py
"""
