"""Judges of scripts/studies/small_judges.py: both can be trained and called, draws follow from the seed alone."""

import sys
from pathlib import Path

import pytest
import torch
from torch import Tensor
from torch.nn.functional import pad

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))

from dualoptim_diffusion.core.errors import InputError, NonFiniteError
from dualoptim_diffusion.data import ImageSet
from dualoptim_diffusion.judge.classifier import Classifier
from studies import small_judges
from studies.small_judges import train_judge

NAMES = {0: "cat", 1: "dog"}


def photographs(n: int) -> ImageSet:
    pixels = torch.randint(0, 256, (n, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    return ImageSet(pixels, torch.arange(n) % 2, NAMES)


def trained(architecture: str, seed: int = 0) -> Classifier:
    return train_judge(
        architecture, photographs(9), photographs(6), seed=seed, epochs=1, device="cpu", batch_size=4
    )  # two steps; the ninth image fills no batch


@pytest.mark.parametrize("architecture", small_judges.CHANGES)
def test_both_are_trained_to_the_last_bit_of_their_seed_and_can_be_called(architecture: str) -> None:
    judge = trained(architecture)
    assert judge.sha256 == trained(architecture).sha256
    assert judge.sha256 != trained(architecture, seed=1).sha256
    fresh = small_judges.untrained(architecture, NAMES, 3, 32)
    fresh.network.load_state_dict(judge.network.state_dict())  # what rebuilds a judge
    for one in (judge, fresh):
        features, logits = one(photographs(6).images)
        assert (features.shape, logits.shape) == ((6, 512), (6, 2))
        inputs = one.preprocess(photographs(6).images)
        assert inputs.is_contiguous()
        with torch.no_grad():
            assert torch.allclose(one.network(inputs), logits, atol=1e-5)
            assert one.network.forward_features(inputs).shape == (6, 512, 4, 4)  # an eighth of the side
    assert judge.info.n_held_out == {"cat": 3, "dog": 3}
    assert set(judge.info.id2label.values()) == {"cat", "dog"}
    assert not judge.network.training


def test_training_leaves_the_settings_of_convolutions_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    def settings() -> tuple[bool, bool, bool]:
        backends = torch.backends
        return backends.cudnn.benchmark, backends.cudnn.allow_tf32, backends.cuda.matmul.allow_tf32

    before, during = settings(), []
    monkeypatch.setattr(small_judges, "with_accuracy", lambda judge, held_out: during.append(settings()))
    trained("resnet18")
    assert during == [(before[0], False, False)]
    assert settings() == before


def test_a_loss_that_is_not_finite_ends_the_training(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(small_judges, "_step", lambda *_: torch.tensor(torch.nan))
    with pytest.raises(NonFiniteError, match="In epoch 1 the mean loss of resnet18 is nan"):
        trained("resnet18")


def test_an_unknown_architecture_is_refused() -> None:
    with pytest.raises(InputError, match="did you mean resnet18"):
        trained("resnet19")


def crop(image: Tensor, down: int, right: int, flipped: bool) -> Tensor:
    padded = pad(image[None].float(), (4, 4, 4, 4), mode="reflect")[0].to(torch.uint8)
    part = padded[:, 4 + down : 36 + down, 4 + right : 36 + right]
    return part.flip(-1) if flipped else part


def test_a_crop_is_one_of_the_reflected_image_with_its_own_offset_and_flip() -> None:
    images, chosen = photographs(5).images, torch.tensor([4, 0, 2, 2])
    offsets, flips = torch.tensor([[-4, 4, 0, 3], [4, -4, 0, 1]]), torch.tensor([True, False, True, False])
    found = small_judges._cropped(images, chosen, offsets, flips)
    for i, image in enumerate(images[chosen]):
        assert torch.equal(found[i], crop(image, *offsets[:, i].tolist(), bool(flips[i])))


def test_training_sees_pixels_as_the_judge_does() -> None:
    images = photographs(4).images
    judge = small_judges.untrained("resnet18", NAMES, 3, 32)
    assert torch.equal(small_judges._normalised(images), judge.preprocess(images))


def test_an_epoch_sees_every_image_once_under_draws_of_its_own() -> None:
    order, offsets, flips = small_judges._draws(0, 0, 1000)
    assert torch.equal(order.sort().values, torch.arange(1000))
    assert offsets.unique().tolist() == list(range(-4, 5))
    assert 0.4 < flips.float().mean() < 0.6
    assert not torch.equal(order, small_judges._draws(0, 1, 1000)[0])


def test_the_rate_rises_for_a_fifth_of_the_steps_and_ends_above_zero() -> None:
    factors = [small_judges._factor(step, 50) for step in range(50)]
    assert factors.index(max(factors)) == 9
    assert max(factors) == 1
    assert factors[:10] == sorted(factors[:10])
    assert factors[9:] == sorted(factors[9:], reverse=True)
    assert 0 < factors[-1] < 0.03
    assert small_judges._factor(0, 1) == 1


def test_norms_and_biases_do_not_decay() -> None:
    network = small_judges.untrained("dla34", NAMES, 3, 32).network
    decaying, others = small_judges._optimizer(network).param_groups
    assert {p.ndim for p in others["params"]} == {1}
    assert others["weight_decay"] == 0
    assert decaying["weight_decay"] == small_judges.WEIGHT_DECAY
    assert len(decaying["params"]) + len(others["params"]) == len(list(network.parameters()))
