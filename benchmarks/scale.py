"""Measures memory and time against images, classes and batch, with a line.

  python -m benchmarks.scale [--only=search,batch,audit,...] \
    [--points=NUMBER,NUMBER] [--embeddings=FILE.npz] [--out=runs/scale]

`MEASURES` lists what there is, and at which sizes. Every point has a process of
its own; seconds are of its processors, which are the same where others work
beside, unless they are said to be by the clock.
"""

import concurrent.futures
import functools
import multiprocessing
import os
import pathlib
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from absl import flags

from analysis.files import inputs, tables
from benchmarks import inputs as drawn
from plankton_jax.cli import command
from plankton_jax.errors import InputError
from plankton_jax.neighbours import choice, search

DIM = 128
QUERIES = 1000
NEIGHBOURS = 10
BLOCK = 2**16  # rows drawn at a time
SIDE = 64  # px
BATCH = 128  # images
STEPS = 5  # that are timed together
STREAMED = 200  # batches
# Analyses, and the flags of those that labelled embeddings do not suffice for.
# Every file that these name is of `save_classes`.
ANALYSES: Mapping[str, tuple[str, ...]] = {
  'distances': (),
  'projection': (),
  'gallery': (),
  'classifiers': (),
  'retrieval': (),
  'confusions': (),
  'novelty': (),
  'audit': (),
  'taxonomy': ('--taxa={}/taxa.csv',),
  'predict': ('--images={}/new.npz', '--taxa={}/taxa.csv'),
  'discover': (),
  'counts': ('--images={}/new.npz', '--by=^[^/]+'),
  'shift': ('--images={}/new.npz', '--by=^[^/]+'),
}
SAMPLES = 4  # that images of each split are of
FAMILY, GENUS = 20, 5  # classes in one
DEVICES = 8  # virtual ones that share prototypes
Point = dict[str, Any]


class Measure(NamedTuple):
  """Says what is measured, and at which sizes."""

  run: Callable[[int, str | None], Point]  # of a size and --embeddings
  points: tuple[int, ...]
  each: int | None  # the unit of the line's slope; None for no line
  asked: int | None = None  # a size to extrapolate to


def draw(rows: int, file: str | None) -> np.ndarray:
  """Draws unit embeddings, float32 [N, D], near those of a file if given."""
  rng = np.random.default_rng(0)
  if file:
    given = inputs.read_embeddings(pathlib.Path(file)).embedding
    sample = given[rng.permutation(len(given))[:QUERIES]]
    step = np.median(search.nearest(sample, given, 2)[0][:, 1])
  else:
    given = rng.normal(size=(1000, DIM)).astype(np.float32)
    step = 1.4 * np.sqrt(DIM)
  scale = np.float32(step / np.sqrt(given.shape[1]))
  found = np.empty((rows, given.shape[1]), np.float32)
  for start in range(0, rows, BLOCK):
    part = found[start : start + BLOCK]
    part[:] = given[np.arange(start, start + len(part)) % len(given)]
    part += scale * rng.standard_normal(part.shape, np.float32)
    part /= np.linalg.norm(part, axis=1, keepdims=True)
  return found


