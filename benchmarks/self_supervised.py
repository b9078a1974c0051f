"""Trains with a self-supervised term on images without labels, and without it.

  python -m benchmarks.self_supervised --path=FOLDER --encoder=DIR \
    [--variants=labels,vicreg_1] [--unseen=10] [--draws=3] [--seeds=1] \
    [--fields='encoder.poses=1 ...'] [--out=runs/self_supervised]

Runs are of configs/finetune.py from --encoder, which has seen none of the
unseen classes; their images are given without labels. The first variant is the
one to beat. Run again after a kill, it goes on with the next run.
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
from plankton_jax.data import pipeline
from plankton_jax.encoder import Encoder
from plankton_jax.errors import DivergedError, InputError
from plankton_jax.files import atomic
from plankton_jax.files.config_file import Config
from plankton_jax.nn.embedding import Embedder
from plankton_jax.nn.whitening import WHITENING
from plankton_jax.objectives import Objective
from plankton_jax.train import batches, evaluation, experiment, optimizer
from plankton_jax.train import state as states
from plankton_jax.train.sampling import Sampler
from plankton_jax.train.state import TrainState
from plankton_jax.train.step import make_train_step

FILE = 'configs/finetune.py'
MEASURES = ('test R@1', 'test MAP@R', 'unseen R@1', 'unseen MAP@R')
_WIDTH = 512  # of every layer of the projector
_LAYERS = 3
_NONE = np.zeros(0, int)


class Variant(NamedTuple):
  """Says how images without labels take part in a run."""

  when: str = 'never'  # or 'beside' the labels, or 'first', before them
  term: str = 'none'  # of TERMS
  weight: float = 1.0  # beside the loss of the labels


VARIANTS = {
  'labels': Variant(),
  'norms': Variant('beside'),  # they change the norms' statistics alone
  'vicreg_0.1': Variant('beside', 'vicreg', 0.1),
  'vicreg_1': Variant('beside', 'vicreg'),
  'barlow_0.1': Variant('beside', 'barlow', 0.1),
  'barlow_1': Variant('beside', 'barlow'),
  'vicreg_first': Variant('first', 'vicreg'),
  'barlow_first': Variant('first', 'barlow'),
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
    term = TERMS[variant.term](x[::2], x[1::2])
    return value + variant.weight * term, metrics

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
  state = jax.jit(run.create)(states.make_key(config['seed'], states.INIT))
  if path := config['encoder']['pretrained']:
    state = states.with_pretrained(state, encoder=run.model, path=path)
  if variant.when == 'first':
    state = _fit(run, config, data, state, variant, labels=False)
    variant = Variant()
  state = _fit(run, config, data, state, variant, labels=True)
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
  labels: bool,
) -> TrainState:
  """Trains by batches with labels, without, or with as many of either.

  An epoch is one of the images with labels, or else of all.
  """
  rows = np.concatenate([data.splits['train'], data.splits['unseen']])
  settings = {**config['batch'], 'classes': 0, 'sampling': 'images'}
  views, chunk = settings.pop('views'), settings.pop('chunk')
  settings['size'] *= 1 if labels else 2  # as large a batch as with both
  others = Sampler(np.zeros(len(rows)), seed=config['seed'], **settings)
  per_epoch = (run.sampler if labels else others).steps_per_epoch
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
    views=views,
    chunk=chunk,
  )
  key = states.make_key(config['seed'], states.TRAIN)
  own = objective.init(jax.random.fold_in(key, int(labels)))
  params = {**state.params, 'objective': own}
  state = state.replace(
    step=jnp.zeros((), jnp.int32), params=params, opt_state=tx.init(params)
  )
  make = batches.resident(run.columns, rows, None)
  for i in range(config['epochs'] * per_epoch):
    known = run.sampler(i) if labels else _NONE
    more = others(i) if variant.when != 'never' else _NONE
    state, metrics = step(state, join(make, known, more), key, stage=0)
  if not np.isfinite(metrics['loss']):
    raise DivergedError(f'the loss is {float(metrics["loss"])}')
  params = {**state.params, 'objective': state.params['objective']['labelled']}
  return state.replace(params=params)


def join(
  make: Callable[[np.ndarray], batches.Batch],
  known: np.ndarray,
  more: np.ndarray,
) -> batches.Batch:
  """Makes a batch of which the loss sees the labels of the `known` rows alone.

  Args:
    make: rows to their batch.
    known: rows with labels.
    more: rows without.
  """
  valid = jnp.arange(len(known) + len(more)) < len(known)
  return make(np.concatenate([known, more])) | {'valid': valid}


def measure(encoder: Encoder, data: pipeline.Data) -> dict[str, float]:
  """Computes MEASURES as benchmarks.quality does."""
  found = {}
  for split in ('test', 'unseen'):
    rows = data.splits[split]
    embedding = encoder.embed(
      data.images[rows], measures=data.measures_of(rows)
    )
    ranked = retrieval.evaluate(embedding, data.labels[rows], ks=(1,))
    found[f'{split} R@1'] = float(ranked['recall_at_1'])
    found[f'{split} MAP@R'] = float(ranked['map_at_r'])
  return found


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  recipes.define(values, epochs=10, seeds=1, out='runs/self_supervised')
  for name, meaning in (
    ('encoder', "Folder of the encoder to begin from; '': random weights."),
    ('fields', "field=value ... in place of the config's."),
  ):
    flags.DEFINE_string(name, '', meaning, flag_values=values)
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
  spec = json.dumps([variant, config], sort_keys=True).encode()
  path = out / f'{hashlib.blake2b(spec, digest_size=8).hexdigest()}.json'
  if path.exists():
    return json.loads(path.read_text())
  began = time.monotonic()
  host.use_compilation_cache(config['compilation_cache_dir'])
  with tempfile.TemporaryDirectory() as workdir:
    data = experiment.load_data(config, workdir, writes=False)
  found = measure(train(VARIANTS[variant], config, data), data)
  found['seconds'] = time.monotonic() - began
  atomic.text(path, json.dumps(found))
  return found


def lines(
  results: Mapping[str, Sequence[cells.Result]],
) -> list[dict[str, Any]]:
  """Makes the rows of the table: means, and half their 95 % intervals.

  Gains are over the first variant, of runs of the same draw and seed.
  """
  base = next(iter(results.values()))
  table = []
  for name, found in results.items():
    row: dict[str, Any] = {'variant': name, 'runs': len(found)}
    for measure in (*MEASURES, 'seconds'):
      row[measure] = cells.shown(cells.numbers(found, measure))
    for measure in ('test MAP@R', 'unseen MAP@R'):
      pairs = zip(found, base, strict=True)
      gains = [one[measure] - other[measure] for one, other in pairs]
      row[f'gain in {measure}'] = cells.shown(gains, '+')
    table.append(row)
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
  host.show_log(logging.WARNING)
  options.out.mkdir(parents=True, exist_ok=True)
  results: dict[str, list[cells.Result]] = {
    name: [] for name in values.variants
  }
  runs = itertools.product(
    quality.grounds(options, values.draws),
    range(options.seeds),
    values.variants,
  )
  for ground, seed, name in tqdm([*runs], unit='run'):
    config = recipes.place(recipe, ground, seed)
    results[name].append(result(name, config, options.out))
  table = lines(results)
  tables.show(table, 'mean ± 95 % interval over the runs; gains over the first')
  print(tables.write_csv(options.out / 'self_supervised.csv', table))


if __name__ == '__main__':
  define(flags.FLAGS)
  flags.adopt_module_key_flags(recipes)
  recipes.run(main)
