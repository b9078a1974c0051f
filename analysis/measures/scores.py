"""Scores of an embedding beside the retrieval measures, with intervals."""

import warnings

import numpy as np
from tqdm import tqdm

from analysis.files.inputs import Embeddings
from plankton_jax import retrieval

NEIGHBOURS = 10
SEED = 0
DRAWS = 1000  # bootstrap resamplings
CLUSTER_DRAWS = 200  # likewise, for the slower NMI and AMI
SILHOUETTE_ROWS = 10_000  # more rows than this are sampled

Interval = tuple[float, float, float]  # estimate, low, high
UNKNOWN: Interval = (np.nan, np.nan, np.nan)


def bootstrap(
  values: dict[str, np.ndarray], labels: np.ndarray
) -> tuple[dict[str, Interval], dict[str, Interval]]:
  """Micro and macro means of values [Q] with percentile 95 % intervals.

  Images are drawn with replacement, the same ones for every measure; a class
  of which none is drawn is left out of that draw's macro mean.
  """
  if not len(labels):
    return ({name: UNKNOWN for name in values},) * 2
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
  return tuple(
    {
      name: (means[prefix + name], *np.quantile(draws[:, j], [0.025, 0.975]))
      for j, name in enumerate(values)
    }
    for prefix, draws in (('', micro), ('macro_', macro))
  )


def knn_hits(
  embeddings: np.ndarray,
  labels: np.ndarray,
  train: Embeddings | None,
) -> np.ndarray:
  """Whether the k nearest train rows vote for the row's class, [N] 0 or 1.

  Without `train` they are the nearest other rows of the same split. A tied
  vote goes to the lowest label.
  """
  from sklearn.neighbors import NearestNeighbors

  rows, votes = (embeddings, labels) if train is None else train[:2]
  most = len(rows) - (train is None)
  if most < 1:
    return np.zeros(len(labels))
  search = NearestNeighbors(
    n_neighbors=min(NEIGHBOURS, most), algorithm='brute'
  ).fit(rows)
  nearest = search.kneighbors(
    None if train is None else embeddings, return_distance=False
  )
  classes, votes = np.unique(votes, return_inverse=True)
  found = np.zeros((len(labels), len(classes)), np.int16)
  np.add.at(found, (np.arange(len(labels))[:, None], votes[nearest]), 1)
  return (classes[found.argmax(axis=1)] == labels).astype(float)


def clustering(
  embeddings: np.ndarray, labels: np.ndarray
) -> dict[str, Interval]:
  """NMI and AMI of k-means with as many clusters as classes.

  The intervals draw images and leave the clusters as they are.
  """
  from sklearn import cluster, exceptions, metrics

  measures = {
    'nmi': metrics.normalized_mutual_info_score,
    'ami': metrics.adjusted_mutual_info_score,
  }
  classes = len(np.unique(labels))
  if classes < 2:
    return dict.fromkeys(measures, UNKNOWN)
  with warnings.catch_warnings():
    # Duplicates can leave fewer distinct rows than clusters.
    warnings.simplefilter('ignore', exceptions.ConvergenceWarning)
    found = cluster.KMeans(classes, n_init=5, random_state=SEED).fit_predict(
      embeddings
    )
  rng = np.random.default_rng(SEED)
  draws = np.empty((CLUSTER_DRAWS, len(measures)))
  for i in tqdm(range(CLUSTER_DRAWS), 'NMI, AMI', delay=2, leave=False):
    drawn = rng.integers(len(labels), size=len(labels))
    for j, measure in enumerate(measures.values()):
      draws[i, j] = measure(labels[drawn], found[drawn])
  return {
    name: (measure(labels, found), *np.quantile(draws[:, j], [0.025, 0.975]))
    for j, (name, measure) in enumerate(measures.items())
  }


def silhouettes(
  embeddings: np.ndarray, labels: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Silhouette of each row (of a sample, if there are many), and its label.

  Empty where it is not defined: one class, or each row its own.
  """
  import sklearn
  from sklearn import metrics

  if len(labels) > SILHOUETTE_ROWS:
    rng = np.random.default_rng(SEED)
    rows = rng.choice(len(labels), SILHOUETTE_ROWS, replace=False)
    embeddings, labels = embeddings[rows], labels[rows]
  if not 2 <= len(np.unique(labels)) < len(labels):
    return np.empty(0), labels[:0]
  with sklearn.config_context(working_memory=128):  # MiB
    return metrics.silhouette_samples(embeddings, labels), labels
