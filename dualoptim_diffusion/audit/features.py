"""Features: what the middle of the network computes of real images: a linear probe for the class, and likeness."""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from dualoptim_diffusion.audit.context import AuditContext, AuditedModel, Cost, Probe, Trial
from dualoptim_diffusion.core.rates import rate
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.diffusion.randomness import generator
from dualoptim_diffusion.models import DenoisingModel


def linear_probe(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Tells the class from retained ones on held-out images, after fitting on training images.

    Returns:
        `AUC`, area under the ROC curve, 0.5 for a guess; `found` and `false_alarms`, rates of held-out images of the
        class and of retained classes that the probe calls the class; `width`, how many features it reads.
    """
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import roc_auc_score
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    kinds = (True, False)  # of a forgotten class?
    fit = [context.real(context.train, kind) for kind in kinds]
    test = [context.real(context.held_out, kind) for kind in kinds]
    if not all(map(len, test)):  # nothing held out: the probe is fitted on every second image and tested on the others
        test = [images.at(torch.arange(1, len(images), 2)) for images in fit]
        fit = [images.at(torch.arange(0, len(images), 2)) for images in fit]
    (x, y), (x_test, y_test) = (_table(context, audited.model, *sets) for sets in (fit, test))
    probe = make_pipeline(StandardScaler(), LogisticRegression(class_weight="balanced", max_iter=2000))
    probe.fit(x, y)
    called = probe.predict(x_test)
    return {
        "AUC": float(roc_auc_score(y_test, probe.decision_function(x_test))),
        "found": rate(int(called[y_test].sum()), int(y_test.sum())),
        "false_alarms": rate(int(called[~y_test].sum()), int((~y_test).sum())),
        "width": x.shape[1],
    }


def likeness(context: AuditContext, audited: AuditedModel) -> dict[str, Any]:
    """Linear CKA with the controls, mean over them, of features of real images of the class and of retained classes.

    Returns:
        `forgotten` and `retained`, in [0, 1], 1 where features are equal up to rotation and scale; a control is
        compared with the others. None where there is nothing to compare with.
    """
    others = [control for control in context.controls if control.sha256 != audited.sha256]
    found: dict[str, Any] = {}
    for name, forgotten in (("forgotten", True), ("retained", False)):
        images = context.real(context.train, forgotten)
        own = middle_features(context, audited.model, images)
        values = [linear_cka(own, middle_features(context, other.model, images)) for other in others]
        found[name] = sum(values) / len(values) if values else None
    return found


def linear_cka(x: Tensor, y: Tensor) -> float:
    """Of features [N, C] and [N, D] of the same images (Kornblith et al., 2019, eq. 5), in [0, 1]."""
    x, y = ((part.double() - part.double().mean(0)).nan_to_num(0.0, 0.0, 0.0) for part in (x, y))
    lengths = (x.T @ x).norm() * (y.T @ y).norm()
    return min(1.0, ((x.T @ y).square().sum() / lengths).item()) if lengths > 0 else 0.0  # rounding may exceed 1


def _table(
    context: AuditContext, model: DenoisingModel, forgotten: ImageSet, retained: ImageSet
) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
    """Features [N, C] and whether each image is of a forgotten class [N]."""
    features = torch.cat([middle_features(context, model, forgotten), middle_features(context, model, retained)])
    return features.double().nan_to_num(0.0, 0.0, 0.0).numpy(), np.arange(len(features)) < len(forgotten)


@torch.no_grad()
def middle_features(context: AuditContext, model: DenoisingModel, images: ImageSet) -> Tensor:
    """[N, C]: mean over the picture of the middle block's output, under a little noise, without telling the label.

    A model without a null class is given its first label for all.
    """
    model.network.eval()
    t, label = context.budget.feature_timestep, 0 if model.null_class is None else model.null_class
    found: list[Tensor] = []

    def hook(_module: object, _inputs: object, output: Tensor) -> None:
        found.append((output.flatten(2).mean(2) if output.dim() == 4 else output.mean(1)).float().cpu())

    handle = model.middle.register_forward_hook(hook)
    try:
        for first, x_0, _ in context.parts(model, images):
            noise = torch.randn(x_0.shape, generator=generator(context.budget.seed, "features", first)).to(x_0)
            timesteps = torch.full((len(x_0),), t, device=context.device)
            x_t = model.add_noise(x_0, noise, timesteps)
            model.noise_pred(x_t, timesteps, torch.full_like(timesteps, label))
    finally:
        handle.remove()
    return torch.cat(found)


def trials(context: AuditContext) -> list[Trial]:
    settings = ("seed", "real_images", "feature_timestep")
    n = 2 * context.budget.real_images  # of the class and of others
    found = [Trial("linear probe", linear_probe, settings, cost=Cost(2 * n))]
    if context.controls:
        shas = "at most 1 " + "".join(sorted(control.sha256 for control in context.controls))
        cost = Cost(n * (1 + len(context.controls)))
        found.append(Trial("likeness", likeness, settings, made_from=shas, cost=cost))
    return found


PROBE = Probe(
    question="Can the class be read from the features, without its label, and are they those of a retrained model?",
    source="Alain and Bengio, Understanding intermediate layers using linear classifier probes, 2016; on denoisers: "
    "Xiang et al., Denoising diffusion autoencoders are unified self-supervised learners, ICCV 2023; likeness: "
    "Kornblith et al., Similarity of neural network representations revisited, ICML 2019",
    trials=trials,
    with_random=True,
)
