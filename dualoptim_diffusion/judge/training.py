"""Training the judge on real images and on images of nothing, and measuring it on real ones it has not seen."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from dualoptim_diffusion.core.errors import NonFiniteError
from dualoptim_diffusion.core.schedules import one_cycle
from dualoptim_diffusion.core.terminal import progress
from dualoptim_diffusion.core.training_config import ClassifierRecipe, ClassifierTrainingConfig
from dualoptim_diffusion.data import ImageSet, images_of_nothing
from dualoptim_diffusion.diffusion.randomness import derive_seed, epoch_indices, generator
from dualoptim_diffusion.judge.classifier import Classifier, new_classifier

LABEL_SMOOTHING = 0.1  # of the training targets
TURNS = {0: "upright", 1: "turned left", 2: "upside down", 3: "turned right"}  # the classes of the task `rotations`


def train_classifier(
    recipe: ClassifierRecipe, train_set: ImageSet, held_out: ImageSet, device: torch.device | str
) -> Classifier:
    """Trains a timm network on real images, and on images of nothing if asked; measures it on held-out real images.

    Raises:
        InputError: if the network cannot be had or does not take the images.
        NonFiniteError: if its loss stops being a finite number.
    """
    settings, seed = recipe.training, recipe.run.seed
    torch.manual_seed(derive_seed(seed, "classifier-init"))
    turning, with_none = settings.task == "rotations", settings.none_share > 0
    classes, channels = TURNS if turning else train_set.id2label, train_set.images.shape[1]
    classifier = new_classifier(recipe.classifier, classes, channels, settings.num_steps, with_none, settings.task)
    if settings.num_steps == 0:
        return with_accuracy(classifier, held_out)
    network = classifier.network.to(device).train()
    optimizer = torch.optim.AdamW(network.parameters(), lr=settings.lr, weight_decay=settings.weight_decay)
    num_nothing = round(settings.none_share * recipe.data.batch_size)
    bar = progress(range(settings.num_steps), desc="training the classifier")
    for step in bar:
        indices = epoch_indices(seed, "classifier", step, recipe.data.batch_size, len(train_set))
        images, labels = train_set.images[indices], train_set.class_labels[indices]
        randomness = generator(seed, "classifier-augmentation", step)
        if num_nothing:
            images = torch.cat([images, images_of_nothing(train_set.images, num_nothing, randomness)])
            labels = torch.cat([labels, labels.new_full((num_nothing,), len(train_set.id2label))])
        inputs = classifier.preprocess(images.to(device))
        if turning:
            inputs, labels = turned(inputs, randomness)
        inputs = _augment(inputs, settings, randomness)
        torch.manual_seed(derive_seed(seed, "classifier-dropout", step))
        for group in optimizer.param_groups:
            group["lr"] = settings.lr * one_cycle(step, settings.num_steps)
        optimizer.zero_grad()
        loss = nn.functional.cross_entropy(network(inputs), labels.to(device), label_smoothing=LABEL_SMOOTHING)
        if not loss.isfinite():
            raise NonFiniteError(f"At step {step + 1} the classifier's loss is {loss.item()}; lower training.lr.")
        loss.backward()
        optimizer.step()
        bar.set_postfix({"loss": f"{loss.item():.3g}"}, refresh=False)
    return with_accuracy(classifier, held_out)


def turned(images: Tensor, randomness: torch.Generator) -> tuple[Tensor, Tensor]:
    """Images [B, C, S, S] each turned by a random number of right angles, and these numbers [B] (Gidaris et al., 2018).

    To tell them a network must know shapes, but it is never asked which class an image is of.
    """
    turns = torch.randint(len(TURNS), (len(images),), generator=randomness)
    return torch.stack([image.rot90(k, (1, 2)) for image, k in zip(images, turns.tolist(), strict=True)]), turns


def _augment(inputs: Tensor, settings: ClassifierTrainingConfig, randomness: torch.Generator) -> Tensor:
    """Flips, shifts the batch, scales contrast and adds noise: a judge must not hang on exact grey levels."""
    if settings.horizontal_flip:
        flips = torch.rand(len(inputs), generator=randomness) < 0.5
        inputs = torch.where(flips.view(-1, 1, 1, 1).to(inputs.device), inputs.flip(-1), inputs)
    limit = settings.max_shift
    down, right = torch.randint(-limit, limit + 1, (2,), generator=randomness).tolist()
    inputs = torch.roll(inputs, (down, right), dims=(2, 3))
    if settings.noise == 0:
        return inputs
    one_each = (len(inputs), 1, 1, 1)
    contrast = (1 + settings.noise * torch.randn(one_each, generator=randomness)).clamp(0.5, 2)
    strength = settings.noise * torch.rand(one_each, generator=randomness)
    noise = strength * torch.randn(inputs.shape, generator=randomness)
    return inputs * contrast.to(inputs.device) + noise.to(inputs.device)


def with_accuracy(classifier: Classifier, held_out: ImageSet) -> Classifier:
    """The same classifier with its accuracy on real held-out images of each of its task's classes written down."""
    if not len(held_out):  # classes of one or two images leave none over
        return classifier
    if classifier.info.task == "rotations":
        answers = [(classifier(part.rot90(k, (2, 3)))[1].argmax(1), k) for part in held_out.batches() for k in TURNS]
        predicted = torch.cat([part for part, _ in answers])
        truth = torch.cat([torch.full_like(part, k) for part, k in answers])
        names = TURNS
    else:
        predicted = torch.cat([classifier(part)[1].argmax(1) for part in held_out.batches()])
        truth, names = held_out.class_labels, held_out.id2label
    ids = {name: i for i, name in classifier.info.id2label.items()}
    accuracy, n_held_out = {}, {}
    for class_id, name in names.items():
        members = truth == class_id
        if members.any():
            accuracy[name] = (predicted[members] == ids[name]).double().mean().item()
            n_held_out[name] = int(members.sum())
    return Classifier(classifier.network, replace(classifier.info, accuracy=accuracy, n_held_out=n_held_out))
