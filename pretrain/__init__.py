"""Pretraining: recipes, data, engine, trainer. Imports point one way: pretrain -> growth -> model."""
