"""Lists the rows of the table to measure, by backend and group."""

import pathlib
from typing import Any, NamedTuple


class Row(NamedTuple):
  """A line of the table: its name, its job, and its format."""

  what: str
  spec: dict[str, Any]
  images: int = 0  # a call, for a rate; 0 shows the time
  peer: bool = True
  rival: dict[str, Any] | None = None  # what we do ourselves in its place


# The machine's limits, measured in every run: a share of them says how much
# is left to gain.
MATMUL = Row('limit: float32 matrix product', {'job': 'matmul', 'side': 4096})
COPY = Row('limit: large copy', {'job': 'copy', 'mebibytes': 512})

_BOTH = (128, 512, 1024, 2048)  # rows in a batch
_STAGES = (('easy', 'semihard'), ('easy', 'hard'), ('hard', 'hard'))
_ALONE = (4096, 8192, 16384)  # where the peer's [B, B] lists no longer pay


def groups(
  backend: str, folder: pathlib.Path, *, large: bool
) -> dict[str, list[Row]]:
  """Lists the rows of each group on a backend.

  Args:
    backend: 'cpu', or what else JAX runs on.
    folder: for the files of rows that need some.
    large: 100,000 rows instead of 20,000 in retrieval and distances.
  """
  if backend != 'cpu':
    return {}  # rows for accelerators go here; the host's say nothing there
  rows = 100_000 if large else 20_000
  return {
    'step': [
      *(_step(32, 64, compiled=on) for on in (False, True)),
      *(_step(64, 64, compiled=on) for on in (False, True)),
      _step(32, 128),
    ],
    'bfloat16': [
      _step(width, 64, dtype='bfloat16', compiled=on)
      for width in (32, 64)
      for on in (False, True)
    ],
    'mining': [
      *(_mining(batch, *stage) for stage in _STAGES for batch in _BOTH),
      *(_mining(batch, 'easy', 'semihard', peer=False) for batch in _ALONE),
    ],
    'embed': [_embed(32, 64), _embed(64, 64)],
    'backbones': [
      _backbone('convnext_atto', 64),
      _backbone('vit_small_patch14_dinov2', 112),
      _backbone('vit_small_patch14_dinov2', 224),
      _backbone('vit_small_patch16_dinov3', 112),
    ],
    'retrieval': [
      Row(
        f'retrieval measures, {rows:,} x 128',
        {'job': 'retrieve', 'rows': rows, 'classes': 100},
      ),
      Row(
        f'retrieval measures, {rows:,} x 128, 90 classes by Zipf',
        {'job': 'retrieve', 'rows': rows, 'classes': 90, 'tail': 1.2},
        peer=False,  # its calculator runs out of memory
      ),
    ],
    'distances': [
      Row(
        f'class distances, {rows:,} x 128',
        {'job': 'class_distances', 'rows': rows, 'classes': 100},
        peer=False,
      )
    ],
    'decode': [
      Row(
        'decode 2,400 PNG to 64 px',
        {'job': 'decode', 'folder': str(folder), 'count': 2400, 'side': 64},
        images=2400,
      ),
    ],
    'input': [
      Row(
        'gather a batch of 128 at 64 px',
        {'job': 'gather', 'rows': 50_000, 'batch': 128, 'side': 64},
        images=128,
      ),
      _epoch(32, 64, steps=8),
      _epoch(8, 64, steps=32),
    ],
    'start': [
      Row('launch.py --help', {'job': 'show_help'}, peer=False),
      Row(
        'command to first step, warm cache',
        {'job': 'first_step', 'folder': str(folder)},
        peer=False,
      ),
    ],
  }


def _step(width, side, *, dtype='float32', compiled=False):
  what = f'train ResNet-18 x{width}, {side} px, batch 128'
  precision = '' if dtype == 'float32' else f', {dtype}'
  peer = '; peer: torch.compile' if compiled else ''
  return Row(
    f'{what}{precision}{peer}',
    {
      'job': 'step',
      'width': width,
      'side': side,
      'batch': 128,
      'dtype': dtype,
      'compiled': compiled,
    },
    images=128,
  )


def _epoch(width, side, steps):
  spec = {
    'job': 'epoch',
    'width': width,
    'side': side,
    'batch': 128,
    'steps': steps,
    'rows': 50_000,
  }
  return Row(
    f'steps fed ResNet-18 x{width}, {side} px; peer: resident batch',
    spec | {'stream': True},
    images=128 * steps,
    rival=spec | {'stream': False},
  )


def _embed(width, side):
  return Row(
    f'embed ResNet-18 x{width}, {side} px',
    {'job': 'embed', 'width': width, 'side': side, 'batch': 256, 'count': 1024},
    images=1024,
  )


def _backbone(name, side):
  count = 256
  spec = {'job': 'embed', 'width': 32, 'batch': 256, 'count': count}
  return Row(
    f'embed {name}, {side} px; peer: our ResNet-18 x32, 64 px',
    spec | {'side': side, 'name': name},
    images=count,
    rival=spec | {'side': 64},
  )


def _mining(batch, positive, negative, *, peer=True):
  return Row(
    f'mine {positive}+{negative}, B = {batch:,}',
    {
      'job': 'mining',
      'batch': batch,
      'positive': positive,
      'negative': negative,
    },
    peer=peer,
  )
