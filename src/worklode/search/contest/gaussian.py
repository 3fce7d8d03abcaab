"""Bayesian optimisation over domain features: a Gaussian process with a linear kernel and noise, expected improvement.

scikit-learn's (an extra: `pip install 'worklode[bench]'`), whose hyperparameters are found by maximum likelihood anew
for every fit. Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2.2 and 5.4; expected
improvement: Jones, Schonlau and Welch, Journal of Global Optimization 13, 1998, eq. 15.
"""

from __future__ import annotations

import warnings

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import DotProduct, WhiteKernel
from threadpoolctl import ThreadpoolController

Floats = NDArray[np.float64]

# Least standard deviation of a prediction that is divided by, over that of the values [1].
_LEAST_DEVIATION = 1e-9
# Matrices this small are slower on several threads, all of which would be charged. Made once: it looks through every
# loaded library.
_THREADS = ThreadpoolController()


class LinearProcess:
    """y ~ GP(0, s0² + x·x' + noise) over standardised features and values."""

    def __init__(self, features: Floats, values: Floats) -> None:
        """Fit to features [S, F] and values [S], all finite."""
        self.center = features.mean(axis=0)
        deviation = features.std(axis=0)
        self.scale = np.where(deviation > 0.0, deviation, 1.0)
        self.least = float(values.min())
        process = GaussianProcessRegressor(DotProduct() + WhiteKernel(), normalize_y=True, copy_X_train=False)
        with _THREADS.limit(limits=1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a bound of a hyperparameter was met
            self.process = process.fit(self._standard(features), values)

    def predict(self, features: Floats) -> tuple[Floats, Floats]:
        """[P] mean and standard deviation at features [P, F]."""
        with _THREADS.limit(limits=1):
            mean, deviation = self.process.predict(self._standard(features), return_std=True)
        return np.asarray(mean, np.float64), np.asarray(deviation, np.float64)

    def expected_improvement(self, features: Floats) -> Floats:
        """[P] by how much a design is expected to be below the least value seen."""
        mean, deviation = self.predict(features)
        deviation = np.maximum(deviation, _LEAST_DEVIATION)
        gain = (self.least - mean) / deviation
        density = np.exp(-0.5 * gain * gain) / np.sqrt(2.0 * np.pi)
        return np.asarray(deviation * (gain * ndtr(gain) + density))

    def _standard(self, features: Floats) -> Floats:
        return np.ascontiguousarray((features - self.center) / self.scale)
