"""Measures how simple classifiers learn classes that training never saw.

`python -m analysis.classifiers --workdir=DIR`: support vectors, a linear model
and nearest neighbours learn the unseen classes from few to all labelled
images, in the embedding, in raw pixels and in an untrained encoder's space.
--grid=published --scaling=each --loss=hinge is the published experiment.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags
from tqdm import tqdm

from analysis.figures import style
from analysis.figures.style import plt
from analysis.files import command, inputs, tables
from analysis.files.result import Drawing, Result, Shown
from analysis.measures import classes, curves
from plankton_jax.errors import InputError

GRID = flags.DEFINE_enum(
  'grid', 'doubling', curves.GRIDS, 'Sizes of the training sets.'
)
SCALING = flags.DEFINE_enum(
  'scaling',
  'one',
  curves.SCALINGS,
  'Divide all dimensions by one number, or each by its own.',
)
LOSS = flags.DEFINE_enum(
  'loss', 'logistic', curves.LOSSES, 'Loss of the linear classifier.'
)

COMPONENTS = 128  # of the PCA that raw pixels are reduced by
PCA_ROWS = 2000  # seen train images that it is fitted on
MOST_CLASSES = 100  # classes to tell apart; of more, the largest
MOST_WORK = 60_000  # images times classes; of more, a sample of the images

Features = dict[str, tuple[np.ndarray, np.ndarray]]  # name: rows, labels


def pixel_features(train: np.ndarray, images: np.ndarray) -> np.ndarray:
  """Projects images [N, H, W, C] on components of train images, [N, ≤128].

  Fits the components on train, so that they do not know the unseen classes.
  """
  from sklearn.decomposition import PCA

  def flat(x: np.ndarray) -> np.ndarray:
    return x.reshape(len(x), -1).astype(np.float32) / 255.0

  count = min(COMPONENTS, len(train), flat(train[:1]).size)
  pca = PCA(count, svd_solver='randomized', random_state=0).fit(flat(train))
  return pca.transform(flat(images))


def baselines(
  source: inputs.Source, rows: inputs.Embeddings
) -> tuple[Features, list[str]]:
  """Computes raw pixels and an untrained encoder's embeddings of the rows.

  Returns:
    Those that can be computed, and notes on the others.
  """
  name = source.name
  if source.workdir is None or source.config is None:
    return {}, [f'{name}: raw pixels need a workdir: skipped']
  from plankton_jax import checkpoints
  from plankton_jax.train import experiment

  both = f'{name}: raw pixels, untrained encoder'
  try:
    data = experiment.load_data(source.config, source.workdir)
  except InputError as error:
    return {}, [f'{both}: skipped ({error})']
  at = {key: i for i, key in enumerate(data.ids)}
  missing = [key for key in rows.id if key not in at]
  if missing:
    return {}, [
      f'{both}: skipped ({len(missing)} images are not in its data; the first'
      f' is {missing[0]})'
    ]
  ours = np.array([at[key] for key in rows.id])
  images = data.images[ours]
  train = np.random.default_rng(0).permutation(data.splits['train'])[:PCA_ROWS]
  pixels = pixel_features(data.images[np.sort(train)], images)
  found = {'raw pixels': (pixels, rows.label)}
  notes = [
    f'raw pixels are reduced to {pixels.shape[1]} principal components of the'
    ' train images'
  ]
  try:
    untrained = checkpoints.untrained_encoder(source.workdir)
  except InputError as error:
    return found, [*notes, f'{name}: untrained encoder: skipped ({error})']
  embedded = untrained.embed(images, measures=data.measures_of(ours))
  found['untrained encoder'] = embedded, rows.label
  return found, notes


def usable(
  rows: inputs.Embeddings, name: str
) -> tuple[inputs.Embeddings | None, list[str]]:
  """Selects rows of classes with two images or more, in the order of their ids.

  Runs over the same images are then split in the same way.

  Returns:
    The rows, None below two classes, and notes on what is left out.
  """
  present, members, counts = np.unique(
    rows.label, return_inverse=True, return_counts=True
  )
  lone = [rows.class_names[i] for i in present[counts < 2]]
  notes = classes.alone(lone, f'{name}: ', ': left out')
  told = classes.first(np.where(counts > 1, counts, 0), MOST_CLASSES)
  if (counts > 1).sum() > MOST_CLASSES:
    notes.append(
      f'{name}: the {MOST_CLASSES} largest of {len(counts):,} classes are told'
      ' apart'
    )
  keep = np.flatnonzero((counts[members] > 1) & np.isin(members, told))
  if len(np.unique(rows.label[keep])) < 2:
    return None, [*notes, f'{name}: fewer than two classes to tell: skipped']
  keep = keep[np.argsort(rows.id[keep], kind='stable')]
  count = len(np.unique(rows.label[keep]))
  if len(keep) * count > MOST_WORK:
    some = classes.sample(rows.label[keep], MOST_WORK // count)
    notes.append(
      f'{name}: {len(some):,} of {len(keep):,} images are learnt from, drawn by'
      ' seed from each class'
    )
    keep = keep[some]
  return inputs.take(rows, keep), notes


def gather(sources: Sequence[inputs.Source]) -> tuple[Features, list[str]]:
  """Gathers the features of each source, and baselines of the first.

  Returns:
    Rows and labels by the features' name, and notes on what is left out.
  """
  features: Features = {}
  others: Features = {}
  notes: list[str] = []
  for source in sources:
    files = source.workdir is None and 'unseen' not in source.splits
    for split in list(source.splits) if files else ['unseen']:
      labelled, missing = inputs.labelled(source, split)
      notes += missing
      if labelled is None:
        continue
      name = split if files else source.name
      rows, missing = usable(labelled, name)
      notes += missing
      if rows is None:
        continue
      features[name] = rows.embedding, rows.label
      if not others:
        others, missing = baselines(source, rows)
        notes += missing
  return features | others, notes


def analyse(
  sources: Sequence[inputs.Source],
  *,
  options: curves.Options = curves.Options(),  # noqa: B008 (it cannot change)
) -> Result:
  """Learns the unseen classes, or those of every file."""
  features, notes = gather(sources)
  if not features:
    return Result(notes)
  found: list[curves.Curve] = []
  total = len(features) * len(curves.CLASSIFIERS) * curves.RESAMPLINGS
  with tqdm(total=total, desc='classifiers', unit='curve', delay=2) as bar:
    for name, (rows, labels) in features.items():
      found += curves.learn(
        name, rows, labels, options=options, step=bar.update
      )
  notes += [
    f'{f.features}, {f.classifier}: {f.unconverged} fits stopped before they'
    ' converged'
    for f in found
    if f.unconverged
  ]
  values = {
    'resamplings': curves.RESAMPLINGS,
    'train_share': curves.TRAIN_SHARE,
    'curves': [f._asdict() for f in found],
  }
  if options != curves.Options():
    values['options'] = options._asdict()
  citations = inputs.citations(sources)
  return Result(
    notes,
    [Shown('classifiers: balanced accuracy (macro F1)', _table(found))],
    {'classifiers.csv': [row for f in found for row in curves.rows(f)]},
    {'classifiers.json': values},
    {'classifiers': Drawing(lambda: draw(found), citations)},
  )


def asked() -> curves.Options:
  """Reads the options from the flags."""
  return curves.Options(GRID.value, SCALING.value, LOSS.value)


def _table(found: list[curves.Curve]) -> list[dict[str, Any]]:
  """Tabulates each feature set at the fewest, about 100, and all images."""
  lines: dict[str, dict[str, Any]] = {}
  for f in found:
    line = lines.setdefault(f.features, {'features': f.features})
    means = {m: values.mean(axis=0) for m, values in f.scores.items()}
    some = int(np.argmin(np.abs(np.log(f.sizes / 100))))
    for i in dict.fromkeys([0, some, len(f.sizes) - 1]):
      first, second = (means[m][i] for m in curves.MEASURES)
      line[f'{f.classifier}, {f.sizes[i]}'] = f'{first:.3f} ({second:.3f})'
  return tables.filled(lines.values())


def draw(found: list[curves.Curve]) -> plt.Figure:
  """Draws measures as rows, classifiers as columns, features by colour."""
  names = list(dict.fromkeys(f.features for f in found))
  colours = style.colours(names)
  columns = list(curves.CLASSIFIERS)
  figure, grid = plt.subplots(
    len(curves.MEASURES),
    len(columns),
    figsize=(3.4 * len(columns), 6.2),
    sharex=True,
    sharey=True,
    layout='constrained',
  )
  for f in found:
    for ax, measure in zip(
      grid[:, columns.index(f.classifier)], curves.MEASURES, strict=True
    ):
      mean, low, high = curves.band(f.scores[measure])
      line = {'color': colours[f.features], 'label': f.features}
      ax.plot(f.sizes, mean, marker='o', ms=3, **line)
      ax.fill_between(
        f.sizes, low, high, color=colours[f.features], alpha=0.15, lw=0
      )
  sizes = np.unique(np.concatenate([f.sizes for f in found]))
  chances = {f.chance for f in found}
  for ax in grid[0]:
    for chance in chances:
      ax.axhline(chance, color='0.5', ls=':', lw=1)
  for ax, classifier in zip(grid[0], columns, strict=True):
    ax.set_title(classifier)
    ax.set_xscale('log')
    ax.set_xticks(sizes, sizes, rotation=45)
    ax.minorticks_off()
  for ax in grid[-1]:
    ax.set_xlabel('labelled training images')
    ax.tick_params(axis='x', rotation=45)
  for ax, measure in zip(grid[:, 0], curves.MEASURES, strict=True):
    ax.set_ylabel(measure)
  grid[0, 0].text(
    sizes[-1],
    min(chances),
    'chance',
    color='0.4',
    fontsize=7,
    va='bottom',
    ha='right',
  )
  figure.legend(
    *grid[0, 0].get_legend_handles_labels(),
    loc='outside upper center',
    ncols=min(5, len(names)),
  )
  figure.supxlabel(
    f'Unseen classes. Line: mean of {curves.RESAMPLINGS} stratified splits,'
    f' {curves.TRAIN_SHARE:.0%} for training; band: where 95 % of such splits'
    ' fall (mean ± 1.96 standard deviations).',
    fontsize=7,
    color='0.3',
  )
  return figure


if __name__ == '__main__':
  command.run('classifiers', lambda sources: analyse(sources, options=asked()))
