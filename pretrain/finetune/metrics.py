"""Metrics as scikit-learn and scipy compute them: GLUE's (Wang et al. 2018, official scripts), and own tables'."""

from collections.abc import Callable

import numpy as np

Metric = Callable[[np.ndarray, np.ndarray], float]
"""(predictions, truth), both [N]; classes as integers, scores as floats."""


def accuracy(predicted: np.ndarray, true: np.ndarray) -> float:
    return float(np.mean(predicted == true))


def f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """F1 of class 1; 0 if it is neither predicted nor true anywhere."""
    num_correct = np.sum((predicted == 1) & (true == 1))
    num_claimed = np.sum(predicted == 1) + np.sum(true == 1)
    return float(2 * num_correct / num_claimed) if num_claimed else 0.0


def macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Mean over the classes, predicted or true, of the F1 of each: a rare class counts as much as a frequent one."""
    classes = np.union1d(predicted, true)
    return float(np.mean([f1((predicted == one).astype(int), (true == one).astype(int)) for one in classes]))


def r2(predicted: np.ndarray, true: np.ndarray) -> float:
    """Share of the variance that is explained; 0 if the truth is constant."""
    total = np.sum((true - np.mean(true)) ** 2)
    return float(1 - np.sum((true - predicted) ** 2) / total) if total else 0.0


def matthews(predicted: np.ndarray, true: np.ndarray) -> float:
    """Matthews correlation of two classes; 0 if either side is constant."""
    return pearson(predicted, true)


def pearson(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson correlation; 0 if either side is constant, where scipy gives nan."""
    x, y = (values.astype(np.float64) - np.mean(values, dtype=np.float64) for values in (predicted, true))
    scale = np.sqrt(np.sum(x * x) * np.sum(y * y))
    return float(np.sum(x * y) / scale) if scale else 0.0


def spearman(predicted: np.ndarray, true: np.ndarray) -> float:
    """Pearson correlation of the ranks; equal values share the mean of their ranks."""
    return pearson(_ranks(predicted), _ranks(true))


def _ranks(values: np.ndarray) -> np.ndarray:
    _, place, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[place]
