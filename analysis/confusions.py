"""Counts which classes the test images are taken for.

`python -m analysis.confusions --workdir=DIR`: by the classifier's head where
the run has one, and by the nearest mean of the train embeddings.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import classes, openset
from plankton_jax.errors import InputError

HEAD = 'head'
PAIRS = 10  # confusions that are listed
MOST_WHOLE = 200  # the most classes whose matrix is written whole


class Confusions(NamedTuple):
  """Test images of one source as one method classified them."""

  source: str
  method: str
  classes: tuple[str, ...]  # classes that some image has or is given
  counts: np.ndarray  # [C, C] images: row true, column predicted
  accuracy: float
  balanced_accuracy: float  # mean recall of the classes with test images
  macro_f1: float  # of the same classes
  per_class: dict[str, np.ndarray]  # [C] each: precision, recall, f1, support


def measure(
  source: str,
  method: str,
  true: np.ndarray,
  predicted: np.ndarray,
  class_names: tuple[str, ...],
) -> Confusions:
  """Counts and scores predicted against true labels, both [N]."""
  from sklearn import metrics

  present = np.union1d(true, predicted)
  counts = np.zeros((len(present), len(present)), np.int32)
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
) -> tuple[np.ndarray | None, list[str]]:
  """Predicts labels [N] by the run's head; None and a note without one."""
  if source.workdir is None:
    return None, []
  from plankton_jax import checkpoints

  try:
    encoder = checkpoints.load_encoder(source.workdir)
  except InputError as error:
    return None, [f'{source.name}, head: skipped ({error})']
  scores = encoder.scores(test.embedding)
  if scores is None:
    return None, []
  labels = np.array([test.class_names.index(n) for n in encoder.class_names])
  return labels[np.argmax(scores, axis=1)], []


def most_confused(found: Confusions, most: int) -> Confusions:
  """Keeps the `most` classes with the most mistakes of either kind.

  Accuracies remain those of all classes.
  """
  given, had = found.counts.sum(axis=0), found.counts.sum(axis=1)
  keep = classes.first(given + had - 2 * np.diag(found.counts), most)
  return found._replace(
    classes=tuple(found.classes[i] for i in keep),
    counts=found.counts[np.ix_(keep, keep)],
    per_class={name: x[keep] for name, x in found.per_class.items()},
  )


def pairs(found: Confusions, most: int) -> list[dict[str, Any]]:
  """Lists the `most` pairs of a true and a predicted class met most often.

  Ties go to the larger share of the true class.
  """
  total = found.per_class['images']
  true, predicted = np.nonzero(found.counts)
  lines: list[dict[str, Any]] = [
    {
      'source': found.source,
      'by': found.method,
      'true': found.classes[i],
      'predicted': found.classes[j],
      'images': int(found.counts[i, j]),
      'share of the true class': float(found.counts[i, j] / total[i]),
    }
    for i, j in zip(true, predicted, strict=True)
    if i != j
  ]
  lines.sort(
    key=lambda line: (line['images'], line['share of the true class']),
    reverse=True,
  )
  return lines[:most]


def left_out(found: Confusions) -> list[str]:
  """Says what the figure and the JSON file leave out, if classes are many."""
  return [
    f'{found.source}, {found.method}: {what} the {most} most confused of'
    f' {len(found.classes):,} classes'
    for what, most in (
      ('the figure shows', classes.shown(len(found.classes))),
      ('confusions.json holds the matrix of', MOST_WHOLE),
    )
    if len(found.classes) > most
  ]


class Classified(NamedTuple):
  """One source's test images, classified by each method."""

  confusions: list[Confusions]
  mistakes: list[dict[str, Any]]  # a line each
  notes: list[str]


def classify(source: inputs.Source) -> Classified:
  """Classifies a source's test images by its head and by class centres."""
  (test, notes), (train, others) = (
    inputs.labelled(source, split) for split in ('test', 'train')
  )
  notes += others
  if test is None:
    return Classified([], [], notes)
  predicted = {}
  predicted[HEAD], missing = by_head(source, test)
  if train is not None:
    judged = openset.by_centroid(train, test.embedding)
    predicted[openset.CENTROID] = judged.label
  found = Classified([], [], notes + missing)
  for method, labels in predicted.items():
    if labels is None:
      continue
    names = test.class_names
    found.confusions.append(
      measure(source.name, method, test.label, labels, names)
    )
    found.mistakes.extend(
      {
        'source': source.name,
        'by': method,
        'id': test.id[i],
        'true': names[test.label[i]],
        'predicted': names[labels[i]],
      }
      for i in np.flatnonzero(labels != test.label)
    )
  return found


def analyse(sources: Sequence[inputs.Source]) -> Result:
  """Classifies the test split.

  The figure shows each source by its head, or by centroids without one; the
  table and the files hold both.
  """
  classified = [classify(source) for source in sources]
  notes = [note for one in classified for note in one.notes]
  found = [confusions for one in classified for confusions in one.confusions]
  if not found:
    return Result(notes)
  notes += [note for f in found for note in left_out(f)]
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
  per_class = [
    {
      'source': f.source,
      'by': f.method,
      'class': name,
      **{measure: values[i] for measure, values in f.per_class.items()},
    }
    for f in found
    for i, name in enumerate(f.classes)
  ]
  confused = [line for f in found for line in pairs(f, PAIRS)]
  drawn = [one.confusions[0] for one in classified if one.confusions]
  return Result(
    notes,
    [
      Shown('confusions: test images', summary),
      *([Shown('confusions: the most frequent', confused)] if confused else []),
    ],
    {
      'confusions.csv': per_class,
      'confusions_mistakes.csv': [
        m for one in classified for m in one.mistakes
      ],
    },
    {
      'confusions.json': {
        'summary': summary,
        'pairs': confused,
        'matrices': [most_confused(f, MOST_WHOLE)._asdict() for f in found],
      }
    },
    {'confusions': Drawing(lambda: draw(drawn), inputs.citations(sources))},
  )


def draw(found: list[Confusions]) -> plt.Figure:
  """Draws a panel for each source: counts, coloured by share of the class."""
  found = [most_confused(f, classes.shown(len(f.classes))) for f in found]
  figure, grid = style.heatmap_grid(
    [[len(f.classes) for f in found]],
    [name for f in found for name in f.classes],
  )
  for ax, f in zip(grid[0], found, strict=True):
    totals = f.per_class['images'][:, None]
    shares = np.divide(
      f.counts, totals, out=np.full(f.counts.shape, np.nan), where=totals > 0
    )
    texts = [[str(count) if count else '' for count in r] for r in f.counts]
    image = style.heatmap(
      ax, shares, f.classes, f.classes, texts=texts, limits=(0.0, 1.0)
    )
    ax.set_title(
      f'{f.source} ({f.method})\naccuracy {f.accuracy:.1%},'
      f' balanced {f.balanced_accuracy:.1%}'
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
  command.run('confusions', analyse)
