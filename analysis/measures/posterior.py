"""Computes probabilities of each class and of no class from distances.

The probability of class c is proportional to exp(b_c − a f_c), f_c how far an
image lies from the class, and that of no class to exp(b_u), wherever the image
lies: temperature scaling with a bias for each class (Alexandari, Kundaje and
Shrikumar 2020, arXiv:1901.06852, section 4.3), and a constant background. They
are calibrated for the shares that the classes have among the fitted images.
"""

from typing import NamedTuple

import numpy as np

from analysis.files.inputs import Embeddings
from analysis.measures import threads

BLOCK = 1024  # images whose distances to the whole gallery are in memory
STEPS = 500  # of a fit, at most
AGAIN = 10  # of a fit that begins near its end, at most


class Posterior(NamedTuple):
  """The fitted parameters."""

  scale: float  # a
  bias: np.ndarray  # [C + 1]; the last is that of no class


def far(
  gallery: Embeddings,
  embedding: np.ndarray,
  width: float,
  left_out: np.ndarray | None = None,
) -> np.ndarray:
  """Measures how far rows [N, D] lie from classes, [N, C], by kernel densities.

  That is −h log (mean over the class's images of exp(−d² / h)), h the `width`
  and d the distance: of the order of d² to the nearest images. Unlike a centre
  it follows classes of any shape. `left_out` [N] names the row of the gallery
  that each row is, which is not its own neighbour; its class has others.
  """
  members = np.eye(len(gallery.class_names))[gallery.label]
  every = gallery.embedding.astype(np.float64)
  norms = np.sum(every**2, axis=1)
  found = np.empty((len(embedding), members.shape[1]))
  for start in range(0, len(embedding), BLOCK):
    rows = embedding[start : start + BLOCK].astype(np.float64)
    # The kernel is wide: what cancels here does not show, and it is fast.
    squared = norms - 2.0 * rows @ every.T
    squared += np.sum(rows**2, axis=1, keepdims=True)
    counts = np.tile(members.sum(axis=0), (len(squared), 1))
    if left_out is not None:
      at = np.arange(len(squared)), left_out[start : start + BLOCK]
      squared[at] = np.inf
      counts = counts - members[at[1]]
    nearest = squared.min(axis=1, keepdims=True)
    kernel = np.exp((nearest - squared) / width)
    floor = np.finfo(float).tiny  # a class so far that nothing is left
    density = np.maximum(kernel @ members / counts, floor)
    found[start : start + BLOCK] = nearest - width * np.log(density)
  return found


def fit(
  far: np.ndarray,
  true: np.ndarray,
  weights: np.ndarray,
  start: Posterior | None = None,
) -> Posterior:
  """Fits by maximum likelihood, with a unit normal prior on biases of classes.

  Args:
    far: of N images from C classes, [N, C].
    true: classes [N]; C for images of no class.
    weights: of the images, [N].
    start: where to begin: a fit to nearly the same images.
  """
  from scipy import optimize, special

  count = far.shape[1]
  unit = max(float(far.mean()), np.finfo(float).tiny)
  wanted = np.eye(count + 1)[true]
  steps = AGAIN if start else STEPS
  if start is None:
    start = Posterior(10.0 / unit, np.append(np.zeros(count), -5.0))

  def loss(params: np.ndarray) -> tuple[float, np.ndarray]:
    scale, bias = np.exp(params[0]) / unit, params[1:]
    logits = _logits(far, scale, bias)
    logs = special.log_softmax(logits, axis=1)
    gap = weights[:, None] * (np.exp(logs) - wanted)
    slope = gap.sum(axis=0)
    slope[:-1] += bias[:-1]
    by_scale = -scale * np.sum(gap[:, :-1] * far)
    value = -np.sum(weights * logs[np.arange(len(true)), true])
    value += 0.5 * np.sum(bias[:-1] ** 2)
    return value, np.append(by_scale, slope)

  # Its matrices are so small that threads wait far longer than they compute.
  with threads.single():
    found = optimize.minimize(
      loss,
      np.append(np.log(start.scale * unit), start.bias),
      jac=True,
      method='L-BFGS-B',
      bounds=[(-7.0, 12.0)] + [(-50.0, 50.0)] * (count + 1),
      options={'maxiter': steps},
    )
  return Posterior(float(np.exp(found.x[0]) / unit), found.x[1:])


def chances(posterior: Posterior, far: np.ndarray) -> np.ndarray:
  """Computes [N, C + 1] from `far` [N, C]: chances of classes, and of none."""
  from scipy import special

  return special.softmax(_logits(far, *posterior), axis=1)


def _logits(far: np.ndarray, scale: float, bias: np.ndarray) -> np.ndarray:
  return np.hstack([-scale * far, np.zeros((len(far), 1))]) + bias
