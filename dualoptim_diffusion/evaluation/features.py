"""Feature extractors: uint8 images -> features and logits, under a name that says what a distance on them is."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from dualoptim_diffusion.core.errors import InputError, reason
from dualoptim_diffusion.core.hashes import file_sha256
from dualoptim_diffusion.files.weight_files import read_weights
from dualoptim_diffusion.judge.classifier import Classifier, timm_network

DINOV2, DINOV2_SIDE = "vit_large_patch14_dinov2.lvd142m", 224  # timm's port; pixels a side as in the paper
INCEPTION = "weights-inception-2015-12-05-6726825d.pth"  # torch-fidelity's port of the TensorFlow network behind FID
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION}"
INCEPTION_MARKS = ("Conv2d_1a_3x3.conv.weight", "fc.weight")  # names of its first and of its last tensor
INCEPTION_SHA256_PREFIX = "6726825d"


@dataclass(frozen=True)
class Extractor:
    """Where features come from.

    Attributes:
        name: of the Frechet distance on them: `FID` for the standard Inception alone, else `FD[...]`.
        sha256: hash of the weights.
        resize: how images reach the network's input size.
        edit: what is done to the pixels before that.
        extract: uint8 images [N, C, H, W] -> features [N, D] and logits [N, K], float32 on the CPU.
    """

    name: str
    sha256: str
    resize: str
    extract: Callable[[Tensor], tuple[Tensor, Tensor]]
    edit: str = "none"

    @property
    def label(self) -> str:
        """The part in brackets: what other metrics on these features are marked with."""
        return "Inception" if self.name == "FID" else self.name.removeprefix("FD[").removesuffix("]")


def classifier_features(classifier: Classifier, name: str = "classifier") -> Extractor:
    """The classifier's penultimate features."""
    side = classifier.info.image_size
    return Extractor(f"FD[{name}]", classifier.sha256, f"bilinear, antialiased, to {side} px", classifier)


def timm_features(name: str, weights: str | Path | None, device: torch.device | str = "cpu") -> Extractor:
    """Penultimate features of any timm model: its published weights, or those in a file.

    `dinov2` is the network of Stein et al. (Exposing flaws of generative model evaluation metrics, NeurIPS 2023).

    Raises:
        InputError: if timm has no such model, or its weights cannot be had.
    """
    classifier = timm_network(DINOV2, weights, DINOV2_SIDE) if name == "dinov2" else timm_network(name, weights)
    classifier.network.to(device)
    return classifier_features(classifier, name)


def inception_features(
    weights: str | Path | None, device: torch.device | str = "cpu", batch_size: int = 64
) -> Extractor:
    """Pool features [N, 2048] and unbiased logits of FID's Inception-v3, as torch-fidelity builds it.

    Args:
        weights: torch-fidelity's weight file; None downloads it once into torch's hub folder.

    Raises:
        InputError: if it cannot be had, or holds something else.
    """
    from torch_fidelity.utils import create_feature_extractor

    path = Path(weights) if weights is not None else _download_inception()
    state, digest = read_weights(path, INCEPTION_MARKS), file_sha256(path)
    with TemporaryDirectory() as folder:
        plain = Path(folder) / INCEPTION  # torch-fidelity would run code in a file: it gets plain tensors
        torch.save(state, plain)
        try:
            network = create_feature_extractor(
                "inception-v3-compat", ["2048", "logits_unbiased"],
                feature_extractor_weights_path=str(plain), cuda=False, verbose=False,
            ).to(device)  # fmt: skip
        except RuntimeError as error:
            raise InputError(
                f"{path} does not hold the weights of FID's Inception ({reason(error, 300)}); give torch-fidelity's "
                f"{INCEPTION}."
            ) from None

    @torch.no_grad()
    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        parts = []
        for batch in images.split(batch_size):
            rgb = batch.expand(-1, 3, -1, -1) if batch.shape[1] == 1 else batch
            with _exact_matmul():
                parts.append([part.cpu() for part in network(rgb.to(device))])
        features, logits = (torch.cat(column) for column in zip(*parts, strict=True))
        return features, logits

    name = "FID" if digest.startswith(INCEPTION_SHA256_PREFIX) else f"FD[inception-v3 {digest[:8]}]"
    return Extractor(name, digest, "bilinear as in TensorFlow 1, to 299 px", extract)


def _download_inception() -> Path:
    path = Path(torch.hub.get_dir()) / "checkpoints" / INCEPTION
    if not path.is_file():
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            torch.hub.download_url_to_file(INCEPTION_URL, str(path), INCEPTION_SHA256_PREFIX)
        except (OSError, RuntimeError) as error:
            raise InputError(
                f"FID needs Inception weights, and {INCEPTION_URL} cannot be reached ({error}). Give the file with "
                "--inception-weights, or measure on other features with evaluation.features=classifier."
            ) from None
    return path


def with_full_contrast_bgr(extractor: Extractor) -> Extractor:
    """The same features after what published CIFAR-10 figures did to images: each stretched to 0..255, read as BGR."""

    def extract(images: Tensor) -> tuple[Tensor, Tensor]:
        pixels = images.float()
        low, high = (edge.view(-1, 1, 1, 1) for edge in (pixels.flatten(1).amin(1), pixels.flatten(1).amax(1)))
        stretched = ((pixels - low) / (high - low).clamp(min=1) * 255).round().to(torch.uint8)
        return extractor.extract(stretched.flip(1))

    return replace(extractor, name=f"{extractor.name} (stretched, BGR)", extract=extract, edit="stretched, BGR")


class _exact_matmul:
    """TensorFloat-32 off: metrics are taken in full float32."""

    def __enter__(self) -> None:
        self._before = (torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32)
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False

    def __exit__(self, *exception: object) -> None:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = self._before
