"""What training bought: simple classifiers on the classes it never saw.

`python -m analysis.classifiers --workdir=DIR`: support vectors, a linear model
and nearest neighbours learn the unseen classes from few to all labelled
images, in the embedding, in raw pixels and in an untrained encoder's space.
"""

import pathlib
from typing import Any

import numpy as np
from tqdm import tqdm

from analysis.figures import figures
from analysis.figures.figures import plt
from analysis.files import inputs, tables
from analysis.measures import curves
from plankton_jax.errors import InputError

COMPONENTS = 128  # of the PCA that raw pixels are reduced by
PCA_ROWS = 2000  # seen train images that it is fitted on

Features = dict[str, tuple[np.ndarray, np.ndarray]]  # name: rows, labels


def pixel_features(train: np.ndarray, images: np.ndarray) -> np.ndarray:
  """Images [N, H, W, C] as principal components of train images, [N, ≤128].

  Fitted on train, as the encoder is: it has not seen the unseen classes.
  """
  from sklearn.decomposition import PCA

  def flat(x):
    return x.reshape(len(x), -1).astype(np.float32) / 255.0

  count = min(COMPONENTS, len(train), flat(train[:1]).size)
  pca = PCA(count, svd_solver='randomized', random_state=0).fit(flat(train))
  return pca.transform(flat(images))


def baselines(source: inputs.Source, rows: inputs.Embeddings) -> Features:
  """Raw pixels and an untrained encoder for the rows; none without images."""
  if source.workdir is None:
    print(f'classifiers: {source.name}: raw pixels need a workdir: skipped')
    return {}
  from plankton_jax import checkpoints
  from plankton_jax.train import loop

  where = f'classifiers: {source.name}'
  try:
    data = loop.load_data(source.config, source.workdir)
  except InputError as error:
    print(f'{where}: raw pixels, untrained encoder: skipped ({error})')
    return {}
  at = {key: i for i, key in enumerate(data.ids)}
  missing = [key for key in rows.id if key not in at]
  if missing:
    print(
      f'{where}: raw pixels, untrained encoder: skipped ({len(missing)} images'
      f' are not in its data; the first is {missing[0]})'
    )
    return {}
  images = data.images[np.array([at[key] for key in rows.id])]
  train = np.random.default_rng(0).permutation(data.splits['train'])[:PCA_ROWS]
  pixels = pixel_features(data.images[np.sort(train)], images)
  found = {'raw pixels': (pixels, rows.label)}
  try:
    untrained = checkpoints.untrained_encoder(source.workdir)
  except InputError as error:
    print(f'{where}: untrained encoder: skipped ({error})')
    return found
  return {**found, 'untrained encoder': (untrained.embed(images), rows.label)}


def usable(rows: inputs.Embeddings, name: str) -> inputs.Embeddings | None:
  """Rows of classes with two images or more, by id; None below two classes.

  In the order of their ids, so that runs over the same images are split alike.
  """
  classes, members, counts = np.unique(
    rows.label, return_inverse=True, return_counts=True
  )
  for lone in classes[counts < 2]:
    print(
      f'classifiers: {name}: {rows.class_names[lone]} has one image: left out'
    )
  keep = np.flatnonzero(counts[members] > 1)
  if len(np.unique(rows.label[keep])) < 2:
    print(f'classifiers: {name}: fewer than two classes to tell: skipped')
    return None
  keep = keep[np.argsort(rows.id[keep], kind='stable')]
  return inputs.Embeddings(
    rows.embedding[keep], rows.label[keep], rows.id[keep], rows.class_names
  )


def gather(sources: list[inputs.Source]) -> Features:
  """What is classified, by name: each source, then the first's baselines."""
  features: Features = {}
  others: Features = {}
  for source in sources:
    files = source.workdir is None and 'unseen' not in source.splits
    for split in list(source.splits) if files else ['unseen']:
      rows = inputs.labelled(source, split, 'classifiers')
      name = split if files else source.name
      rows = None if rows is None else usable(rows, name)
      if rows is not None:
        features[name] = rows.embedding, rows.label
        others = others or baselines(source, rows)
  return features | others


def analyse(sources: list[inputs.Source], out: pathlib.Path) -> None:
  """Learning curves on unseen; out/classifiers.{png,svg,csv,json}."""
  features = gather(sources)
  if not features:
    return
  if 'raw pixels' in features:
    print(
      'classifiers: raw pixels are reduced to'
      f' {features["raw pixels"][0].shape[1]} principal components of the'
      ' train images'
    )
  found: list[curves.Curve] = []
  total = len(features) * len(curves.CLASSIFIERS) * curves.RESAMPLINGS
  with tqdm(total=total, desc='classifiers', unit='curve', delay=2) as bar:
    for name, (rows, labels) in features.items():
      found += curves.learn(name, rows, labels, step=bar.update)
  for f in found:
    if f.unconverged:
      print(
        f'classifiers: {f.features}, {f.classifier}: {f.unconverged} fits'
        ' stopped before they converged'
      )
  rows = [row for f in found for row in curves.rows(f)]
  tables.show(_table(found), 'classifiers: balanced accuracy (macro F1)')
  tables.write_csv(out / 'classifiers.csv', rows)
  tables.write_json(
    out / 'classifiers.json',
    {
      'resamplings': curves.RESAMPLINGS,
      'train_share': curves.TRAIN_SHARE,
      'curves': [f._asdict() for f in found],
    },
  )
  citations = inputs.citations(sources)
  figures.save(draw(found), out, 'classifiers', citations=citations)


def _table(found: list[curves.Curve]) -> list[dict[str, Any]]:
  """The fewest, about 100, and all training images, a line a feature set."""
  lines: dict[str, dict[str, Any]] = {}
  for f in found:
    line = lines.setdefault(f.features, {'features': f.features})
    means = {m: values.mean(axis=0) for m, values in f.scores.items()}
    some = int(np.argmin(np.abs(np.log(f.sizes / 100))))
    for i in dict.fromkeys([0, some, len(f.sizes) - 1]):
      first, second = (means[m][i] for m in curves.MEASURES)
      line[f'{f.classifier}, {f.sizes[i]}'] = f'{first:.3f} ({second:.3f})'
  fields = list(dict.fromkeys(k for line in lines.values() for k in line))
  return [{k: line.get(k, '') for k in fields} for line in lines.values()]


def draw(found: list[curves.Curve]) -> plt.Figure:
  """A row a measure, a column a classifier, a colour a feature set."""
  names = list(dict.fromkeys(f.features for f in found))
  colours = dict(zip(names, figures.palette(len(names)), strict=True))
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
  handles, texts = grid[0, 0].get_legend_handles_labels()
  legend = figure.legend(
    handles, texts, loc='outside upper center', ncols=min(5, len(names))
  )
  for text in legend.get_texts():
    text.set_parse_math(False)  # names may hold $
  figure.supxlabel(
    f'Unseen classes. Line: mean of {curves.RESAMPLINGS} stratified splits,'
    f' {curves.TRAIN_SHARE:.0%} for training; band: where 95 % of such splits'
    ' fall (mean ± 1.96 standard deviations).',
    fontsize=7,
    color='0.3',
  )
  return figure


if __name__ == '__main__':
  inputs.main(analyse)
