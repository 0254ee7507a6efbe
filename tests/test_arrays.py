from __future__ import annotations

import numpy as np
from scipy import special

from mspipeline.arrays import NUMPY

X = np.array([[-1000.0, -3.0, 0.0], [0.5, 20.0, 1000.0]])


def test_functions_are_scipys_without_an_overflow() -> None:
    with np.errstate(all="raise", under="ignore"):
        assert np.allclose(NUMPY.sigmoid(X), special.expit(X), atol=0)
        assert np.allclose(NUMPY.softplus(X), np.logaddexp(0, X), atol=0)
        assert np.allclose(NUMPY.log_softmax(X), special.log_softmax(X, axis=-1), atol=0)


def test_numbers_stay_python_numbers_and_float32_stays_float32() -> None:
    x = X.astype(np.float32)
    assert type(NUMPY.sum(x)) is type(NUMPY.sqrt(2.0)) is type(NUMPY.maximum(2.0, 1.0)) is float
    for each in (NUMPY.sigmoid(x), NUMPY.softplus(x), NUMPY.sqrt(np.abs(x)) * NUMPY.sqrt(2.0), NUMPY.sum(x, -1)):
        assert each.dtype == np.float32
