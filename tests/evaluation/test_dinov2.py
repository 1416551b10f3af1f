"""DINOv2 as a source of features: its own files, another side than it was trained at, and no head."""

from dataclasses import replace
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import save_file

from dualoptim_diffusion.core.config import EvaluationConfig
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.evaluation import features as module
from dualoptim_diffusion.evaluation import measure
from dualoptim_diffusion.evaluation.features import timm_features
from tests.helpers.judged import NAMES, Oracle, drawn

SMALL = "vit_small_patch14_dinov2.lvd142m"  # of the same form, a tenth of the size


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as DINOv2's authors give it: timm's names, and one tensor more."""
    torch.manual_seed(0)
    weights = timm.create_model(SMALL).state_dict() | {"mask_token": torch.zeros(1, 384)}
    path = tmp_path_factory.mktemp("dinov2") / "dinov2_vits14_pretrain.pth"
    torch.save(weights, path)
    return path


def test_the_word_is_the_network_of_the_paper() -> None:
    assert timm.is_model(module.DINOV2)
    config = timm.get_pretrained_cfg(module.DINOV2)
    assert config.num_classes == 0
    assert module.DINOV2_SIDE % 14 == 0
    assert not EvaluationConfig(classifier="c", features="dinov2").features_are_trained


def test_features_are_those_of_timms_network_at_224_pixels_whoever_wrote_the_file(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DINOV2", SMALL)
    extractor = timm_features("dinov2", published)
    assert (extractor.name, extractor.label) == ("FD[dinov2]", "dinov2")
    assert "224 px" in extractor.resize
    images = torch.randint(256, (3, 3, 224, 224), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    features, logits = extractor.extract(images)
    assert features.shape == (3, 384)
    assert logits.shape == (3, 0)  # it has no head

    network = timm.create_model(SMALL, img_size=224).eval()  # resampled once, not at every pass
    weights = torch.load(published, weights_only=True)
    table = timm.layers.resample_abs_pos_embed(weights["pos_embed"], (16, 16))
    network.load_state_dict({k: v for k, v in weights.items() if k != "mask_token"} | {"pos_embed": table})
    mean, std = (torch.tensor(network.pretrained_cfg[key]).view(3, 1, 1) for key in ("mean", "std"))
    with torch.no_grad():
        expected = network((images / 255 - mean) / std)
    torch.testing.assert_close(features, expected, rtol=1e-4, atol=1e-4)

    save_file({k: v for k, v in weights.items() if k != "mask_token"}, tmp_path / "model.safetensors")
    assert timm_features("dinov2", tmp_path / "model.safetensors").sha256 == extractor.sha256


def test_without_a_head_there_is_no_inception_score(published: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "DINOV2", SMALL)
    extractor = timm_features("dinov2", published)
    small = replace(extractor, extract=lambda images: (images.flatten(1).float(), torch.zeros(len(images), 0)))
    samples = {i: drawn(*[i] * 12) for i in range(4)}
    figures = measure(
        samples, Oracle(), NAMES, (3,), torch.cat([samples[i] for i in range(3)]), extractor=small
    ).figures
    assert figures["inception_score"] is None
    assert figures["kid"]["name"] == "KID[dinov2]"


def test_a_file_that_lacks_a_tensor_is_refused(
    published: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "DINOV2", SMALL)
    weights = torch.load(published, weights_only=True)
    del weights["blocks.3.ls1.gamma"]
    torch.save(weights, tmp_path / "part.pth")
    with pytest.raises(InputError, match="does not fit the network"):
        timm_features("dinov2", tmp_path / "part.pth")
