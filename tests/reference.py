"""The definitions as plain float64 loops, for tests to compare against."""

import numpy as np


def squared_loop(x, y):
  """Squared Euclidean distances, [M, D], [N, D] -> [M, N]."""
  x, y = (np.ascontiguousarray(rows, np.float64) for rows in (x, y))
  dists = np.zeros((len(x), len(y)))
  for i in range(len(x)):
    dists[i] = ((x[i] - y) ** 2).sum(axis=1)
  return dists


def retrieval_loop(embeddings, labels, ks):
  """One dict of retrieval measures for each row, None for singletons.

  Ranks the other rows by (squared distance, index) and reads the definitions
  off the ranking.
  """
  dists = squared_loop(embeddings, embeddings).tolist()
  labels = np.asarray(labels).tolist()
  results = []
  for query in range(len(labels)):
    others = [row for row in range(len(labels)) if row != query]
    others.sort(key=lambda row: (dists[query][row], row))
    hits = [labels[row] == labels[query] for row in others]
    relevant = sum(hits)
    if relevant == 0:
      results.append(None)
      continue
    precisions = [
      sum(hits[:rank]) / rank
      for rank in range(1, relevant + 1)
      if hits[rank - 1]
    ]
    measures = {f'recall_at_{k}': float(any(hits[:k])) for k in ks}
    measures['r_precision'] = sum(hits[:relevant]) / relevant
    measures['map_at_r'] = sum(precisions) / relevant
    results.append(measures)
  return results


def mean_loop(results, labels, *, macro=False):
  """Means over queries that are not None; if `macro`, over class means."""
  kept = [(r, c) for r, c in zip(results, labels, strict=True) if r is not None]
  means = {}
  for name in kept[0][0]:
    if macro:
      classes = sorted({c for _, c in kept})
      values = [
        np.mean([r[name] for r, c in kept if c == wanted]) for wanted in classes
      ]
    else:
      values = [r[name] for r, _ in kept]
    means[name] = float(np.mean(values))
  return means


def _meets(gap, negative, margin):
  """Tells whether d_an - d_ap is that of a semi-hard or a hard negative."""
  return 0 < gap < margin if negative == 'semihard' else gap < 0


def mine_loop(dists, labels, valid, *, positive, negative, margin):
  """(positive, negative, is anchor, is fallback) of each row, nearest first."""
  dists = np.asarray(dists, np.float64)
  rows = range(len(labels))
  mined = []
  for a in rows:
    mates = [p for p in rows if valid[p] and p != a and labels[p] == labels[a]]
    others = [n for n in rows if valid[n] and labels[n] != labels[a]]
    if not (valid[a] and mates and others):
      mined.append((0, 0, False, False))
      continue
    p = mates[0]
    for mate in mates:
      nearer, farther = (
        dists[a, mate] < dists[a, p],
        dists[a, mate] > dists[a, p],
      )
      if nearer if positive == 'easy' else farther:
        p = mate
    n, fallback = None, True
    for other in others:
      meets = _meets(dists[a, other] - dists[a, p], negative, margin)
      if meets and (n is None or dists[a, other] < dists[a, n]):
        n, fallback = other, False
    if fallback:
      n = min(others, key=lambda other: (dists[a, other], other))
    mined.append((p, n, True, fallback))
  return [np.array(column) for column in zip(*mined, strict=True)]


def with_all_negatives(mined, dists, labels, valid, *, negative, margin):
  """`mine_loop`'s triplets, but every negative that meets the policy."""
  dists = np.asarray(dists, np.float64)
  negatives = []
  for a, (p, n, anchor, unmet) in enumerate(zip(*mined, strict=True)):
    met = []
    for other in range(len(labels)):
      meets = _meets(dists[a, other] - dists[a, p], negative, margin)
      if anchor and valid[other] and labels[other] != labels[a] and meets:
        met.append(other)
    assert bool(met) == (anchor and not unmet)
    negatives.append(met or [n])
  return [mined[0], negatives, *mined[2:]]


def triplet_loss_loop(
  embeddings, mined, margin, *, fallback='nearest', distance='squared'
):
  """Mean over anchors of relu(d_ap - d_an + margin), float64.

  Of an anchor with several negatives the mean over them counts.
  """
  e = np.asarray(embeddings, np.float64)
  power = {'squared': 1.0, 'euclidean': 0.5}[distance]
  losses = []
  for a, (p, negatives, anchor, unmet) in enumerate(zip(*mined, strict=True)):
    if not anchor or (unmet and fallback == 'none'):
      continue
    d_ap = ((e[a] - e[p]) ** 2).sum() ** power
    hinges = [
      max(0.0, d_ap - ((e[a] - e[n]) ** 2).sum() ** power + margin)
      for n in np.atleast_1d(negatives)
    ]
    losses.append(np.mean(hinges))
  return float(np.mean(losses)) if losses else 0.0


