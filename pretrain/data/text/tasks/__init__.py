"""`prepare` in many tasks, here or on the nodes of a cluster, by Hugging Face's datatrove (the extra `corpus`).

stages.py       what is done, in which order, and what is said of it
executors.py    who does it: processes of this machine, or jobs of SLURM
steps.py        the first and last steps of a task: our sources read, our tokens kept, the corpus written
parts.py        a task's tokens on disk
filters.py      datatrove's filters by name; words.py, what a word is to them and to MinHash

A task is a group of files, whatever does it. So neither the number of processes or nodes nor a task that was killed
and done again changes a byte.
"""
