"""Runs the peer's side: PyTorch at its best on the host, and companions."""

import functools
import pathlib

import faiss
import torch
from PIL import Image
from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
from torch.utils.data import DataLoader, Dataset
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import inputs
from benchmarks.serve import Job, cores, each, serve
from benchmarks.torch_network import ResNet18, library_triplet

THREADS = cores()


def matmul(*, side: int) -> Job:
  x = torch.from_numpy(inputs.square(side))
  return each(lambda: x @ x), {}


def copy(*, mebibytes: int) -> Job:
  source = torch.ones(mebibytes << 20, dtype=torch.uint8)
  target = torch.zeros_like(source)
  return each(lambda: target.copy_(source)), {}


def step(
  *,
  width: int,
  side: int,
  batch: int,
  dtype: str,
  compiled: bool,
  expected: dict,
) -> Job:
  """Trains as ours does, on images that are already floats, without metrics.

  In bfloat16 the network runs under autocast; loss and weights stay float32.
  """
  model, x = _model(width, side, batch, expected, forward_share=1 / 3)
  model.train()
  labels = torch.from_numpy(inputs.labels(batch, 10)).long()
  optimizer = torch.optim.Adam(model.parameters(), lr=1.4e-3, fused=True)
  loss_of = library_triplet('hard+hard', 0.5)
  network = torch.compile(model) if compiled else model
  autocast = torch.autocast('cpu', torch.bfloat16, enabled=dtype == 'bfloat16')

  def call():
    optimizer.zero_grad(set_to_none=True)
    with autocast:
      embeddings = network(x)
    loss_of(embeddings.float(), labels).backward()
    optimizer.step()

  return each(call), {}


def embed(
  *, width: int, side: int, batch: int, count: int, expected: dict
) -> Job:
  model, x = _model(width, side, count, expected, forward_share=1)
  parts = x.split(batch)

  @torch.inference_mode()
  def call():
    return torch.cat([model(part) for part in parts]).numpy()

  return each(call), {}


def _model(width, side, count, expected, *, forward_share):
  """Makes the network and its input; refuses a network unlike ours."""
  torch.manual_seed(0)
  model = ResNet18(width, 128).eval()
  found = sum(p.numel() for p in model.parameters())
  if found != expected['parameters']:
    raise ValueError(
      f'{found} parameters, but ours has {expected["parameters"]}'
    )
  model = model.to(memory_format=torch.channels_last)
  x = torch.from_numpy(inputs.images(count, side)).permute(0, 3, 1, 2)
  x = (x.float() / 255).contiguous(memory_format=torch.channels_last)
  counter = FlopCounterMode(display=False)
  with counter, torch.no_grad():
    model(x)
  flops = expected['flops'] * forward_share
  if counter.get_total_flops() != round(flops):
    raise ValueError(
      f'{counter.get_total_flops()} operations forward, but ours has {flops}'
    )
  return model, x


def mining(*, batch: int, dim: int, policy: str) -> Job:
  x = torch.from_numpy(inputs.embeddings(batch, dim, 10)).requires_grad_()
  labels = torch.from_numpy(inputs.labels(batch, 10)).long()
  loss_of = library_triplet(policy, 0.5)

  def call():
    x.grad = None
    loss = loss_of(x, labels)
    loss.backward()
    return loss.item()

  comparable = not policy.endswith('semihard')  # else it drops anchors
  return each(call), {'checks': {'loss': call()} if comparable else {}}


def retrieve(*, rows: int, dim: int, classes: int) -> Job:
  x = torch.from_numpy(inputs.embeddings(rows, dim, classes))
  labels = torch.from_numpy(inputs.labels(rows, classes)).long()
  calculator = AccuracyCalculator(
    include=('precision_at_1', 'r_precision', 'mean_average_precision_at_r'),
    k='max_bin_count',
    device=torch.device('cpu'),
  )
  measure = functools.partial(calculator.get_accuracy, x, labels)
  found = measure()
  return each(measure), {
    'checks': {
      'recall_at_1': found['precision_at_1'],
      'r_precision': found['r_precision'],
      'map_at_r': found['mean_average_precision_at_r'],
    }
  }


class _Folder(Dataset):
  """Images stretched to a square, uint8 [side, side]."""

  def __init__(self, folder, side):
    self._paths = sorted(pathlib.Path(folder).rglob('*.png'))
    self._side = side

  def __len__(self):
    return len(self._paths)

  def __getitem__(self, index):
    size = (self._side, self._side)
    with Image.open(self._paths[index]) as image:
      fitted = image.convert('L').resize(size, Image.Resampling.LANCZOS)
    return torch.frombuffer(bytearray(fitted.tobytes()), dtype=torch.uint8)


def decode(*, folder: str, count: int, side: int) -> Job:
  """Decodes an epoch of images that our side drew; its processes stay up."""
  dataset = _Folder(pathlib.Path(folder, 'images'), side)
  if len(dataset) != count:
    raise ValueError(f'{len(dataset)} images in {folder}, not {count}')
  loader = DataLoader(
    dataset, batch_size=128, num_workers=THREADS, persistent_workers=True
  )

  def run(epochs):
    for _ in range(epochs):
      for _ in loader:
        pass

  return run, {}


def gather(*, rows: int, batch: int, side: int) -> Job:
  images = torch.from_numpy(inputs.images(rows, side))
  labels = torch.from_numpy(inputs.labels(rows, 10))
  order = map(torch.from_numpy, inputs.batches(rows, batch))

  def call():
    chosen = next(order)
    return images[chosen], labels[chosen]

  return each(call), {}


JOBS = {
  job.__name__: job
  for job in (matmul, copy, step, embed, mining, retrieve, decode, gather)
}

if __name__ == '__main__':
  torch.set_num_threads(THREADS)
  faiss.omp_set_num_threads(THREADS)
  serve(JOBS)