def prototype_loss(
  prototypes, embeddings, labels, valid, *, scale, angular=0.0, additive=0.0
):
  """Cross-entropy of scaled cosines in float64, through the angle itself.

  The true class's cos θ becomes cos(θ + angular) - additive; prototypes are
  [N, D], or [N, K, D] of which the nearest counts.
  """
  embeddings = np.asarray(embeddings, np.float64)
  prototypes = np.asarray(prototypes, np.float64)
  centers = prototypes.reshape(len(prototypes), -1, embeddings.shape[1])
  lengths = np.linalg.norm(centers, axis=-1)
  losses = []
  for x, label, kept in zip(embeddings, labels, valid, strict=True):
    if not kept:
      continue
    cos = np.clip(centers @ x / lengths, -1.0, 1.0).max(axis=1)
    theta = np.arccos(cos[label])
    logits = scale * cos
    if theta + angular < np.pi:
      logits[label] = scale * (np.cos(theta + angular) - additive)
    else:
      logits[label] = scale * (cos[label] - angular * np.sin(angular))
    shifted = logits - logits.max()
    losses.append(np.log(np.exp(shifted).sum()) - shifted[label])
  return float(np.mean(losses)) if losses else 0.0


def _pairs(labels, valid, anchor):
  """Rows of the anchor's class but itself, and rows of other classes."""
  rows = [row for row in range(len(labels)) if valid[row] and row != anchor]
  positives = [row for row in rows if labels[row] == labels[anchor]]
  return positives, [row for row in rows if labels[row] != labels[anchor]]


def supcon_loss(embeddings, labels, valid, *, temperature):
  """L_out of Khosla et al., equation 2, the mean over anchors."""
  e = np.asarray(embeddings, np.float64)
  losses = []
  for i in np.flatnonzero(valid):
    positives, negatives = _pairs(labels, valid, i)
    if not positives:
      continue
    total = sum(
      np.exp(e[i] @ e[a] / temperature) for a in positives + negatives
    )
    logs = [
      np.log(np.exp(e[i] @ e[p] / temperature) / total) for p in positives
    ]
    losses.append(-sum(logs) / len(positives))
  return float(np.mean(losses)) if losses else 0.0


def multi_similarity_loss(
  embeddings, labels, valid, *, alpha, beta, base, epsilon, mined=None
):
  """Wang et al., equation 15, and the pairs that its mining kept.

  Args:
    mined: pairs of an earlier call, to be held fixed.
  """
  e = np.asarray(embeddings, np.float64)
  losses, kept = [], {}
  for i in np.flatnonzero(valid):
    positives, negatives = _pairs(labels, valid, i)
    if not positives or not negatives:
      continue
    if mined is None:
      least = min(e[i] @ e[p] for p in positives)
      most = max(e[i] @ e[n] for n in negatives)
      kept[i] = (
        [p for p in positives if e[i] @ e[p] < most + epsilon],
        [n for n in negatives if e[i] @ e[n] > least - epsilon],
      )
    else:
      kept[i] = mined[i]
    pull = sum(np.exp(-alpha * (e[i] @ e[p] - base)) for p in kept[i][0])
    push = sum(np.exp(beta * (e[i] @ e[n] - base)) for n in kept[i][1])
    losses.append(np.log(1 + pull) / alpha + np.log(1 + push) / beta)
  return float(np.mean(losses)) if losses else 0.0, kept


def proxy_anchor_loss(prototypes, embeddings, labels, valid, *, margin, scale):
  """Kim et al., equation 4, in float64."""
  e = np.asarray(embeddings, np.float64)
  pulls, pushes = [], []
  for c, w in enumerate(np.asarray(prototypes, np.float64)):
    own, other = 0.0, 0.0
    for x, label, kept in zip(e, labels, valid, strict=True):
      cos = x @ w / np.linalg.norm(w)
      if kept and label == c:
        own += np.exp(-scale * (cos - margin))
      elif kept:
        other += np.exp(scale * (cos + margin))
    if own:
      pulls.append(np.log(1 + own))
    pushes.append(np.log(1 + other))
  return float((np.mean(pulls) if pulls else 0.0) + np.mean(pushes))


def gradient(function, x, h=1e-6):
  """By central differences, float64."""
  x = np.asarray(x, np.float64)
  grad = np.zeros(x.shape)
  for index in np.ndindex(*x.shape):
    moved = [x.copy(), x.copy()]
    moved[0][index] += h
    moved[1][index] -= h
    grad[index] = (function(moved[0]) - function(moved[1])) / (2 * h)
  return grad
