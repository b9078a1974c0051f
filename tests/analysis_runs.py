"""Small embeddings and workdirs for the tests of the analysis suite."""

import json
import pathlib

import numpy as np

from analysis import report
from analysis.files import result
from analysis.files.inputs import Embeddings, Source

NAMES = ('ant', 'bee', 'cat', 'dog', 'eel')


def blobs(counts, *, noise=0.3, first=0, dim=6, seed=0, names=NAMES):
  """Unit rows about one axis a class: counts[i] of class first + i."""
  rng = np.random.default_rng(seed)
  labels = first + np.repeat(np.arange(len(counts)), counts).astype(np.int32)
  rows = np.eye(dim)[labels] + noise * rng.normal(size=(len(labels), dim))
  norms = np.linalg.norm(rows, axis=1, keepdims=True)
  ids = np.array([f'{seed}-{i:03}' for i in range(len(labels))])
  order = rng.permutation(len(labels))
  rows = (rows / norms).astype(np.float32)
  return Embeddings(rows[order], labels[order], ids[order], names)


def joined(*parts):
  """Appends embeddings of the same class names to each other."""
  columns = zip(*[part[:3] for part in parts], strict=True)
  return Embeddings(*map(np.concatenate, columns), parts[0].class_names)


def empty(dim=6):
  return Embeddings(
    np.zeros((0, dim), np.float32),
    np.zeros(0, np.int32),
    np.zeros(0, 'U1'),
    NAMES,
  )


def source(name='run', *, workdir=None, **splits):
  """A source of three seen and two unseen classes, unless splits are given."""
  splits = splits or {
    'train': blobs([20, 15, 12], seed=1),
    'val': blobs([3, 2, 2], seed=2),
    'test': blobs([8, 6, 5], seed=3),
    'unseen': blobs([14, 12], first=3, seed=4),
  }
  config = None
  if workdir is not None:
    config = {'citation': 'Someone 2015', 'curriculum': []}
    workdir.mkdir(exist_ok=True)
    (workdir / 'config.json').write_text(json.dumps(config))
  return Source(name, splits, workdir, config)


def save(path: pathlib.Path, rows: Embeddings, **replaced):
  """Writes an embedding file."""
  arrays = {
    'embedding': rows.embedding,
    'label': rows.label,
    'id': rows.id,
    'class_names': np.array(rows.class_names),
  }
  path.parent.mkdir(parents=True, exist_ok=True)
  np.savez(path, **{**arrays, **replaced})
  return path


def run(part, sources, out, **options):
  """Runs an analysis, a module with `analyse`, as its command does."""
  name = part.__name__.rpartition('.')[2]
  found = part.analyse(sources, **options)
  result.show(name, found)
  result.write(found, out)
  return found


def make_report(sources, out, parts):
  """Writes a report of the parts and returns its page."""
  result.write(report.analyse(sources, out, parts=parts), out)
  return (out / 'report.html').read_text(encoding='utf-8')
