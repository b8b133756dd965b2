"""Muon as Jordan's article and AdamW as its paper write them, in numpy float64, for whole parameters."""

import numpy as np


def newton_schulz(u: np.ndarray, steps: int) -> np.ndarray:  # [rows, columns]
    a, b, c = 3.4445, -4.7750, 2.0315
    x = u / (np.linalg.norm(u) or 1.0)
    if len(x) > len(x.T):
        return newton_schulz_wide(x.T, steps, a, b, c).T
    return newton_schulz_wide(x, steps, a, b, c)


def newton_schulz_wide(x: np.ndarray, steps: int, a: float, b: float, c: float) -> np.ndarray:
    for _ in range(steps):
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


SCALES = {
    "spectral": lambda rows, columns: (rows / columns) ** 0.5,
    "jordan": lambda rows, columns: max(1.0, rows / columns) ** 0.5,
    "moonshot": lambda rows, columns: 0.2 * max(rows, columns) ** 0.5,
}


def as_matrices(name: str, tensor: np.ndarray, heads_apart: bool) -> list[np.ndarray]:
    """What a parameter of a layer holds, by its name: [outputs, inputs], or one for each head."""
    w = np.asarray(tensor, dtype=np.float64)
    if ".attention." not in name:
        return [w]
    if name.endswith(("output.weight", "output.down")):  # [outputs, heads, head_dim]
        return [w[:, head] for head in range(w.shape[1])] if heads_apart else [w.reshape(len(w), -1)]
    if name.endswith((".weight", ".up")) and w.ndim == 3:  # [heads, head_dim, inputs]
        return list(w) if heads_apart else [w.reshape(-1, w.shape[-1])]
    return [w]


def from_matrices(name: str, matrices: list[np.ndarray], like: np.ndarray, heads_apart: bool) -> np.ndarray:
    if heads_apart and len(matrices) > 1:
        axis = 1 if name.endswith(("output.weight", "output.down")) else 0
        return np.stack(matrices, axis=axis)
    return matrices[0].reshape(like.shape)


def orthogonal(name: str, u: np.ndarray, scale: str = "spectral", steps: int = 5, heads_apart: bool = False):
    """scale x Newton-Schulz of a parameter's update."""
    found = [
        SCALES[scale](*matrix.shape) * newton_schulz(matrix, steps) for matrix in as_matrices(name, u, heads_apart)
    ]
    return from_matrices(name, found, u, heads_apart)


def is_matrix(name: str) -> bool:
    return name.startswith("blocks.") and name.endswith((".weight", ".up", ".down")) and ".norm." not in name


class MuonReference:
    """Parameters by name and one step."""

    def __init__(self, parameters, lr, decay, *, momentum=0.95, nesterov=True, betas=(0.9, 0.999), eps=1e-6,
                 lr_factor=1.0, **options):  # fmt: skip
        self.w = {name: np.array(value, dtype=np.float64) for name, value in parameters.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.lr, self.decay, self.momentum, self.nesterov = lr, decay, momentum, nesterov
        self.betas, self.eps, self.lr_factor, self.options = betas, eps, lr_factor, options
        self.t = 0

    def step(self, gradients):
        self.t += 1
        for name, g in gradients.items():
            if is_matrix(name):
                m = self.m[name] = self.momentum * self.m[name] + (1 - self.momentum) * g
                u = self.momentum * m + (1 - self.momentum) * g if self.nesterov else m
                update = orthogonal(name, u, **self.options)
                self.w[name] = self.w[name] - self.lr * (update + self.decay * self.w[name])
            else:
                self._adamw(name, g)

    def _adamw(self, name, g):
        b1, b2 = self.betas
        self.m[name] = b1 * self.m[name] + (1 - b1) * g
        self.v[name] = b2 * self.v[name] + (1 - b2) * g * g
        m_hat, v_hat = self.m[name] / (1 - b1**self.t), self.v[name] / (1 - b2**self.t)
        decays = not name.endswith("bias") and ".norm." not in name and not name.startswith("final_norm")
        decay = self.decay if decays else 0.0
        lr = self.lr * self.lr_factor
        self.w[name] = self.w[name] - lr * (m_hat / (np.sqrt(v_hat) + self.eps) + decay * self.w[name])


def step_error(before, after, lr, decay, momentum=0.95, nesterov=True, **options):
    """How far the matrices of one step are from the reference, as a part of the update; states of records by name.

    The gradient is the one that the momentum has seen: it may come from anywhere, and have been clipped.
    """
    error = size = 0.0
    for name in filter(is_matrix, before):
        m_old, m, w = (
            np.asarray(t, dtype=np.float64) for t in (before[name].exp_avg, after[name].exp_avg, before[name].weight)
        )
        u = (1 + momentum) * m - momentum * m_old if nesterov else m  # mu m + (1 - mu) g
        update = lr * (orthogonal(name, u, **options) + decay * w)
        error += np.square(w - update - np.asarray(after[name].weight)).sum()
        size += np.square(update).sum()
    return (error / size) ** 0.5