def exact(count: int, file: str | None) -> Point:
  """Searches exactly among `count` rows."""
  rows = draw(count, file)
  queries = rows[:: max(1, count // QUERIES)][:QUERIES]
  began = time.process_time()
  search.nearest(queries, rows, NEIGHBOURS)
  return {'seconds': time.process_time() - began, 'GiB': _peak()}


def indexed(count: int, file: str | None, *, way: str) -> Point:
  """Finds the neighbours of all `count` rows by an index of FAISS."""
  rows = draw(count, file)
  began = time.process_time()
  recall = choice.nearest(rows, None, NEIGHBOURS, way=way).recall
  seconds = time.process_time() - began
  return {'seconds': seconds, 'recall': f'{recall:.1%}', 'GiB': _peak()}


def streamed(count: int) -> Point:
  """Reads batches of `count` images that the disk holds, and none the memory.

  A thousand drawn ones are repeated. Batches are of 32 classes, four images of
  each, as those of triplets.
  """
  from plankton_jax.train import batches, sampling

  drawn = np.random.default_rng(0).integers(
    0, 256, (1000, SIDE, SIDE, 1), np.uint8
  )
  labels = np.arange(count, dtype=np.int32) % len(drawn)
  with tempfile.TemporaryDirectory() as folder:
    file = pathlib.Path(folder, 'images.npy')
    shape = (count, *drawn.shape[1:])
    images = np.lib.format.open_memmap(file, 'w+', np.uint8, shape)
    for start in range(0, count, len(drawn)):
      images[start : start + len(drawn)] = drawn[: count - start]
    images.flush()
    del images
    with file.open('rb') as opened:
      os.posix_fadvise(opened.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    began = time.perf_counter()
    images = np.load(file, mmap_mode='r')
    sampler = sampling.Sampler(
      labels,
      size=BATCH,
      classes=BATCH // 4,
      per_class=4,
      sampling='images',
      seed=0,
    )
    columns = {'image': images, 'label': labels}
    batch = batches.streamed(columns, np.arange(count), None)
    batch(sampler(0))
    first = time.perf_counter() - began
    before, began = time.process_time(), time.perf_counter()
    for step in range(1, STREAMED + 1):
      batch(sampler(step))
    return {
      'seconds of the first': first,
      'seconds': (time.process_time() - before) / STREAMED,
      'seconds by the clock': (time.perf_counter() - began) / STREAMED,
    }


def save_classes(folder: pathlib.Path, count: int) -> list[pathlib.Path]:
  """Draws embeddings of `count` classes and writes a file for each split.

  A tenth is unseen. Every class has two images a split that it is in, but only
  each third has one for validation. Beside them `new.npz` has two images of
  every class, without label, and `taxa.csv` has genera and families.

  Returns:
    The files of the splits.
  """
  rng = np.random.default_rng(0)
  centres = rng.normal(size=(count, DIM)).astype(np.float32)
  every = np.arange(count, dtype=np.int32)
  seen, unseen = np.split(every, [count - count // 10])
  pair = lambda classes: np.repeat(classes, 2)
  paths = []
  for split, label in {
    'train': pair(seen),
    'val': seen[::3],
    'test': pair(seen),
    'unseen': pair(unseen),
    'new': pair(every),
  }.items():
    rows = centres[label] + 1.2 * rng.standard_normal((len(label), DIM))
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    paths.append(folder / f'{split}.npz')
    np.savez(
      paths[-1],
      embedding=rows.astype(np.float32),
      label=label if split != 'new' else np.full(len(label), -1),
      id=np.array(
        [f'{i % SAMPLES}/{split}_{i}.png' for i in range(len(label))]
      ),
      class_names=np.array([f'class_{i}' for i in every]),
    )
  tables.write_csv(
    folder / 'taxa.csv',
    [
      {
        'taxon': f'class_{i}',
        'family': f'family_{i // FAMILY}',
        'genus': f'genus_{i // GENUS}',
        'species': f'class_{i}',
      }
      for i in every
    ],
  )
  return paths[:-1]


def analysed(count: int, file: str | None, *, name: str) -> Point:
  """Runs an analysis of embeddings of `count` classes as a command."""
  del file  # its rows have no classes to draw
  with tempfile.TemporaryDirectory() as folder:
    paths = save_classes(pathlib.Path(folder), count)
    subprocess.run(
      [
        *(sys.executable, '-m', f'analysis.{name}', f'--out={folder}/out'),
        *(f'--embeddings={path}' for path in paths),
        *(flag.format(folder) for flag in ANALYSES[name]),
      ],
      stdout=subprocess.DEVNULL,
      check=True,
    )
  used = resource.getrusage(resource.RUSAGE_CHILDREN)
  return {
    'seconds': used.ru_utime + used.ru_stime,
    'GiB': _peak(resource.RUSAGE_CHILDREN),
  }


def trained(
  images: int, classes: int, name: str, *, devices: int = 1, **objective: Any
) -> Point:
  """Compiles and times a step of an objective, on so many virtual devices."""
  import importlib

  import jax

  from plankton_jax.train import experiment, sharding

  jax.config.update('jax_num_cpu_devices', devices)
  config = importlib.import_module(f'configs.{name}').get_config()
  config.batch.size = images
  config.encoder.width = 16
  config.encoder.embedding_dim = DIM
  config.objective.update(objective)
  labels = np.repeat(np.arange(classes, dtype=np.int32), 64)
  shape = (len(labels), SIDE, SIDE, 1)
  parts = experiment.assemble(
    config.to_dict(),
    drawn.data(np.broadcast_to(np.uint8(0), shape), labels, classes),
  )
  fresh = jax.jit(parts.create)(jax.random.key(0, impl='rbg'))
  rng = np.random.default_rng(0)
  given = {
    'image': rng.integers(0, 256, (images, *shape[1:]), np.uint8),
    'label': labels[:: len(labels) // images][:images],
    'valid': np.ones(images, bool),
  }
  key = jax.random.key(1, impl='rbg')
  state = sharding.place(parts.mesh, fresh)
  key = sharding.replicate(parts.mesh, key)
  given = sharding.split(parts.mesh, given)
  compiled = parts.train_step.lower(state, given, key, stage=0).compile()
  state, _ = jax.block_until_ready(compiled(state, given, key))
  before, wall = time.process_time(), []
  for _ in range(STEPS):
    began = time.perf_counter()
    state, _ = jax.block_until_ready(compiled(state, given, key))
    wall.append(time.perf_counter() - began)
  return {
    'seconds': (time.process_time() - before) / STEPS,
    'seconds by the clock': min(wall),
    'temporary GiB': sharding.program_memory(compiled).temporary / 2**30,
    'state GiB': sharding.bytes_on_device(state) / 2**30,
  }


MEASURES: Mapping[str, Measure] = {
  # Neighbours of 1,000 queries among so many embeddings, drawn or like those of
  # a file; and of all of them, by an index.
  'search': Measure(exact, (500_000, 1_000_000, 2_000_000), 10**6, 5_000_000),
  **{
    way: Measure(
      functools.partial(indexed, way=way),
      (50_000, 100_000, 200_000),
      10**6,
      5_000_000,
    )
    for way in ('hnsw', 'ivfpq')
  },
  # Batches read from the disk, of so many images.
  'images': Measure(lambda n, _: streamed(n), (200_000, 2_000_000), None),
  # A step of so many images.
  'batch': Measure(
    lambda n, _: trained(n, 10, 'triplet'), (64, 128, 256), 1000
  ),
  # A step with so many prototypes, with a tenth of them in the loss, or with
  # each device holding a share of them.
  'classes': Measure(
    lambda n, _: trained(BATCH, n, 'arcface'), (1000, 10_000, 100_000), 1000
  ),
  'sampled': Measure(
    lambda n, _: trained(BATCH, n, 'arcface', sample_prototypes=0.1),
    (1000, 10_000, 100_000),
    1000,
  ),
  'sharded': Measure(
    lambda n, _: trained(BATCH, n, 'arcface', devices=DEVICES),
    (10_000, 100_000),
    1000,
  ),
  # A step on so many virtual devices.
  'devices': Measure(
    lambda n, _: trained(BATCH, 10, 'triplet', devices=n), (1, 2, 4, 8), None
  ),
  # An analysis of so many classes.
  **{
    name: Measure(functools.partial(analysed, name=name), (1000, 10_000), 1000)
    for name in ANALYSES
  },
}


def measured(name: str, size: int, file: str | None) -> Point:
  """Measures one point."""
  return {'size': size, **MEASURES[name].run(size, file)}


def _peak(of: int = resource.RUSAGE_SELF) -> float:
  """Returns the most memory that this process, or a child, has held, GiB."""
  unit = 1 if sys.platform == 'darwin' else 1024
  return resource.getrusage(of).ru_maxrss * unit / 2**30


def fitted(points: Sequence[Point], field: str) -> np.ndarray:
  """Fits field = a + b · size to points; (a, b), NaN for fewer than two.

  By least squares of the relative error, as sizes span decades.
  """
  size = np.array([point['size'] for point in points], float)
  value = np.array([point[field] for point in points], float)
  if len(points) < 2:
    return np.full(2, np.nan)
  terms = np.stack([np.ones_like(size), size], axis=1) / value[:, None]
  return np.linalg.lstsq(terms, np.ones_like(value), rcond=None)[0]


def lines(name: str, points: Sequence[Point]) -> list[Point]:
  """Adds the line of every number to the points, and what it says beyond."""
  rows: list[Point] = [{'of': name, 'kind': 'measured', **p} for p in points]
  each, asked = MEASURES[name][2:]
  if each is None:
    return rows
  fields = [f for f, x in points[0].items() if isinstance(x, float)]
  found = {field: fitted(points, field) for field in fields}
  blank = dict.fromkeys(rows[0], '')
  kinds = {'fixed': (1.0, 0.0), f'each {each:,}': (0.0, each)}
  if asked:
    kinds['extrapolated'] = (1.0, asked)
  for kind, terms in kinds.items():
    values = {field: float(found[field] @ terms) for field in fields}
    size = asked if kind == 'extrapolated' else ''
    rows.append(blank | {'of': name, 'kind': kind, 'size': size} | values)
  return rows


def define(values: flags.FlagValues) -> None:
  """Defines the command's flags."""
  flags.DEFINE_list('only', list(MEASURES), 'What.', flag_values=values)
  flags.DEFINE_list('points', [], 'Sizes [by what].', flag_values=values)
  flags.DEFINE_string(
    'embeddings', None, 'A file to draw rows like its.', flag_values=values
  )
  flags.DEFINE_string('out', 'runs/scale', 'Folder.', flag_values=values)


def main(values: flags.FlagValues) -> None:
  """Measures every point; prints and writes a table each."""
  unknown = sorted(set(values.only) - MEASURES.keys())
  if unknown or not all(n.isdigit() and int(n) for n in values.points):
    raise InputError(
      f'--only takes {", ".join(MEASURES)}, --points whole numbers from 1'
    )
  out = pathlib.Path(values.out)
  out.mkdir(parents=True, exist_ok=True)
  spawn = multiprocessing.get_context('spawn')
  for name in values.only:
    points = []
    for size in map(int, values.points or MEASURES[name].points):
      with concurrent.futures.ProcessPoolExecutor(1, spawn) as pool:
        found = pool.submit(measured, name, size, values.embeddings)
        points.append(found.result())
      print(name, points[-1], flush=True)
    table = lines(name, points)
    tables.show(table, f'{name}: points and lines')
    print(tables.write_csv(out / f'{name}.csv', table))


if __name__ == '__main__':
  define(flags.FLAGS)
  command.run(lambda argv: main(flags.FLAGS), fast=True)
