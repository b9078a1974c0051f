"""Runs the peer's side: PyTorch at its best on this device."""

import functools
import importlib.util
from collections.abc import Callable
from typing import Any

import torch

from benchmarks import inputs, torch_network
from benchmarks.accelerator.worker import Job, serve
from benchmarks.serve import each

CUDA = torch.cuda.is_available()
DEVICE = torch.device('cuda' if CUDA else 'cpu')
CLASSES = 6
BLOCK = 2**28  # distances of a tile


def describe() -> Job:
  """Describes the device, and the software on it."""
  return None, {
    'versions': {
      'torch': torch.__version__,
      'cuda': torch.version.cuda,
      'cudnn': torch.backends.cudnn.version(),
      'pytorch_metric_learning': _has_metric_learning(),
    },
    'device': torch.cuda.get_device_name() if CUDA else 'cpu',
  }


def matmul(*, side: int, kind: str) -> Job:
  x = torch.from_numpy(inputs.square(side)).to(DEVICE)
  if kind == 'bfloat16':
    x = x.bfloat16()

  def call():
    torch.set_float32_matmul_precision('high' if kind == 'tf32' else 'highest')
    x @ x

  return blocking(call), {}


def copy(*, mebibytes: int) -> Job:
  source = torch.ones(mebibytes << 18, device=DEVICE)
  target = torch.zeros_like(source)
  return blocking(lambda: target.copy_(source)), {}


def step(
  *,
  fields: dict[str, Any],
  side: int,
  batch: int,
  objective: str,
  compiler: str,
) -> Job:
  """Trains as ours does, without metrics."""
  model, images = _model(fields, side, batch)
  labels = torch.from_numpy(inputs.labels(batch, CLASSES)).long().to(DEVICE)
  if objective == 'arcface':
    loss_of = torch_network.ArcFace(CLASSES, 128, 0.5, 64.0).to(DEVICE)
  else:
    loss_of = torch_network.Triplet(objective, 0.5)
  tx = torch.optim.Adam(
    [*model.parameters(), *loss_of.parameters()], lr=1.4e-3, fused=True
  )
  autocast = fields.get('dtype') == 'bfloat16'

  def forward(images, labels):
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast):
      embeddings = model(images.float() / 255 - 0.5)
    return loss_of(embeddings.float(), labels)

  forward = _compiled(forward, compiler)

  def call():
    tx.zero_grad(set_to_none=True)
    forward(images, labels).backward()
    tx.step()

  return _with_parameters(model, measured(call))


def embed(
  *, fields: dict[str, Any], side: int, batch: int, compiler: str
) -> Job:
  model, images = _model(fields, side, batch)
  model.eval()
  autocast = fields.get('dtype') == 'bfloat16'

  def forward(images):
    with torch.autocast(DEVICE.type, torch.bfloat16, enabled=autocast):
      return model(images.float() / 255 - 0.5).float()

  forward = _compiled(forward, compiler)

  @torch.inference_mode()
  def call():
    if fields.get('poses', 1) == 1:
      return forward(images)
    total = 0
    for turned in (images, images.transpose(2, 3)):
      for axes in ((), (2,), (3,), (2, 3)):
        # All in one layout, so that the network is compiled once.
        pose = turned.flip(axes).contiguous(memory_format=torch.channels_last)
        total = total + forward(pose)
    return torch.nn.functional.normalize(total)

  return _with_parameters(model, measured(call))


def mining(*, batch: int, dim: int, policy: str, compiler: str) -> Job:
  """Mines by pytorch-metric-learning if installed, else by plain PyTorch."""
  x = torch.from_numpy(inputs.embeddings(batch, dim, 10)).to(DEVICE)
  x.requires_grad_()
  labels = torch.from_numpy(inputs.labels(batch, 10)).long().to(DEVICE)
  facts: dict[str, Any] = {'note': 'peer: PyTorch, [B, B] in memory'}
  if _has_metric_learning():
    loss_of = torch_network.library_triplet(policy, 0.5)
    facts['note'] = 'peer: pytorch-metric-learning'
  else:
    loss_of = _compiled(torch_network.Triplet(policy, 0.5), compiler)

  def call():
    x.grad = None
    loss = loss_of(x, labels)
    loss.backward()
    return loss

  loss = float(call())
  # Without a semi-hard negative that library drops the anchor.
  if policy == 'hard+hard' or not _has_metric_learning():
    facts['checks'] = {'loss': loss}
  run, more = measured(call)
  return run, facts | more


