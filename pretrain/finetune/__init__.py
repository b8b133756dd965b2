"""Fine-tuning on GLUE and SQuAD, with the exported model in transformers.

tasks.py       the tasks: files, columns, labels, metrics; the papers' grids
glue.py        sentence classification and regression: files to features, logits to scores
pooling.py     sentences represented by the mean of their tokens' states
squad.py       answers as spans of a text
text.py        reading files, checking lengths
hub.py         data sets of the Hugging Face Hub
metrics.py     the official metrics
pretrained.py  the model to start from: tokenizer, and weights or only the shape
fit.py         the training loop
results.py     median and spread, as a table and as JSON
run.py         all of it: several settings, several seeds each
"""
