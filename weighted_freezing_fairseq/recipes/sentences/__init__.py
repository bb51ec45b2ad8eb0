"""What `wff prepare`, `train` and `evaluate` do for data sets of labelled sentences: GLUE and XNLI.

One module a command, called by that command's own where the data set is one of `data.SENTENCES`.
"""
