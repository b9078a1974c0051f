"""Compares what oneDNN computes in bfloat16 with exact results."""

import jax.numpy as jnp
import numpy as np
import pytest

from plankton_jax.nn.conv import onednn

needed = pytest.mark.skipif(
  not onednn.multiplies_bfloat16(),
  reason='oneDNN or AVX512_BF16 is missing',
)


def assert_rounded_once(got, want, *, slack):
  """Fails unless arrays are float64's, summed in float32 and rounded once.

  What is left is the rounding of the result, half a unit in the last place
  (2^-8 of its size), that of float32 sums, and `slack`.
  """
  for g, w in zip(got, want, strict=True):
    half_unit = 2.0**-8 if g.dtype == jnp.bfloat16 else 0.0
    bound = 1.001 * half_unit * np.abs(w) + 1e-6 * np.abs(w).max()
    off = np.abs(np.asarray(g, np.float64) - w)
    np.testing.assert_array_less(off, bound + slack)
