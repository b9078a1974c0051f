"""Trains the peer: PyTorch and pytorch-metric-learning, as users do.

It is given one JSON object (see contestants.peer), says its loss and seconds
after every epoch, when val.npy holds the embeddings of validation, and is
told to 'keep' these weights or to 'go on'; on 'end' it embeds test and unseen
with the weights that it kept.
"""

import copy
import json
import math
import pathlib
import sys
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from pytorch_metric_learning import distances, losses, miners, samplers
from pytorch_metric_learning.utils import common_functions
from torch.nn import functional
from torch.utils.data import WeightedRandomSampler

from benchmarks.serve import channel, cores
from benchmarks.torch_network import ResNet18
from plankton_jax.train.sampling import SAMPLING

EMBED_BATCH = 256


class Images:
  """The pixels of all rows, and their labels, as our cache has them."""

  def __init__(self, spec: dict[str, Any]):
    self._work = pathlib.Path(spec['work'])
    self._images = np.load(spec['images'], mmap_mode='r')  # [N, H, W, C]
    self.labels = torch.from_numpy(np.load(self._work / 'labels.npy')).long()
    train = self._images[self.rows('train')] / np.float32(255)
    self._mean, self._std = train.mean(), train.std()

  def rows(self, split: str) -> np.ndarray:
    """Reads which rows are in a split."""
    return np.load(self._work / f'{split}_rows.npy')

  def batch(self, rows: np.ndarray) -> torch.Tensor:
    """Reads a batch, float32 [B, C, H, W], 1 for white and 0 for black."""
    return torch.from_numpy(self._images[rows]).permute(0, 3, 1, 2) / 255

  def standardised(self, x: torch.Tensor) -> torch.Tensor:
    """Standardises a batch by the train images."""
    x = (x - self._mean) / self._std
    return x.contiguous(memory_format=torch.channels_last)


def posed(x: torch.Tensor) -> torch.Tensor:
  """Puts each image into one of the square's eight poses: flips, turns."""
  across, down, turned = torch.rand(3, len(x), 1, 1, 1) < 0.5
  x = torch.where(across, x.flip(3), x)
  x = torch.where(down, x.flip(2), x)
  return torch.where(turned, x.rot90(1, (2, 3)), x)


def augmented(x: torch.Tensor, fields: dict[str, Any]) -> torch.Tensor:
  """Augments images on white, [B, C, H, W], by the fields of our `augment`."""
  x = posed(x) - 1  # the ink: what comes in from outside is white, as 0
  draw = lambda field: fields[field] * (2 * torch.rand(len(x), 1, 1) - 1)
  if fields['rotate'] or fields['scale'] or fields['translate']:
    angle, zoom = torch.deg2rad(draw('rotate')), _factor(draw('scale'))
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    turn = torch.cat([torch.cat([cos, -sin], 2), torch.cat([sin, cos], 2)], 1)
    shift = torch.cat([draw('translate'), draw('translate')], 1)
    # The image's sides are from -1 to 1.
    theta = torch.cat([turn, 2 * turn @ shift], 2)
    grid = functional.affine_grid(theta, x.shape, align_corners=False)
    x = functional.grid_sample(x, grid, align_corners=False)
  x = x * _factor(draw('contrast'))[..., None] + draw('brightness')[..., None]
  return x + 1


def _factor(change: torch.Tensor) -> torch.Tensor:
  """Maps c >= 0 to 1 + c and c < 0 to 1 / (1 - c), as ours does."""
  return torch.where(change >= 0, 1 + change, 1 / (1 - change))


def poses(x: torch.Tensor) -> list[torch.Tensor]:
  """Lists the eight poses of images [B, C, S, S]."""
  turned = [x.rot90(k, (2, 3)) for k in range(4)]
  return [*turned, *(pose.flip(3) for pose in turned)]


def orders(
  fields: dict[str, Any], labels: torch.Tensor, seed: int
) -> Iterator[np.ndarray]:
  """Draws an epoch's batches of rows of `labels`, [steps, B], without end.

  Args:
    fields: the config's `batch`.
    labels: of the training images.
    seed: of every draw.
  """
  size = fields['size']
  steps = len(labels) // size
  rng = np.random.default_rng(seed)
  if fields['classes']:
    common_functions.NUMPY_RANDOM = rng
    draw = samplers.MPerClassSampler(
      labels, size // fields['classes'], size, steps * size
    )
  elif fields['sampling'] != 'images':
    counts = torch.bincount(labels)[labels].double()
    draw = WeightedRandomSampler(
      counts ** (SAMPLING[fields['sampling']] - 1), steps * size
    )
  else:
    draw = None
  while True:
    rows = rng.permutation(len(labels)) if draw is None else np.array([*draw])
    yield rows[: steps * size].reshape(-1, size)


