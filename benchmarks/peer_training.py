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
from pytorch_metric_learning import distances, losses, miners

from benchmarks.serve import channel, cores
from benchmarks.torch_network import ResNet18

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
    """Standardises a batch by the train images, float32 [B, C, H, W]."""
    pixels = torch.from_numpy(self._images[rows]).permute(0, 3, 1, 2)
    x = (pixels.float() / 255 - self._mean) / self._std
    return x.contiguous(memory_format=torch.channels_last)


def posed(x: torch.Tensor) -> torch.Tensor:
  """Puts each image into one of the square's eight poses: flips, turns."""
  across, down, turned = torch.rand(3, len(x), 1, 1, 1) < 0.5
  x = torch.where(across, x.flip(3), x)
  x = torch.where(down, x.flip(2), x)
  return torch.where(turned, x.rot90(1, (2, 3)), x)


def objective(
  config: dict[str, Any], num_classes: int
) -> tuple[Callable, list[torch.nn.Parameter]]:
  """Makes a config's `loss(epoch, embeddings, labels)`, and its parameters."""
  fields = config['objective']
  if fields['name'] == 'triplet':
    distance = distances.LpDistance(power=2)
    loss = losses.TripletMarginLoss(margin=fields['margin'], distance=distance)
    mine = {
      first: miners.BatchEasyHardMiner(
        pos_strategy=positive, neg_strategy=negative, distance=distance
      )
      for first, positive, negative in config['curriculum']
    }

    def mined(epoch, embeddings, labels):
      miner = mine[max(first for first in mine if first <= epoch)]
      return loss(embeddings, labels, miner(embeddings, labels))

    return mined, []
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
def embedded(model: ResNet18, images: Images, split: str) -> np.ndarray:
  """Embeds the images of a split, float32 [N, D]."""
  model.eval()
  rows = images.rows(split)
  starts = range(0, len(rows), EMBED_BATCH)
  parts = [model(images.batch(rows[i : i + EMBED_BATCH])) for i in starts]
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
  rows, size = images.rows('train'), config['batch']['size']
  views, steps = config['batch']['views'], len(rows) // size
  cosine = config['optimizer']['schedule'] == 'cosine'
  fall = torch.optim.lr_scheduler.CosineAnnealingLR(
    tx, config['epochs'] * steps, eta_min=0.0
  )
  rng = np.random.default_rng(config['seed'])
  for epoch in range(config['epochs']):
    model.train()
    found = []
    order = rng.permutation(rows)[: steps * size].reshape(-1, size)
    for chosen in np.tile(order, views):
      tx.zero_grad(set_to_none=True)
      embeddings = model(posed(images.batch(chosen)))
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
  write = lambda split: np.save(
    work / f'{split}.npy', embedded(model, images, split)
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
