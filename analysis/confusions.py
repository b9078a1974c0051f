"""Which classes the test images are taken for.

`python -m analysis.confusions --workdir=DIR`: by the classifier's head where
the run has one, and by the nearest mean of the train embeddings.
"""

import pathlib
from typing import Any, NamedTuple

import numpy as np

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.files import inputs, tables
from analysis.measures import nearest
from plankton_jax.errors import InputError

HEAD, CENTROID = 'head', 'nearest centroid'


class Confusions(NamedTuple):
  """How one source's test images were classified by one method."""

  source: str
  method: str
  classes: tuple[str, ...]  # those that are true or predicted of some image
  counts: np.ndarray  # [C, C] images: row true, column predicted
  accuracy: float
  balanced_accuracy: float  # mean recall of the classes with test images
  macro_f1: float  # likewise
  per_class: dict[str, np.ndarray]  # [C] each: precision, recall, f1, support


def nearest_centroid(
  train: inputs.Embeddings, test: inputs.Embeddings
) -> np.ndarray:
  """The class [N] whose mean train embedding is nearest (Euclidean)."""
  from sklearn.metrics import pairwise_distances_argmin

  present, _, means = nearest.centroids(train.embedding, train.label)
  rows = pairwise_distances_argmin(test.embedding.astype(np.float64), means)
  return present[rows]


def measure(
  source: str,
  method: str,
  true: np.ndarray,
  predicted: np.ndarray,
  class_names: tuple[str, ...],
) -> Confusions:
  """Counts and scores of predicted against true labels, both [N]."""
  from sklearn import metrics

  present = np.union1d(true, predicted)
  counts = np.zeros((len(present), len(present)), int)
  cells = np.searchsorted(present, true), np.searchsorted(present, predicted)
  np.add.at(counts, cells, 1)
  precision, recall, f1, support = metrics.precision_recall_fscore_support(
    true, predicted, labels=present, zero_division=np.nan
  )
  tested = support > 0
  return Confusions(
    source,
    method,
    tuple(class_names[i] for i in present),
    counts,
    float(np.mean(true == predicted)),
    float(recall[tested].mean()),
    float(f1[tested].mean()),
    {'precision': precision, 'recall': recall, 'f1': f1, 'images': support},
  )


def by_head(
  source: inputs.Source, test: inputs.Embeddings
) -> np.ndarray | None:
  """Predicted labels [N] by the run's head; None where it has none."""
  if source.workdir is None:
    return None
  from plankton_jax import checkpoints

  try:
    encoder = checkpoints.load_encoder(source.workdir)
  except InputError as error:
    print(f'confusions: {source.name}, head: skipped ({error})')
    return None
  scores = encoder.scores(test.embedding)
  if scores is None:
    return None
  labels = np.array([test.class_names.index(n) for n in encoder.class_names])
  return labels[np.argmax(scores, axis=1)]


def classify(source: inputs.Source) -> tuple[list[Confusions], list[dict]]:
  """The source's test images by each method there is, and every mistake."""
  found, mistakes = [], []
  splits = {
    split: inputs.labelled(source, split, 'confusions')
    for split in ('test', 'train')
  }
  test, train = splits['test'], splits['train']
  if test is None:
    return [], []
  methods = {HEAD: by_head(source, test)}
  if train is not None:
    methods[CENTROID] = nearest_centroid(train, test)
  for method, predicted in methods.items():
    if predicted is None:
      continue
    names = test.class_names
    found.append(measure(source.name, method, test.label, predicted, names))
    mistakes += [
      {
        'source': source.name,
        'by': method,
        'id': test.id[i],
        'true': names[test.label[i]],
        'predicted': names[predicted[i]],
      }
      for i in np.flatnonzero(predicted != test.label)
    ]
  return found, mistakes


def analyse(sources: list[inputs.Source], out: pathlib.Path) -> None:
  """Classifies the test split; out/confusions.{png,svg,csv,json}, ….

  The figure shows each source by its head, or without one by centroids; the
  table and the files hold both.
  """
  found: list[Confusions] = []
  mistakes: list[dict[str, Any]] = []
  for source in sources:
    confusions, wrong = classify(source)
    found += confusions
    mistakes += wrong
  if not found:
    return
  summary = [
    {
      'source': f.source,
      'by': f.method,
      'images': int(f.counts.sum()),
      'accuracy': f.accuracy,
      'balanced accuracy': f.balanced_accuracy,
      'macro F1': f.macro_f1,
    }
    for f in found
  ]
  tables.show(summary, 'confusions: test images')
  tables.write_csv(
    out / 'confusions.csv',
    [
      {
        'source': f.source,
        'by': f.method,
        'class': name,
        **{measure: values[i] for measure, values in f.per_class.items()},
      }
      for f in found
      for i, name in enumerate(f.classes)
    ],
  )
  tables.write_json(
    out / 'confusions.json',
    {'summary': summary, 'matrices': [f._asdict() for f in found]},
  )
  tables.write_csv(out / 'confusions_mistakes.csv', mistakes)
  first = {}
  for f in found:
    first.setdefault(f.source, f)
  citations = inputs.citations(sources)
  figure = draw(list(first.values()))
  figures.save(figure, out, 'confusions', citations=citations)


def draw(found: list[Confusions]) -> plt.Figure:
  """One panel a source: counts, coloured by their share of the true class."""
  figure, grid = figures.heatmap_grid(
    [[len(f.classes) for f in found]],
    [name for f in found for name in f.classes],
  )
  for ax, f in zip(grid[0], found, strict=True):
    totals = f.counts.sum(axis=1, keepdims=True)
    shares = np.divide(
      f.counts, totals, out=np.full(f.counts.shape, np.nan), where=totals > 0
    )
    texts = [[str(count) if count else '' for count in r] for r in f.counts]
    image = figures.heatmap(
      ax, shares, f.classes, f.classes, texts=texts, limits=(0.0, 1.0)
    )
    ax.set_title(
      f'{f.source} ({f.method})\naccuracy {f.accuracy:.1%},'
      f' balanced {f.balanced_accuracy:.1%}',
      parse_math=False,
    )
    ax.set_xlabel('predicted')
  grid[0, 0].set_ylabel('true class')
  figure.colorbar(
    image, ax=grid, label='share of the true class', shrink=0.8, aspect=30
  )
  figure.suptitle(
    'Test images by true and predicted class. Numbers (up to 20 classes):'
    ' images; colour: share of the row.',
    fontsize=9,
  )
  return figure


if __name__ == '__main__':
  inputs.main(analyse)
