"""Fine-tuning on GLUE and SQuAD, on transformers by way of export.

tasks.py     what each task is: files, columns, labels, metrics; the papers' grids
glue.py      sentence classification and regression: files to features, logits to scores
pooling.py   sentences told by the mean of their tokens' states
squad.py     answers as spans of a text
metrics.py   the official numbers
fit.py       the loop: some epochs of AdamW
run.py       the verb: several seeds, several settings, median and spread
"""
