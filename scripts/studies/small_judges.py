"""Judges of small photographs, meant to be trained in less than a minute of one GPU. All images stay on the device, and
so do crops and flips. The networks are timm's without their first two halvings of the side, because a 32 px image has
nothing to spare; `Classifier.load` cannot rebuild them from timm's name, `untrained` here can.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from dualoptim_diffusion.core.errors import InputError, NonFiniteError, nearest
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import derive_seed, generator
from dualoptim_diffusion.judge.classifier import HALF, Classifier, ClassifierInfo
from dualoptim_diffusion.judge.timm_models import timm_model
from dualoptim_diffusion.judge.training import LABEL_SMOOTHING, with_accuracy

MAX_LR, USUAL_BATCH = 0.4, 512  # the largest rate of a batch of so many; it grows in proportion to the batch
MOMENTUM, WEIGHT_DECAY = 0.9, 5e-4
WARMUP = 0.2  # share of the steps spent rising
PADDING = 4  # pixels that a crop may be off the centre
BAR_EVERY = 20  # steps between two updates of the progress bar


def untrained(architecture: str, id2label: dict[int, str], in_channels: int, side: int) -> Classifier:
    """A judge of images [in_channels, side, side] with fresh weights from torch's global generator.

    Args:
        architecture: `resnet18` or `dla34`; both have 512 penultimate features.

    Raises:
        InputError: if it is neither.
    """
    if architecture not in CHANGES:
        raise InputError(f"There is no small judge {architecture!r}: {nearest(architecture, CHANGES)}")
    network = timm_model(architecture, num_classes=len(id2label), in_chans=in_channels)
    CHANGES[architecture](network)
    return Classifier(network, ClassifierInfo(architecture, side, in_channels, dict(id2label)))


def _keep_size_resnet(network: Any) -> None:
    """A 3x3 stem of stride 1 and no pooling after it: the last map has an eighth of the side, not a 32nd."""
    network.conv1 = _stem(network.conv1)
    network.maxpool = nn.Identity()


def _keep_size_dla(network: Any) -> None:
    """The same for dla34; its head, a 1x1 convolution, becomes the linear layer that it is."""
    network.base_layer[0] = _stem(network.base_layer[0])
    network.level1[0].stride = network.level2.tree1.conv1.stride = (1, 1)
    network.level2.downsample = nn.Identity()
    network.global_pool = nn.Sequential(network.global_pool, nn.Flatten(1))
    network.fc = nn.Linear(network.fc.in_channels, network.fc.out_channels)


def _stem(old: nn.Conv2d) -> nn.Conv2d:
    """A 3x3 convolution of stride 1 between as many channels."""
    new = nn.Conv2d(old.in_channels, old.out_channels, 3, padding=1, bias=False)
    nn.init.kaiming_normal_(new.weight, mode="fan_out", nonlinearity="relu")
    return new


CHANGES: dict[str, Callable[[Any], None]] = {"resnet18": _keep_size_resnet, "dla34": _keep_size_dla}


def train_judge(
    architecture: str,
    train: ImageSet,
    held_out: ImageSet,
    *,
    seed: int,
    epochs: int,
    device: torch.device | str,
    batch_size: int = USUAL_BATCH,
) -> Classifier:
    """A judge of the training set's classes, with its accuracy on held-out images of each class written down.

    On a GPU its passes are in bfloat16, its weights in float32, and it is measured in full float32. Every draw follows
    from the seed; the weights are bit-equal between two runs on a CPU, and on a GPU only as far as its kernels are.

    Args:
        architecture: `resnet18` or `dla34`.
        train: uint8 images [N, C, S, S]; the last images of an epoch's order that fill no batch are left out of it.
        epochs: at least 1; 15 to 20 are meant for 50,000 images.

    Raises:
        InputError: if there is no such architecture.
        NonFiniteError: if the loss of an epoch is not a finite number.
    """
    device = torch.device(device)
    torch.manual_seed(derive_seed(seed, "small-judge-init", architecture))
    channels, side = train.images.shape[1], train.images.shape[-1]
    classifier = untrained(architecture, train.id2label, channels, side)
    network = classifier.network.to(device).to(memory_format=torch.channels_last).train()
    images, labels = torch.cat(list(train.batches())).to(device), train.class_labels.to(device)
    batch_size = min(batch_size, len(train))
    per_epoch = len(train) // batch_size
    optimizer = _optimizer(network)
    max_lr = MAX_LR * batch_size / USUAL_BATCH
    with _fast_convolutions(), tqdm(total=epochs * per_epoch, desc=f"training {architecture}") as bar:
        for epoch in range(epochs):
            order, offsets, flips = (part.to(device) for part in _draws(seed, epoch, len(train)))
            total = torch.zeros((), device=device)
            for step in range(per_epoch):
                members = slice(step * batch_size, (step + 1) * batch_size)
                chosen = order[members]
                inputs = _normalised(_cropped(images, chosen, offsets[:, members], flips[members]))
                for group in optimizer.param_groups:
                    group["lr"] = max_lr * _factor(epoch * per_epoch + step, epochs * per_epoch)
                total += _step(network, optimizer, inputs, labels[chosen])
                if (step + 1) % BAR_EVERY == 0:
                    bar.update(BAR_EVERY)
            bar.update(per_epoch % BAR_EVERY)
            if not (mean := total.item() / per_epoch) < float("inf"):
                raise NonFiniteError(f"In epoch {epoch + 1} the mean loss of {architecture} is {mean}; lower MAX_LR.")
            bar.set_postfix({"loss": f"{mean:.3g}"}, refresh=False)
    network.to(memory_format=torch.contiguous_format)
    with _full_float32():
        return with_accuracy(Classifier(network, classifier.info), held_out)


def _draws(seed: int, epoch: int, n: int) -> tuple[Tensor, Tensor, Tensor]:
    """An epoch's order [n] of images, and for its places the crops' offsets [2, n] and flips [n]; the same anywhere."""
    source = generator(seed, "small-judge", epoch)
    order = torch.randperm(n, generator=source)
    offsets = torch.randint(-PADDING, PADDING + 1, (2, n), generator=source)
    return order, offsets, torch.rand(n, generator=source) < 0.5


def _cropped(images: Tensor, chosen: Tensor, offsets: Tensor, flips: Tensor) -> Tensor:
    """Those images, uint8 [B, C, S, S], each moved by its own offset (down, right) and mirrored or not.

    Pixels from beyond an edge are the image's own, reflected at it.

    Args:
        images: uint8 [N, C, S, S].
        chosen: [B].
        offsets: [2, B] in pixels, less than S.
        flips: bool [B].
    """
    side = images.shape[-1]
    places = torch.arange(side, device=images.device)
    columns = torch.where(flips[:, None], side - 1 - places, places) + offsets[1, :, None]
    rows, columns = (_reflected(part, side) for part in (places + offsets[0, :, None], columns))
    channels = torch.arange(images.shape[1], device=images.device)
    return images[chosen[:, None, None, None], channels[:, None, None], rows[:, None, :, None], columns[:, None, None]]


def _reflected(places: Tensor, side: int) -> Tensor:
    """Indices within 0..side-1 for places up to one side beyond either edge; an edge pixel is not repeated."""
    last = side - 1
    return last - (last - places.abs()).abs()


def _normalised(images: Tensor) -> Tensor:
    """As `Classifier.preprocess` does with a mean and a deviation of one half, without a copy from the host."""
    scaled = (images.float() / 255 - HALF[0]) / HALF[0]
    return scaled.contiguous(memory_format=torch.channels_last)


def _step(network: nn.Module, optimizer: torch.optim.Optimizer, inputs: Tensor, labels: Tensor) -> Tensor:
    """One update; returns its loss, which is not read here."""
    with torch.autocast(inputs.device.type, torch.bfloat16, enabled=inputs.device.type == "cuda"):
        loss = nn.functional.cross_entropy(network(inputs), labels, label_smoothing=LABEL_SMOOTHING)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.detach()


def _optimizer(network: nn.Module) -> torch.optim.SGD:
    """SGD with Nesterov's momentum, and decay of weights but not of biases and norms."""
    every = list(network.parameters())
    groups = [
        {"params": [p for p in every if p.ndim > 1], "weight_decay": WEIGHT_DECAY},
        {"params": [p for p in every if p.ndim <= 1], "weight_decay": 0.0},
    ]
    return torch.optim.SGD(groups, lr=MAX_LR, momentum=MOMENTUM, nesterov=True)


def _factor(step: int, num_steps: int) -> float:
    """Of the largest rate, in (0, 1]: a straight line up to it, then a straight line towards zero."""
    position, peak = step + 1, max(1, round(WARMUP * num_steps))
    return position / peak if position <= peak else (num_steps + 1 - position) / (num_steps + 1 - peak)


@contextmanager
def _fast_convolutions() -> Iterator[None]:
    """cuDNN tries its algorithms for every shape once and keeps the fastest."""
    before = torch.backends.cudnn.benchmark
    torch.backends.cudnn.benchmark = True
    try:
        yield
    finally:
        torch.backends.cudnn.benchmark = before


@contextmanager
def _full_float32() -> Iterator[None]:
    """TensorFloat-32 off."""
    before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before
