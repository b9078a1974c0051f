"""Scores an embedding beside the retrieval measures, with intervals."""

import warnings
from collections.abc import Callable

import numpy as np
from tqdm import tqdm

from analysis.measures import classes, threads
from plankton_jax import retrieval

NEIGHBOURS = 10
SEED = 0
DRAWS = 1000  # bootstrap resamplings
HALVES = 20  # halves of the images, for measures of pairs
LARGEST_HALF = 5000  # images; of more than twice as many, a smaller share
MOST_CLUSTERED = 500_000  # images of a half times classes; no interval beyond
STARTS = 5  # of k-means, the best of which counts
SILHOUETTE_ROWS = 10_000  # rows of silhouettes, sampled of more
CLUSTERED_ROWS = 100_000  # rows of k-means, sampled of more
QUERIES = 50_000  # rows that are ranked against all, sampled of more

Interval = tuple[float, float, float]  # estimate, low, high
UNKNOWN: Interval = (np.nan, np.nan, np.nan)
Measure = Callable[[np.ndarray], dict[str, float]]  # of the rows at indices
LOWEST = {'ami': -1.0, 'silhouette': -1.0, 'macro_silhouette': -1.0}  # others 0


def halves(measure: Measure, count: int) -> dict[str, Interval]:
  """Measures all of `count` rows, with 95 % intervals from halves of them.

  For measures of pairs of images, which each half is measured afresh. The
  spread over random halves, drawn without replacement, is the sampling error
  of the whole: a mean of n / 2 of n values has the variance
  σ² / (n / 2) · (1 − 1 / 2) = σ² / n; of m of them it is σ² (n − m) / (m n)
  (Politis, Romano and Wolf 1999, Subsampling). A bootstrap would draw an image
  twice, which is its own best neighbour; to resample the queries alone leaves
  the gallery's share of the error out.
  """
  estimate = measure(np.arange(count))
  size = min(count // 2, LARGEST_HALF)
  if size < 2:
    return {name: (x, np.nan, np.nan) for name, x in estimate.items()}
  rng = np.random.default_rng(SEED)
  draws = [
    measure(np.sort(rng.choice(count, size, replace=False)))
    for _ in tqdm(range(HALVES), 'intervals', delay=2, leave=False)
  ]
  return {
    name: _interval(
      x,
      np.array([draw[name] for draw in draws]) * np.sqrt(size / (count - size)),
      LOWEST.get(name, 0.0),
    )
    for name, x in estimate.items()
  }


def _interval(estimate: float, draws: np.ndarray, lowest: float) -> Interval:
  """Takes the estimate ± t times the draws' standard deviation, clipped."""
  from scipy import stats

  draws = draws[np.isfinite(draws)]
  if len(draws) < 2 or not np.isfinite(estimate):
    return estimate, np.nan, np.nan
  reach = stats.t.ppf(0.975, len(draws) - 1) * draws.std(ddof=1)
  return estimate, max(estimate - reach, lowest), min(estimate + reach, 1.0)


def bootstrap(
  values: dict[str, np.ndarray], labels: np.ndarray
) -> tuple[dict[str, Interval], dict[str, Interval]]:
  """Averages values [Q] over images and over classes, with 95 % intervals.

  Only for independent values, unlike those of pairs. Draws images with
  replacement, the same ones for every measure; a class without a drawn image is
  left out of that draw's macro mean.
  """
  if not len(labels):
    return dict.fromkeys(values, UNKNOWN), dict.fromkeys(values, UNKNOWN)
  members = np.unique(labels, return_inverse=True)[1]
  rng = np.random.default_rng(SEED)
  micro = np.empty((DRAWS, len(values)))
  macro = np.empty((DRAWS, len(values)))
  for i in tqdm(range(DRAWS), 'bootstrap', delay=2, leave=False):
    drawn = rng.integers(len(labels), size=len(labels))
    weights = np.bincount(drawn, minlength=len(labels))
    totals = np.bincount(members, weights)
    for j, value in enumerate(values.values()):
      sums = np.bincount(members, weights * value)
      micro[i, j] = sums.sum() / len(labels)
      macro[i, j] = np.mean(sums[totals > 0] / totals[totals > 0])
  means = retrieval.averages(values, labels)

  def intervals(prefix: str, draws: np.ndarray) -> dict[str, Interval]:
    low, high = np.quantile(draws, [0.025, 0.975], axis=0)
    return {
      name: (means[prefix + name], low[j], high[j])
      for j, name in enumerate(values)
    }

  return intervals('', micro), intervals('macro_', macro)


def knn_hits(
  near: np.ndarray, voters: np.ndarray, labels: np.ndarray
) -> np.ndarray:
  """Tells whether a row's nearest others vote for its class, [N] 0 or 1.

  A tied vote goes to the lowest label; a row without others is no hit.

  Args:
    near: [N, K] the others that are nearest each row.
    voters: labels of all others.
    labels: [N] of the rows.
  """
  if not near.size:
    return np.zeros(len(labels))
  return (classes.voted(near, voters) == labels).astype(float)


def clustering(
  embeddings: np.ndarray, labels: np.ndarray
) -> dict[str, Interval]:
  """Scores k-means with as many clusters as classes by NMI and AMI.

  Clusters each half by itself, so that intervals include the chance in k-means.
  Of more than CLUSTERED_ROWS takes a sample.
  """
  chosen = classes.sample(labels, CLUSTERED_ROWS)
  embeddings, labels = embeddings[chosen], labels[chosen]
  count, classes_ = len(labels), len(np.unique(labels))
  if classes_ < 2:
    return dict.fromkeys(('nmi', 'ami'), UNKNOWN)

  def measure(at: np.ndarray) -> dict[str, float]:
    return agreement(labels[at], clusters(embeddings[at], labels[at]))

  if reclustered(count, classes_):
    with threads.single():
      return halves(measure, count)
  with threads.single():
    found = clusters(embeddings, labels, starts=1)
  whole = agreement(labels, found)
  return {name: (x, np.nan, np.nan) for name, x in whole.items()}


def reclustered(count: int, classes_: int) -> bool:
  """Tells whether halves of the images can be clustered in seconds."""
  return min(count // 2, LARGEST_HALF) * classes_ <= MOST_CLUSTERED


def clusters(
  embeddings: np.ndarray, labels: np.ndarray, *, starts: int = STARTS
) -> np.ndarray:
  """Clusters rows [N, D] by k-means into as many as there are labels, [N]."""
  from sklearn import cluster, exceptions

  model = cluster.KMeans(
    len(np.unique(labels)), n_init=starts, random_state=SEED
  )
  with warnings.catch_warnings():
    # Duplicates can leave fewer distinct rows than clusters.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    # Of float32 rows, scikit-learn makes float64 ones for each centre.
    return model.fit_predict(embeddings.astype(np.float64))


def agreement(labels: np.ndarray, found: np.ndarray) -> dict[str, float]:
  """Computes NMI and AMI of labels and clusters, both [N]."""
  from sklearn import metrics

  return {
    'nmi': float(metrics.normalized_mutual_info_score(labels, found)),
    'ami': float(metrics.adjusted_mutual_info_score(labels, found)),
  }


def silhouettes(
  embeddings: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Computes each row's silhouette, and returns its label.

  Empty if undefined: there is one class, or each row has its own.
  """
  import sklearn
  from sklearn import metrics

  if not 2 <= len(np.unique(labels)) < len(labels):
    return np.empty(0), labels[:0]
  # Of float32 rows, scikit-learn makes float64 ones for each tile.
  rows = embeddings.astype(np.float64)
  with sklearn.config_context(working_memory=128):  # MiB
    return metrics.silhouette_samples(rows, labels), labels
