"""Trains with a self-supervised term on images without labels, and without it.

  python -m benchmarks.self_supervised --path=FOLDER --encoder=DIR \
    [--variants=labels,vicreg_1] [--unseen=10] [--draws=3] [--seeds=1] \
    [--fields='encoder.poses=1 ...'] [--out=runs/self_supervised]

The images of the unseen classes are given without their labels. Runs are of
configs/finetune.py, beginning from --encoder, which has seen none of the unseen
classes. Run again after a kill, it goes on with the next run. The first variant
is the one that the others have to beat; docs/ablation.md has what they did.
"""

import hashlib
import itertools
import json
import logging
import pathlib
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from absl import flags
from tqdm import tqdm

from analysis.files import tables
from benchmarks import cells, quality, recipes
from plankton_jax import augment, host, retrieval
from plankton_jax.cli import command
from plankton_jax.data import pipeline
from plankton_jax.encoder import Encoder
from plankton_jax.errors import DivergedError, InputError
from plankton_jax.files import atomic
from plankton_jax.files.config_file import Config
from plankton_jax.nn.embedding import Embedder
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.objectives import Objective
from plankton_jax.train import (
  batches,
  evaluation,
  experiment,
  loop,
  optimizer,
  sampling,
)
from plankton_jax.train.state import (
  INIT,
  TRAIN,
  TrainState,
  make_key,
  with_pretrained,
)
from plankton_jax.train.step import make_train_step

FILE = 'configs/finetune.py'
MEASURES = ('test R@1', 'test MAP@R', 'unseen R@1', 'unseen MAP@R')
GAINS = ('test MAP@R', 'unseen MAP@R')
_WIDTH = 512  # of every layer of the projector
_LAYERS = 3


class Variant(NamedTuple):
  """How images without labels take part in a run."""

  term: str = 'none'  # of TERMS
  weight: float = 0.0  # beside the loss of the labels
  beside: bool = False  # whether a step has as many of them as labelled ones
  first: bool = False  # whether the term alone is trained before the labels
  random: bool = False  # whether the run begins at random weights


VARIANTS = {
  'labels': Variant(),
  'norms': Variant(beside=True),  # they change the norms' statistics alone
  'vicreg_0.1': Variant('vicreg', 0.1, beside=True),
  'vicreg_1': Variant('vicreg', 1.0, beside=True),
  'barlow_0.1': Variant('barlow', 0.1, beside=True),
  'barlow_1': Variant('barlow', 1.0, beside=True),
  'vicreg_first': Variant('vicreg', first=True),
  'barlow_first': Variant('barlow', first=True),
  'random': Variant(random=True),
  'random_vicreg_first': Variant('vicreg', first=True, random=True),
}


def vicreg(x: jax.Array, y: jax.Array) -> jax.Array:
  """Keeps views alike, dimensions spread and apart, on [B, D] each.

  Bardes, Ponce and LeCun 2022, VICReg, arXiv:2105.04906, equations 1 to 6,
  divided by λ = μ = 25, with ν = 1: 0 is the least. As in the authors' code the
  distance of views is a mean over dimensions, and the spread one over views.
  """
  alike = jnp.mean(jnp.square(x - y))
  spread, apart = [], []
  for z in (x, y):
    z = z - jnp.mean(z, axis=0)
    covariance = jnp.dot(z.T, z, precision='highest') / (len(z) - 1)
    variance = jnp.diagonal(covariance)
    spread.append(jnp.mean(jax.nn.relu(1.0 - jnp.sqrt(variance + 1e-4))))
    others = jnp.sum(jnp.square(covariance)) - jnp.sum(jnp.square(variance))
    apart.append(others / z.shape[1])
  return alike + sum(spread) / 2 + sum(apart) / 25


def barlow(x: jax.Array, y: jax.Array) -> jax.Array:
  """Brings the correlation of views [B, D] to the identity.

  Zbontar, Jing, Misra, LeCun and Deny 2021, Barlow Twins, arXiv:2103.03230,
  equation 1 with λ = 0.005, divided by D.
  """
  x, y = standardise(x), standardise(y)
  correlation = jnp.dot(x.T, y, precision='highest') / len(x)
  own = jnp.diagonal(correlation)
  others = jnp.sum(jnp.square(correlation)) - jnp.sum(jnp.square(own))
  return (jnp.sum(jnp.square(1.0 - own)) + 0.005 * others) / len(own)


def standardise(x: jax.Array) -> jax.Array:
  """Centres and scales every column of [B, D] over the batch."""
  x = x - jnp.mean(x, axis=0)
  return x / jnp.sqrt(jnp.mean(jnp.square(x), axis=0) + 1e-5)


TERMS: dict[str, Callable[[jax.Array, jax.Array], jax.Array]] = {
  'none': lambda x, y: jnp.zeros(()),
  'vicreg': vicreg,
  'barlow': barlow,
}


