"""Lists the rows of the table to measure, the most important first."""

from typing import Any, NamedTuple


class Row(NamedTuple):
  """A line of the table: its name, its job, and its format."""

  what: str
  group: str
  spec: dict[str, Any]  # the job of both workers
  peer: bool = True
  images: int = 0  # units a call, to show a rate; 0 shows the time
  peak: str = ''  # the limit to compare its work with
  deterministic: bool = False  # under XLA's flag, in a process of its own
  note: str = ''


class Sizes(NamedTuple):
  """The sizes of all jobs; `--tiny` is for machines without a device."""

  product: int = 8192  # side of the matrices
  copied: int = 4096  # MiB
  checked: tuple[int, int] = (512, 128)  # rows and dimensions
  width: int = 64
  side: int = 128
  batches: tuple[int, int] = (128, 1024)
  mined: tuple[int, ...] = (1024, 4096, 16384, 32768)
  network: str = 'resnet18'  # the published run's
  epochs: int = 35
  images: int = 6144
  repeated: int = 200  # steps
  searched: tuple[int, ...] = (100_000, 1_000_000)
  dim: int = 128
  compiler: str = 'default'
  best_compiler: str = 'max-autotune'
  every: bool = True  # else one row of each kind
  patience_s: float = 120.0  # seconds within which a worker must answer
  least_s: float = 0.2  # seconds of a timing, which quick work is repeated for
  flags: str = ''  # for XLA


TINY = Sizes(
  product=64,
  copied=1,
  checked=(24, 8),
  width=2,
  side=16,
  batches=(8, 16),
  mined=(16,),
  network='resnet10',
  epochs=1,
  images=16,
  repeated=2,
  searched=(200,),
  dim=8,
  compiler='off',
  best_compiler='',
  every=False,
  patience_s=600.0,
  least_s=0.0,
  flags='--xla_backend_optimization_level=0',
)
GROUPS = ('limits', 'checks', 'run', 'step', 'mining', 'embed', 'search')
POLICIES = ('hard+hard', 'easy+semihard')


def table(sizes: Sizes) -> list[Row]:
  """Lists all rows in the order of measurement."""
  small, large = sizes.batches
  bfloat16, float32 = (
    {'name': sizes.network, 'dtype': name} for name in ('bfloat16', 'float32')
  )
  resnet50 = bfloat16 | {'name': 'resnet50'}
  step = lambda *args, **kwargs: _step(sizes, *args, **kwargs)
  settings = [
    (bfloat16, large),
    (float32, small),
    (bfloat16, small),
    (float32, large),
    (resnet50, large),
  ]
  first, *others = settings
  rows = [
    *_limits(sizes),
    *_checks(sizes),
    _whole_run(sizes, 'float32'),
    step(*first, POLICIES[0]),
    *_mining(sizes, POLICIES[0]),
    step(*first, 'arcface'),
    *_search(sizes, sizes.searched[0]),
    _embed(sizes, bfloat16, large, 8),
    _augmentation(sizes, large),
  ]
  if not sizes.every:
    return rows
  # Then the other settings, the least important last.
  at = 1 + rows.index(step(*first, POLICIES[0]))
  rows[at:at] = [step(*setting, POLICIES[0]) for setting in others]
  return [
    *rows,
    step(*first, POLICIES[1]),
    *(_embed(sizes, fields, large, 1) for fields in (bfloat16, resnet50)),
    *_search(sizes, sizes.searched[1]),
    *_mining(sizes, POLICIES[1]),
    _whole_run(sizes, 'bfloat16'),
    *(_embed(sizes, float32, large, poses) for poses in (1, 8)),
    _embed(sizes, resnet50, large, 8),
    *(step(*s, what) for s in others for what in (POLICIES[1], 'arcface')),
    *(
      step(*setting, POLICIES[0], compiler=sizes.best_compiler)
      for setting in (settings[0], settings[2])
    ),
  ]


def _limits(sizes):
  for kind in ('bfloat16', 'tf32', 'float32'):
    spec = {'job': 'matmul', 'side': sizes.product, 'kind': kind}
    yield Row(f'limit: {kind} matrix product', 'limits', spec)
  yield Row('limit: copy', 'limits', {'job': 'copy', 'mebibytes': sizes.copied})


def _checks(sizes):
  size, dim = sizes.checked
  for job, what in (
    ('mined_indices', 'check: mined rows'),
    ('losses_and_gradients', 'check: losses and gradients'),
  ):
    spec = {'job': job, 'size': size, 'dim': dim}
    yield Row(what, 'checks', spec, peer=False)
  spec = _run(sizes, 'float32') | {'job': 'repeat', 'steps': sizes.repeated}
  yield Row('repeated steps', 'checks', spec, peer=False)
  yield Row(
    'repeated steps, --xla_gpu_deterministic_ops',
    'checks',
    spec,
    peer=False,
    deterministic=True,
  )


def _whole_run(sizes, dtype):
  return Row(
    f'published run, {dtype}',
    'run',
    _run(sizes, dtype) | {'job': 'whole_run'},
    peer=False,
    note='published: 12 minutes',
  )


def _run(sizes, dtype):
  return {
    'fields': {'name': sizes.network, 'width': sizes.width, 'dtype': dtype},
    'side': sizes.side,
    'batch': sizes.batches[0],
    'epochs': sizes.epochs,
    'images': sizes.images,
  }


def _step(sizes, fields, batch, objective, *, compiler=''):
  compiler = compiler or sizes.compiler
  return Row(
    f'step {_named(fields)}, B = {batch:,}, {objective}'
    + (f'; torch {compiler}' if compiler == sizes.best_compiler else ''),
    'step',
    {
      'job': 'step',
      'fields': {'width': sizes.width, **fields},
      'side': sizes.side,
      'batch': batch,
      'objective': objective,
      'compiler': compiler,
    },
    images=batch,
    peak=_peak(fields),
  )


def _embed(sizes, fields, batch, poses):
  return Row(
    f'embed {_named(fields)}, {poses} pose{"s" * (poses > 1)}',
    'embed',
    {
      'job': 'embed',
      'fields': {'width': sizes.width, **fields, 'poses': poses},
      'side': sizes.side,
      'batch': batch,
      'compiler': sizes.compiler,
    },
    images=batch,
    peak=_peak(fields),
  )


def _mining(sizes, policy):
  for batch in sizes.mined:
    yield Row(
      f'mine {policy}, B = {batch:,}',
      'mining',
      {
        'job': 'mining',
        'batch': batch,
        'dim': sizes.dim,
        'policy': policy,
        'compiler': sizes.compiler,
      },
      peak='float32',
    )


def _search(sizes, rows):
  shape = {'rows': rows, 'dim': sizes.dim}
  for what, more in (
    ('10 nearest of', {'job': 'neighbours', 'count': 10}),
    ('retrieval of', {'job': 'retrieve', 'classes': max(2, rows // 100)}),
  ):
    yield Row(
      f'{what} {rows:,} x {sizes.dim}', 'search', more | shape, peak='float32'
    )


def _augmentation(sizes, batch):
  spec = {'job': 'augmentation', 'side': sizes.side, 'batch': batch}
  return Row(
    f'augmentation, B = {batch:,}',
    'step',
    spec,
    peer=False,
    images=batch,
    peak='copy',
  )


def _named(fields):
  number = fields['name'].removeprefix('resnet')
  return f'ResNet-{number} {fields["dtype"]}'


def _peak(fields):
  # A float32 convolution takes TF32 on both sides unless told otherwise.
  return 'bfloat16' if fields['dtype'] == 'bfloat16' else 'tf32'
