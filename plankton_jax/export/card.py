"""Writes the model card of an encoder: its data, classes and measures."""

import json
import math
import pathlib

import jax
import numpy as np

from plankton_jax import retrieval
from plankton_jax.data import split_file
from plankton_jax.encoder import Encoder
from plankton_jax.train import log

_MEASURES = ('recall_at_1', 'map_at_r')


def write(
  encoder: Encoder, workdir: pathlib.Path, *, license: str, notes: str = ''
) -> str:
  """Writes the card as Markdown, from the encoder and its workdir's files.

  Args:
    encoder: the encoder.
    workdir: its run's.
    license: the encoder's; '' leaves it open.
    notes: further sections, before the licence.
  """
  config = encoder.config
  data, fields = config['data'], config['encoder']
  size = sum(x.size for x in jax.tree.leaves(encoder.variables['params']))
  colour = 'grey' if data['channels'] == 1 else 'RGB'
  began = fields['pretrained']
  rank = fields['lora_rank']
  adapted = f', adapted by LoRA of rank {rank}' if rank else ''
  return _TEMPLATE.format(
    license=json.dumps(license or 'other'),
    terms=f'{license}.'
    if license
    else 'Not stated; ask whoever gave it to you.',
    name=f'{fields["name"]}, {config["objective"]["name"]}',
    shape=f'{colour} images, uint8 [N, {data["size"]}, {data["size"]},'
    f' {data["channels"]}], to unit-norm float32 [N,'
    f' {fields["embedding_dim"]}]',
    parameters=f'{size:,}',
    beside=_beside(encoder),
    step=f'{encoder.step:,}',
    began=f' It began from the weights of `{began}`{adapted}.' if began else '',
    fit='padded to a square with their background'
    if data['resize'] == 'pad'
    else 'stretched to a square',
    side=data['size'],
    citation=config['citation'] or f'Source `{data["source"]}`; not cited.',
    classes=_classes(encoder, workdir),
    measures=_measures(encoder, workdir),
    whitened=' `val` is of\nthe space before it was whitened.'
    if fields['whitening']
    else '',
    notes=f'{notes.strip()}\n\n' if notes.strip() else '',
    config=json.dumps(config, indent=1),
  )


def _beside(encoder: Encoder) -> str:
  """Says what the encoder takes beside images; '' if nothing."""
  if not encoder.takes:
    return ''
  unit = f' Sizes are in {encoder.size_unit}.' if encoder.size_unit else ''
  return (
    f'\nBeside images it takes {", ".join(encoder.takes)}, as far as they are'
    f' known:\n`encoder.embed(images, measures={{name: values}})`.{unit}\n'
  )


def _classes(encoder: Encoder, workdir: pathlib.Path) -> str:
  """Lists the seen classes, and the unseen ones if there is a split."""
  lines = [f'- {name}' for name in encoder.class_names]
  unseen = split_file.unseen_classes(workdir / 'split.json')
  if unseen is not None:
    lines += ['', f'Held out wholly: {", ".join(unseen) or "none"}.']
  return '\n'.join(lines)


def _measures(encoder: Encoder, workdir: pathlib.Path) -> str:
  """Tabulates the splits that were measured at the encoder's step."""
  rows = _logged(workdir / 'metrics.jsonl', encoder.step)
  unseen = workdir / 'embeddings' / 'unseen.npz'
  # Embedding files are of the best checkpoint, as the log's test is.
  if 'test' in rows and unseen.is_file():
    with np.load(unseen, allow_pickle=False) as arrays:
      if len(arrays['label']):
        rows['unseen'] = retrieval.evaluate(
          arrays['embedding'], arrays['label'], ks=(1,)
        )
  if not rows:
    return 'None were made at this step.'
  table = ['| images | Recall@1 | MAP@R |', '|---|---|---|']
  for split, found in rows.items():
    values = ' | '.join(
      _rounded(log.column([found], name)[0]) for name in _MEASURES
    )
    table.append(f'| {split} | {values} |')
  return '\n'.join(table)


def _rounded(value: float) -> str:
  """Rounds a measure; writes a dash for one that is not defined."""
  return '–' if math.isnan(value) else f'{value:.3f}'


def _logged(path: pathlib.Path, step: int) -> dict[str, log.Row]:
  """Finds a step's validation and test in the log."""
  by_split = log.read(path).by_split
  return {
    split: row
    for split in ('val', 'test')
    for row in by_split.get(split, [])
    if row['step'] == step
  }


_TEMPLATE = """\
---
library_name: plankton_jax
license: {license}
tags: [plankton, image-embedding, metric-learning, jax]
---

# Plankton encoder: {name}

From {shape}; {parameters} parameters, step {step} of its training.{began}

```python
from plankton_jax.checkpoints import load_encoder

encoder = load_encoder('THIS FOLDER')
encoder.embed(images)
```
{beside}
Images of a folder are brought to {side} px, {fit}, and embedded by
`python -m analysis.embed --workdir=THIS_FOLDER --images=FOLDER --out=FILE.npz`.

## Data

{citation}

Classes seen in training:

{classes}

## Measures

{measures}

Each image is a query among all others of its row. `val` and `test` are what
training logged: of at most 5,000 of the split's images, drawn once.{whitened}
`unseen` takes all of them.

{notes}## Licence

{terms} The images have terms of their own; see the source above.

## Config

```json
{config}
```
"""
