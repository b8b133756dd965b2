"""LAMB, LANS and StableAdamW as their papers write them, in numpy float64, for whole parameters."""

import numpy as np


class Reference:
    """Parameters by name, their moments, and one step of each optimizer. adapted, decayed: sets of names."""

    def __init__(self, parameters, lr, beta1, beta2, eps, decay, decayed, adapted, bias_correction=True):
        self.w = {name: np.array(value, dtype=np.float64) for name, value in parameters.items()}
        self.m = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.v = {name: np.zeros_like(value) for name, value in self.w.items()}
        self.lr, self.beta1, self.beta2, self.eps = lr, beta1, beta2, eps
        self.decay = {name: decay if name in decayed else 0.0 for name in self.w}
        self.adapted = adapted
        self.bias_correction = bias_correction
        self.t = 0

    def _moments(self, name, g):
        self.m[name] = self.beta1 * self.m[name] + (1 - self.beta1) * g
        self.v[name] = self.beta2 * self.v[name] + (1 - self.beta2) * g * g
        if not self.bias_correction:
            return self.m[name], self.v[name]
        return self.m[name] / (1 - self.beta1**self.t), self.v[name] / (1 - self.beta2**self.t)

    def _ratio(self, name, w, update, low=0.0, high=np.inf):
        w_norm, update_norm = np.linalg.norm(w), np.linalg.norm(update)
        if name not in self.adapted or w_norm == 0 or update_norm == 0:
            return 1.0
        return np.clip(w_norm / update_norm, low, high)

    def lamb(self, gradients, low=0.0, high=np.inf, divide_by_global_norm=lambda norm: 1.0):
        self.t += 1
        norm = np.sqrt(sum(np.sum(g * g) for g in gradients.values()))
        for name, w in self.w.items():
            m_hat, v_hat = self._moments(name, gradients[name] / divide_by_global_norm(norm))
            r = m_hat / (np.sqrt(v_hat) + self.eps) + self.decay[name] * w
            self.w[name] = w - self.lr * self._ratio(name, w, r, low, high) * r

    def lans(self, gradients):
        self.t += 1
        for name, w in self.w.items():
            norm = np.linalg.norm(gradients[name])
            g = gradients[name] / norm if norm else gradients[name]
            m_hat, v_hat = self._moments(name, g)
            denominator = np.sqrt(v_hat) + self.eps
            r = m_hat / denominator + self.decay[name] * w
            c = g / denominator + self.decay[name] * w
            step = self.beta1 * self._ratio(name, w, r) * r + (1 - self.beta1) * self._ratio(name, w, c) * c
            self.w[name] = w - self.lr * step

    def stableadamw(self, gradients):
        """Returns by what the step of each parameter is clipped, if it is above 1."""
        self.t += 1
        rms = {}
        for name, w in self.w.items():
            g = gradients[name]
            m_hat, v_hat = self._moments(name, g)
            rms[name] = np.sqrt(np.mean(g * g / np.maximum(v_hat, self.eps**2)))
            rate = self.lr / max(1.0, rms[name])
            self.w[name] = w - rate * self.decay[name] * w - rate * m_hat / (np.sqrt(v_hat) + self.eps)
        return rms
