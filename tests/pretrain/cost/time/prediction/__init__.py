"""How far predicted steps are off: `python -m tests.pretrain.cost.time.prediction` writes docs/results/prediction.md.

About ten minutes on a quiet machine of two cores, which it calibrates first. `--rounds 1 --steps 2` rehearses it.
"""