def retrieve(*, rows: int, dim: int, classes: int) -> Job:
  x = torch.from_numpy(inputs.embeddings(rows, dim, classes))
  labels = torch.from_numpy(inputs.labels(rows, classes)).long()
  found: dict[str, float] = {}

  def call():
    of, on = labels.to(DEVICE), x.to(DEVICE)
    relevant = torch.bincount(of, minlength=classes)[of] - 1
    deepest = int(relevant.max())
    ranks = torch.arange(1, deepest + 1, device=DEVICE)
    sums = torch.zeros(3, dtype=torch.float64, device=DEVICE)
    for block, columns in _nearest(on, deepest):
      own = relevant[block][:, None]
      hits = (of[columns] == of[block][:, None]) & (ranks <= own)
      precision = hits.cumsum(1) / ranks
      use = own[:, 0] > 0
      scores = torch.stack(
        [
          (of[columns[:, 0]] == of[block]).double(),
          hits.sum(1) / own[:, 0].double(),
          (precision * hits).sum(1) / own[:, 0].double(),
        ]
      )
      sums += torch.where(use, scores, 0.0).sum(1)
    means = (sums / (relevant > 0).sum()).tolist()
    names = ('recall_at_1', 'r_precision', 'map_at_r')
    found.update(zip(names, means, strict=True))

  call()
  run, facts = measured(call)
  return run, facts | {'checks': found}


def neighbours(*, rows: int, dim: int, count: int) -> Job:
  x = torch.from_numpy(inputs.embeddings(rows, dim, max(2, rows // 100)))

  def call():
    parts = [columns.cpu() for _, columns in _nearest(x.to(DEVICE), count)]
    return torch.cat(parts)

  mean = float(call().double().mean() / rows)
  run, facts = measured(call)
  return run, facts | {'checks': {'mean_index': mean}}


def _nearest(x, count):
  """Yields (rows, their nearest others [Q, count]), by float32 products."""
  torch.set_float32_matmul_precision('highest')
  norms = x.square().sum(1)
  size = max(1, BLOCK // len(x))
  for start in range(0, len(x), size):
    block = torch.arange(start, min(start + size, len(x)), device=x.device)
    dists = torch.addmm(norms, x[block], x.T, alpha=-2)
    dists[block - start, block] = torch.inf
    yield block, dists.topk(count, largest=False).indices


def _model(fields, side, batch):
  """Makes the network and its images."""
  torch.manual_seed(0)
  network: dict[str, Callable[[int, int], torch.nn.Module]] = {
    'resnet10': functools.partial(torch_network.ResNet18, blocks=1),
    'resnet18': torch_network.ResNet18,
    'resnet50': torch_network.ResNet50,
  }
  model = network[fields['name']](fields['width'], 128)
  images = torch.from_numpy(inputs.images(batch, side)).permute(0, 3, 1, 2)
  layout = {'memory_format': torch.channels_last}
  return model.to(DEVICE, **layout), images.to(DEVICE, **layout)


def _with_parameters(model, job):
  """Adds the number of parameters, which shows if the network is ours."""
  run, facts = job
  count = sum(p.numel() for p in model.parameters())
  return run, facts | {'checks': {'parameters': count}}


def _compiled(function, compiler):
  if compiler == 'off':
    return function
  return torch.compile(function, mode=compiler)


def _has_metric_learning():
  return importlib.util.find_spec('pytorch_metric_learning') is not None


def blocking(call):
  """Makes `run(n)` of work that continues after it returns."""
  return each(call, lambda result: torch.cuda.synchronize() if CUDA else None)


def measured(call) -> Job:
  """Makes the job of a call, and measures its peak memory."""
  if not CUDA:
    return blocking(call), {}
  torch.cuda.reset_peak_memory_stats()
  run = blocking(call)
  run(1)
  return run, {'memory': torch.cuda.max_memory_allocated()}


def release() -> None:
  """Forgets compiled programs, and gives the device its memory back."""
  torch._dynamo.reset()
  if CUDA:
    torch.cuda.empty_cache()


JOBS = {
  job.__name__: job
  for job in (
    *(describe, matmul, copy, step, embed),
    *(mining, retrieve, neighbours),
  )
}

if __name__ == '__main__':
  torch.backends.cudnn.benchmark = True
  serve(JOBS, release)