def beside(
  objective: Objective, variant: Variant, *, dim: int, features: int
) -> Objective:
  """Adds the variant's term to an objective.

  Its embeddings are rows [2 B, D + F] of `with_features`, of the two views of
  an image next to each other. The term is of all images, valid or not, behind
  a projector that only training has: dense layers with norms and rectifiers
  between.

  Args:
    objective: of the embeddings [2 B, D].
    variant: names the term and its weight.
    dim: D.
    features: F.
  """
  sides = [features, *[_WIDTH] * _LAYERS]

  def init(key: jax.Array) -> dict[str, Any]:
    own, *keys = jax.random.split(key, 1 + _LAYERS)
    draw = jax.nn.initializers.he_normal()
    shapes = zip(keys, sides[:-1], sides[1:], strict=True)
    kernels = [draw(key, shape) for key, *shape in shapes]
    return {'labelled': objective.init(own), 'projector': kernels}

  def loss(params, embeddings, batch, *, stage, key=None):
    value, metrics = objective.loss(
      params['labelled'], embeddings[:, :dim], batch, stage=stage, key=key
    )
    first, *others = params['projector']
    x = jnp.dot(embeddings[:, dim:], first)
    for kernel in others:
      x = jnp.dot(jax.nn.relu(standardise(x)), kernel)
    return value + variant.weight * TERMS[variant.term](
      x[::2], x[1::2]
    ), metrics

  return Objective(init, loss)


def with_features(model: Embedder) -> Callable:
  """Makes `model.apply` that gives [B, D + F], pooled features last."""

  def is_backbone(module, method):
    return isinstance(module, type(model.backbone)) and method == '__call__'

  def apply(variables, images, measures, *, train, mutable, rngs):
    embeddings, updated = model.apply(
      variables,
      images,
      measures,
      train=train,
      mutable=[*mutable, 'intermediates'],
      capture_intermediates=is_backbone,
      rngs=rngs,
    )
    (features,) = updated['intermediates']['__call__']
    pooled = jnp.mean(
      features, axis=tuple(range(1, features.ndim - 1)), dtype=jnp.float32
    )
    return jnp.concatenate([embeddings, pooled], axis=1), updated

  return apply


def train(variant: Variant, config: Config, data: pipeline.Data) -> Encoder:
  """Trains a variant to its last epoch, on one device, and whitens it.

  Raises:
    DivergedError: the last loss is not finite.
  """
  run = experiment.assemble(config, data)
  state = jax.jit(run.create)(make_key(config['seed'], INIT))
  path = config['encoder']['pretrained']
  if path and not variant.random:
    state = with_pretrained(state, encoder=run.model, path=path)
  if variant.first:
    alone = variant._replace(weight=1.0, beside=True)
    state = _fit(run, config, data, state, alone, labelled=False)
  state = _fit(run, config, data, state, variant, labelled=True)
  power = config['encoder']['whitening']
  matrix = evaluation.fit_whitening(run, data, state, power=power)
  return Encoder(
    state.params,
    state.batch_stats | {WHITENING: {'matrix': matrix}},
    config,
    data.class_names[: data.num_seen],
    int(state.step),
  )


def _fit(
  run: experiment.Experiment,
  config: Config,
  data: pipeline.Data,
  state: TrainState,
  variant: Variant,
  *,
  labelled: bool,
) -> TrainState:
  """Trains with labels, images without them, or both in every step.

  An epoch is one of the training images, or without labels one of all images.
  """
  known = data.splits['train']
  rows = np.concatenate([known, data.splits['unseen']])
  # Without labels twice as many: as large a batch as with both.
  more = run.sampler.size * (1 if labelled else 2) * variant.beside
  others = sampling.Sampler(
    np.zeros(len(rows)),
    **{'size': max(more, 1), 'classes': 0, 'per_class': 0},
    **{'sampling': 'images', 'seed': config['seed']},
  )
  per_epoch = (run.sampler if labelled else others).steps_per_epoch
  tx = optimizer.make(
    model=run.model,
    epochs=config['epochs'],
    steps_per_epoch=per_epoch,
    **config['optimizer'],
  )
  objective = beside(
    run.objective,
    variant,
    dim=config['encoder']['embedding_dim'],
    features=state.params['encoder']['Dense_0']['kernel'].shape[0],
  )
  step = make_train_step(
    apply_fn=with_features(run.model),
    backbone=run.model.backbone,
    augment=augment.make(**config['augment']),
    tx=tx,
    objective=objective,
    views=2,
    chunk=0,
  )
  key = make_key(config['seed'], TRAIN)
  params = {
    'encoder': state.params['encoder'],
    'objective': objective.init(jax.random.fold_in(key, int(labelled))),
  }
  state = state.replace(
    step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params)
  )
  # Rows of unseen classes have the label of none.
  labels = np.where(data.labels < data.num_seen, data.labels, 0)
  make = batches.resident(data.images, labels, rows, None, run.measures)
  for i in range(config['epochs'] * per_epoch):
    at = [run.sampler(i)] * labelled + [others(i)] * variant.beside
    batch = make(np.concatenate(at))
    count = run.sampler.size * labelled
    batch['valid'] = jnp.arange(len(batch['label'])) < count
    state, metrics = step(state, batch, key, stage=0)
  if not np.isfinite(metrics['loss']):
    raise DivergedError(f'the loss is {float(metrics["loss"])}')
  params = {**state.params, 'objective': state.params['objective']['labelled']}
  return state.replace(params=params)


