"""Fine-tuning on GLUE, SQuAD and tables of one's own, with the exported model in transformers.

tasks.py       the benchmarks' tasks: files, columns, labels, metrics; the papers' grids
problem.py     what every problem is: examples to features, logits to scores
sentences.py   sentence classification and regression
squad.py       answers as spans of a text
tags.py        a tag for every word
glue.py        GLUE's files
own/           a table of one's own to one of these problems
pooling.py     sentences represented by the mean of their tokens' states
text.py        reading files, checking lengths
hub.py         data sets of the Hugging Face Hub
metrics.py     the official metrics
pretrained.py  the model to start from: tokenizer, and weights or only the shape
fit.py         the training loop
progress.py    where training stands, a line every few seconds
results.py     median and spread, as a table and as JSON
saved.py       the fine-tuned model as a folder of transformers
run.py         all of it: several settings, several seeds each
"""