def objective(
  config: dict[str, Any], num_classes: int
) -> tuple[Callable, list[torch.nn.Parameter]]:
  """Makes a config's `loss(epoch, embeddings, labels)`, and its parameters."""
  fields = config['objective']
  if fields['name'] == 'triplet':
    distance = distances.LpDistance(power=2)
    loss = losses.TripletMarginLoss(margin=fields['margin'], distance=distance)
    if fields['select'] == 'all':
      miner = miners.TripletMarginMiner(
        fields['margin'], 'semihard', distance=distance
      )
      return lambda epoch, x, labels: loss(x, labels, miner(x, labels)), []
    mine = {
      first: miners.BatchEasyHardMiner(
        pos_strategy=positive, neg_strategy=negative, distance=distance
      )
      for first, positive, negative in config['curriculum']
    }

    def mined(epoch, embeddings, labels):
      begun = max(first for first in mine if first <= epoch)
      return loss(embeddings, labels, mine[begun](embeddings, labels))

    return mined, []
  if fields['name'] == 'supcon':
    pairs = losses.SupConLoss(fields['temperature'])
    return lambda epoch, x, labels: pairs(x, labels), []
  if fields['name'] == 'multi_similarity':
    pairs = losses.MultiSimilarityLoss(
      fields['alpha'], fields['beta'], fields['base']
    )
    miner = miners.MultiSimilarityMiner(fields['epsilon'])
    return lambda epoch, x, labels: pairs(x, labels, miner(x, labels)), []
  make = {
    'arcface': lambda **shape: losses.ArcFaceLoss(
      margin=math.degrees(fields['margin']), scale=fields['scale'], **shape
    ),
    'softmax': lambda **shape: losses.NormalizedSoftmaxLoss(
      temperature=1 / fields['scale'], **shape
    ),
  }[fields['name']]
  proxies = make(
    num_classes=num_classes, embedding_size=config['encoder']['embedding_dim']
  )
  whole = lambda epoch, embeddings, labels: proxies(embeddings, labels)
  return whole, list(proxies.parameters())


@torch.inference_mode()
def embedded(
  model: ResNet18, images: Images, split: str, *, averaged: bool
) -> np.ndarray:
  """Embeds the images of a split, or their eight poses, float32 [N, D]."""
  model.eval()
  rows, parts = images.rows(split), []
  for i in range(0, len(rows), EMBED_BATCH):
    x = images.standardised(images.batch(rows[i : i + EMBED_BATCH]))
    views = [model(pose) for pose in (poses(x) if averaged else [x])]
    parts.append(functional.normalize(torch.stack(views).mean(0)))
  return torch.cat(parts).numpy()


def epochs(
  config: dict[str, Any], images: Images, model: ResNet18, num_classes: int
) -> Iterator[float]:
  """Trains; yields each epoch's mean loss, and ends where it is not finite."""
  loss_of, own = objective(config, num_classes)
  tx = torch.optim.AdamW(  # without weight decay it is Adam
    [*model.parameters(), *own],
    lr=config['optimizer']['learning_rate'],
    weight_decay=config['optimizer']['weight_decay'],
    fused=True,
  )
  rows, views = images.rows('train'), config['batch']['views']
  drawn = orders(config['batch'], images.labels[rows], config['seed'])
  steps = len(rows) // config['batch']['size']
  cosine = config['optimizer']['schedule'] == 'cosine'
  fall = torch.optim.lr_scheduler.CosineAnnealingLR(
    tx, config['epochs'] * steps, eta_min=0.0
  )
  for epoch, order in zip(range(config['epochs']), drawn, strict=False):
    model.train()
    found = []
    for chosen in np.tile(rows[order], views):
      tx.zero_grad(set_to_none=True)
      x = augmented(images.batch(chosen), config['augment'])
      embeddings = model(images.standardised(x))
      loss = loss_of(epoch, embeddings, images.labels[chosen])
      found.append(loss.item())
      if not math.isfinite(found[-1]):
        break
      loss.backward()
      tx.step()
      if cosine:
        fall.step()
    yield float(np.mean(found))


def main() -> None:
  """Trains as the command line's JSON says, and answers what it is told."""
  spec = json.loads(sys.argv[1])
  answer = channel()
  config, work = spec['config'], pathlib.Path(spec['work'])
  torch.set_num_threads(cores())
  torch.manual_seed(config['seed'])
  images = Images(spec)
  model = ResNet18(
    config['encoder']['width'],
    config['encoder']['embedding_dim'],
    channels=config['data']['channels'],
    centred=config['encoder']['centred'],
  ).to(memory_format=torch.channels_last)
  averaged = config['encoder']['poses'] == 8
  write = lambda split: np.save(
    work / f'{split}.npy', embedded(model, images, split, averaged=averaged)
  )
  listen = lambda: sys.stdin.readline().strip()  # '' when nobody is there
  kept = None
  began = time.perf_counter()
  for loss in epochs(config, images, model, spec['num_classes']):
    write('val')
    answer({'loss': loss, 'seconds': time.perf_counter() - began})
    said = listen()
    if said == 'keep':
      kept = copy.deepcopy(model.state_dict())
    elif said != 'go on':
      break
    began = time.perf_counter()
  else:
    said = listen()
  if said == 'end':
    model.load_state_dict(kept)
    for split in ('test', 'unseen'):
      write(split)
    answer('done')


if __name__ == '__main__':
  main()