def measure(encoder: Encoder, data: pipeline.Data) -> dict[str, float]:
  """Computes MEASURES as benchmarks.quality does."""
  found = {}
  for split in ('test', 'unseen'):
    rows = data.splits[split]
    embedding = encoder.embed(
      data.images[rows], measures={k: v[rows] for k, v in data.measures.items()}
    )
    ranked = retrieval.evaluate(embedding, data.labels[rows], ks=(1,))
    found[f'{split} R@1'] = float(ranked['recall_at_1'])
    found[f'{split} MAP@R'] = float(ranked['map_at_r'])
  return found


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  recipes.define(values, epochs=10, seeds=1, out='runs/self_supervised')
  for name, default, meaning in (
    ('encoder', '', "Folder of the encoder to begin from; '': random weights."),
    ('fields', '', "field=value ... in place of the config's."),
  ):
    flags.DEFINE_string(name, default, meaning, flag_values=values)
  flags.DEFINE_list(
    'variants', list(VARIANTS), 'Which are trained.', flag_values=values
  )
  flags.DEFINE_integer(
    'draws',
    1,
    'Draws of the unseen classes, from --split_seed on; each has --seeds runs.',
    lower_bound=1,
    flag_values=values,
  )


def result(variant: str, config: Config, out: pathlib.Path) -> dict[str, float]:
  """Trains and measures a variant, or reads what it has measured before."""
  spec = json.dumps([variant, VARIANTS[variant], config], sort_keys=True)
  path = (
    out / f'{hashlib.blake2b(spec.encode(), digest_size=8).hexdigest()}.json'
  )
  if path.exists():
    return json.loads(path.read_text())
  began = time.monotonic()
  host.use_compilation_cache(config['compilation_cache_dir'])
  with tempfile.TemporaryDirectory() as workdir:
    data = loop.load_data(config, workdir, writes=False)
  found = measure(train(VARIANTS[variant], config, data), data)
  found['seconds'] = time.monotonic() - began
  atomic.text(path, json.dumps(found))
  return found


def lines(
  results: Mapping[str, Sequence[cells.Result]],
) -> list[dict[str, Any]]:
  """Makes the rows of the table, with gains over the first variant.

  Gains are mean differences of runs of the same draw and seed; ± is half of a
  95 % interval.
  """
  base = next(iter(results.values()))
  table = []
  for name, found in results.items():
    row: dict[str, Any] = {'variant': name, 'runs': len(found)}
    for measure in MEASURES:
      values = cells.numbers(found, measure)
      row[measure] = cells.shown(values)
    for measure in GAINS:
      pairs = zip(
        cells.numbers(found, measure),
        cells.numbers(base, measure),
        strict=False,
      )
      gain = cells.shown([x - y for x, y in pairs], '+')
      row[f'gain in {measure}'] = '' if found is base else gain
    seconds, _ = cells.interval(cells.numbers(found, 'seconds'))
    table.append(row | {'seconds': f'{seconds:.0f}'})
  return table


def main(values: flags.FlagValues) -> None:
  """Trains what is not finished, prints and writes the table.

  Raises:
    InputError: a variant does not exist, or as in `recipes.place`.
  """
  for name in values.variants:
    if name not in VARIANTS:
      known = ', '.join(VARIANTS)
      raise InputError(f'--variants: {name!r} is not one of {known}')
  options = recipes.options(values)
  _, recipe = recipes.parse(f'variant={FILE} {values.fields}')
  begin = {'encoder.pretrained': values.encoder, **recipe.overrides}
  recipe = recipe._replace(overrides=begin)
  grounds = quality.grounds(options, values.draws)
  host.show_log(logging.WARNING)
  options.out.mkdir(parents=True, exist_ok=True)
  results: dict[str, list[cells.Result]] = {}
  runs = itertools.product(grounds, range(options.seeds), values.variants)
  for ground, seed, name in tqdm([*runs], unit='run'):
    found = result(name, recipes.place(recipe, ground, seed), options.out)
    results.setdefault(name, []).append(found)
    table = lines(results)
    tables.write_csv(options.out / 'self_supervised.csv', table)
  tables.show(table, 'gains over the first; mean ± 95 % interval over the runs')


if __name__ == '__main__':
  define(flags.FLAGS)
  flags.adopt_module_key_flags(recipes)
  command.run(
    lambda argv: main(flags.FLAGS),
    fast=True,
    interrupted='interrupted; the same command goes on with the next run',
  )
