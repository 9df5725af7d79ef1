"""The real tritonserver as the judge of `tricompose models lint`: corpora of repositories, and what it said of each.

`server.py` gets real servers, `judging.py` asks one for a verdict, `corpus/` has the repositories, `mutations.py` makes
more of them, `records.py` keeps the verdicts, so that comparing with lint needs no server.
"""
