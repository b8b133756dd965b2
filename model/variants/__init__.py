"""Variants of BERT, one folder each: `__init__.py` declares it (its fields, contradictions, parameters, costs) without
torch, `layers.py` computes it. docs/adding-a-variant.md adds one step by step."""
