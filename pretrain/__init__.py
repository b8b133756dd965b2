"""Pretraining: recipes, data, engine, trainer. Imports point one way: pretrain -> growth -> model."""

__version__ = "0.1.0"
