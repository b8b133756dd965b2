"""Fine-tuning on GLUE and SQuAD, on transformers by way of export.

tasks.py       what each task is: files, columns, labels, metrics; the papers' grids
glue.py        sentence classification and regression: files to features, logits to scores
pooling.py     sentences told by the mean of their tokens' states
squad.py       answers as spans of a text
text.py        what both of these ask of a file and of a length
hub.py         data sets of the Hugging Face Hub
metrics.py     the official numbers
pretrained.py  what is fine-tuned: tokenizer, weights or shape alone
fit.py         the loop: some epochs of AdamW
results.py     median and spread, as a table and as JSON
run.py         the verb: several seeds, several settings
"""
