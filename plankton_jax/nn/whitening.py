"""Whitens embeddings: evens out how images of one class differ.

Images of a class differ far more in some directions of the space than in
others, and do so for classes that training never saw too. What is learnt of
the training classes' own spread is divided out of every embedding (Hatch et
al. 2006, Interspeech: within-class covariance normalisation; Mikolajczyk and
Matas 2007, ICCV, learn it for image descriptors). The covariance is shrunk
(Ledoit and Wolf 2004, J. Multivariate Analysis 88), so that it has an inverse
where images are fewer than dimensions.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from plankton_jax.distances import unit_norm

WHITENING = 'Whitening_0'  # the module at the encoder's end

# Eigenvalues of the covariance below this share of their mean count as it.
_FLOOR = 1e-6


class Whitening(nn.Module):
  """Unit embeddings [B, D] to whitened ones of unit length.

  Its matrix is a statistic that training leaves alone: the identity until
  `fit` has seen the training images.
  """

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    matrix = self.variable('batch_stats', 'matrix', jnp.eye, x.shape[-1])
    return unit_norm(jnp.dot(x, matrix.value, precision='highest'))


def fit(
  embedding: np.ndarray, label: np.ndarray, *, power: float
) -> np.ndarray:
  """Computes the matrix [D, D] float32 that whitens embeddings.

  It is C^(-power / 2) of the covariance C within classes, scaled to mean
  variance one. Power 1 makes every direction vary alike; less leaves more of
  the space as it is.

  Args:
    embedding: [N, D] of training images.
    label: [N] their classes.
    power: 0 gives the identity, and so do classes without two different images.
  """
  values, vectors = within_classes(embedding, label)
  stretched = (values / values.mean()) ** (-power / 2)
  return ((vectors * stretched) @ vectors.T).astype(np.float32)


def apply(matrix: np.ndarray, embedding: np.ndarray) -> np.ndarray:
  """Whitens embeddings [N, D] to unit length, as `Whitening` does."""
  return np.asarray(unit_norm(jnp.asarray(embedding @ matrix)))


def invert(matrix: np.ndarray, whitened: np.ndarray) -> np.ndarray:
  """Recovers the unit embeddings [N, D] float32 that a matrix whitened."""
  found = np.linalg.solve(matrix.T.astype(np.float64), whitened.T).T
  return np.asarray(unit_norm(jnp.asarray(found, jnp.float32)))


def within_classes(
  embedding: np.ndarray, label: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Measures how rows of one class vary.

  A class of one row says nothing. Where no class has two different rows, every
  direction varies by one.

  Args:
    embedding: [N, D].
    label: [N], integers.

  Returns:
    Variances [D] above 0, ascending, and their directions, the columns of
    [D, D], of the shrunk covariance within classes. Both are float64.
  """
  _, members, counts = np.unique(label, return_inverse=True, return_counts=True)
  dims = embedding.shape[1]
  sums = np.zeros((len(counts), dims))
  np.add.at(sums, members, embedding)
  residuals = embedding - (sums / counts[:, None])[members]
  # Residuals of small classes are too short by (n - 1) / n.
  residuals *= np.sqrt(counts / np.maximum(counts - 1, 1))[members, None]
  residuals = residuals[counts[members] > 1]
  if not residuals.any():
    return np.ones(dims), np.eye(dims)
  values, vectors = np.linalg.eigh(_shrunk(residuals))
  return np.maximum(values, _FLOOR * values.mean()), vectors


def _shrunk(x: np.ndarray) -> np.ndarray:
  """Estimates the covariance [D, D] of rows [N, D] whose mean is 0.

  Mixes the sample's covariance with a multiple of the identity, in the shares
  that come nearest to the truth by their estimate (Ledoit and Wolf 2004,
  lemma 3.4 and equation 14).
  """
  rows, dims = x.shape
  sample = x.T @ x / rows
  level = np.trace(sample) / dims
  apart = np.sum(sample**2) / dims - level**2  # d^2 in the paper
  fourth = np.sum(np.sum(x**2, axis=1) ** 2) / rows
  noise = (fourth - np.sum(sample**2)) / (rows * dims)  # their b^2, bounded:
  share = min(noise, apart) / apart if apart > 0 else 1.0
  return (1.0 - share) * sample + share * level * np.eye(dims)
