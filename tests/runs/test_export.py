"""Exports: the research code's own files bit for bit, folders that plain diffusers draws with, cards with a licence."""

import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from diffusers import AutoencoderKL, DiffusionPipeline, DiTPipeline, DiTTransformer2DModel
from torch import Tensor

from dualoptim_diffusion.models import ConditionalDDPM, ConditionalDiT
from dualoptim_diffusion.models.loading import load_model
from dualoptim_diffusion.models.published import export_published, import_published
from dualoptim_diffusion.models.published_dit import export_published_dit, import_published_dit
from tests.helpers.commands import Outcome, refused
from tests.helpers.dit import CHANNELS, CLASSES, HEADS, SIDE, original_weights, random_dit, tiny_vae
from tests.helpers.handmade import DIGITS, changed, small_unet, write_run
from tests.helpers.published import SHAPES, Shape, published_state, save

Run = Callable[..., Outcome]
BESIDE = Path(__file__).parents[3] / "shared" / "fixtures"
RECORDED = Path(os.environ.get("DUALOPTIM_RECORDED", BESIDE))
recorded = pytest.mark.skipif(
    not (RECORDED / "published_ddpm_small.pth").is_file(), reason=f"no checkpoints of the research code in {RECORDED}"
)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    """Equal names, types, shapes and bits."""
    return found.keys() == expected.keys() and all(
        (found[name].dtype, found[name].shape) == (value.dtype, value.shape)
        and torch.equal(found[name].contiguous().view(torch.int32), value.contiguous().view(torch.int32))
        for name, value in expected.items()
    )


def load(path: Path) -> Any:
    return torch.load(path, map_location="cpu", weights_only=True)


@pytest.mark.parametrize("shape", SHAPES)
def test_a_unet_leaves_as_it_came(shape: Shape, tmp_path: Path) -> None:
    raw, ema = published_state(shape, 0), published_state(shape, 1)
    path = save(tmp_path / "c.pth", raw, ema)
    for weights, state in (("raw", raw), ("ema", ema)):
        content = export_published(import_published(path, weights, image_size=8).network)
        assert same(content[0], {f"module.{name}": value for name, value in state.items()})
        assert same(content[3], state)


def test_a_dit_leaves_as_it_came(tmp_path: Path) -> None:
    torch.save(original_weights(), tmp_path / "c.pt")
    network = import_published_dit(tmp_path / "c.pt", num_heads=HEADS).network
    assert same(export_published_dit(network), original_weights())


@recorded
@pytest.mark.parametrize("weights", ["raw", "ema"])
def test_the_research_codes_unet_leaves_as_it_came(weights: str, tmp_path: Path, dualoptim: Run) -> None:
    source = RECORDED / "published_ddpm_small.pth"
    state, _, _, ema = load(source)
    bare = {name.removeprefix("module."): value for name, value in state.items()} if weights == "raw" else ema
    importing = ("import", source, "--image-size", 8, "--weights", weights, "--out", tmp_path / "m")
    assert dualoptim(*importing).code == 0
    done = dualoptim("export", tmp_path / "m", "--format", "published", "--out", tmp_path / "c.pth", "--json")
    assert done.code == 0, done.err
    content = load(tmp_path / "c.pth")
    assert same(content[0], {f"module.{name}": value for name, value in bare.items()})
    assert same(content[3], bare)
    assert json.loads(done.out)["sha256"] == json.loads(dualoptim(*importing, "--overwrite", "--json").out)["sha256"]


@recorded
@pytest.mark.parametrize("name", ["published_dit_small.pt", "published_dit_small_unlearned.pt"])
def test_the_research_codes_dit_leaves_as_it_came(name: str, tmp_path: Path, dualoptim: Run) -> None:
    assert dualoptim("import", RECORDED / name, "--num-heads", 4, "--out", tmp_path / "m").code == 0
    done = dualoptim("export", tmp_path / "m", "--format", "published", "--out", tmp_path / "c.pt")
    assert done.code == 0, done.err
    assert same(load(tmp_path / "c.pt"), load(RECORDED / "published_dit_small.pt"))


def test_the_optimizer_state_of_an_export_is_one_that_adam_loads() -> None:
    network = import_network()
    state = export_published(network)[1]
    torch.optim.Adam(network.parameters()).load_state_dict(state)
    assert state["state"] == {}


def import_network() -> Any:
    model = small_unet(norm_groups=4)
    return type(model)(**model.arguments | {"norm_groups": 32, "width": 64})


def test_equal_models_are_equal_files_and_the_average_takes_no_second_copy(tmp_path: Path, dualoptim: Run) -> None:
    ConditionalDDPM(network := import_network(), dict(enumerate(DIGITS))).save(tmp_path / "m")
    for name in ("a", "b"):
        assert dualoptim("export", tmp_path / "m", "--format", "published", "--out", tmp_path / f"{name}.pth").code == 0
    assert (tmp_path / "a.pth").read_bytes() == (tmp_path / "b.pth").read_bytes()
    assert (tmp_path / "a.pth").stat().st_size < 1.1 * sum(p.nbytes for p in network.parameters())


def test_models_without_a_published_form_are_refused(tmp_path: Path, dualoptim: Run) -> None:
    ConditionalDDPM(small_unet(), dict(enumerate(DIGITS))).save(tmp_path / "m")
    published = ("--format", "published", "--out", tmp_path / "c.pth")
    refused(dualoptim("export", tmp_path / "m", *published), "normalizes 4 groups of channels")
    assert dualoptim("export", tmp_path / "m", "--out", tmp_path / "stock").code == 0
    refused(dualoptim("export", tmp_path / "stock", *published), "is a UNet2DModel")
    assert not (tmp_path / "c.pth").exists()


def test_a_dit_with_another_epsilon_is_exported_and_that_is_said(tmp_path: Path, dualoptim: Run) -> None:
    network = random_dit()
    other = type(network)(**network.arguments | {"norm_eps": 1e-5})
    ConditionalDiT(other, dict(enumerate("abcde"))).save(tmp_path / "m")
    done = dualoptim("export", tmp_path / "m", "--format", "published", "--out", tmp_path / "c.pt")
    assert done.code == 0
    assert "norm_eps is 1e-05 here and 1e-06 in the research code" in done.err


def run_card(folder: Path) -> dict[str, Any]:
    """What the code in a model card leaves behind."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    assert "dualoptim" not in code
    drawn: dict[str, Any] = {}
    exec(code.replace("path/to/this/folder", str(folder)), drawn)
    return drawn


@pytest.mark.parametrize("latents", [False, True])
@pytest.mark.parametrize("out_channels", [CHANNELS, 2 * CHANNELS])
def test_a_dit_draws_in_plain_diffusers_as_its_card_says(
    latents: bool, out_channels: int, tmp_path: Path, dualoptim: Run
) -> None:
    model = ConditionalDiT(random_dit(out_channels), dict(enumerate("abcde")), vae=tiny_vae() if latents else None)
    model.save(tmp_path / "m")
    done = dualoptim("export", tmp_path / "m", "--out", tmp_path / "plain", "--json")
    assert done.code == 0, done.err
    index = json.loads((tmp_path / "plain" / "model_index.json").read_text())
    assert "dualoptim" not in json.dumps(index)
    drawn = run_card(tmp_path / "plain")
    assert type(drawn["transformer"]) is DiTTransformer2DModel
    assert drawn["images"].shape == (1, *model.image_shape)
    assert drawn["images"].isfinite().all()
    if latents:
        assert type(drawn["vae"]) is AutoencoderKL
        assert type(DiffusionPipeline.from_pretrained(tmp_path / "plain")) is DiTPipeline
    again = load_model(tmp_path / "plain")
    assert (again.id2label, again.null_class) == (model.id2label, CLASSES)
    assert same(again.network.state_dict(), model.network.state_dict())
    assert again.x_0_shape == (CHANNELS, SIDE, SIDE)


def front(folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((folder / "README.md").read_text().split("---")[1])
    return found


def test_the_card_of_a_finished_run_shows_its_figures_and_its_grid(
    finished: Path, tmp_path: Path, dualoptim: Run
) -> None:
    done = dualoptim("export", finished, "--out", tmp_path / "plain")
    assert done.code == 0, done.err
    card = (tmp_path / "plain" / "README.md").read_text()
    for words in ("# Forgotten: three", "](grid.png)", "## Figures", "FA", "## Limits", "UNet2DModel.from_pretrained"):
        assert words in card
    assert "from dualoptim_diffusion" not in card
    assert (tmp_path / "plain" / "grid.png").read_bytes() == (finished / "grid.png").read_bytes()
    assert front(tmp_path / "plain")["library_name"] == "diffusers"
    assert run_card(tmp_path / "plain")["images"].shape == (1, 1, 8, 8)


@pytest.mark.parametrize(
    ("readme", "licence"),
    [
        (None, None),
        ("no front matter\n", None),
        ("---\nlicense: mit\n---\n# Model\n", "mit"),
        ("---\nlicense: [mit]\n---\n", None),
        ("---\nlicense: *anchor\n---\n", None),
    ],
)
def test_a_licence_is_the_one_that_the_models_folder_states(
    readme: str | None, licence: str | None, tmp_path: Path, dualoptim: Run
) -> None:
    ConditionalDDPM(small_unet(), dict(enumerate(DIGITS))).save(tmp_path / "m")
    if readme is not None:
        (tmp_path / "m" / "README.md").write_text(readme)
    assert dualoptim("export", tmp_path / "m", "--out", tmp_path / "plain").code == 0
    assert front(tmp_path / "plain").get("license") == licence
    assert dualoptim("export", tmp_path / "plain", "--out", tmp_path / "again").code == 0
    assert front(tmp_path / "again").get("license") == licence


def test_a_run_records_the_licence_of_its_base_and_its_card_states_it(
    tiny: str, tmp_path: Path, dualoptim: Run
) -> None:
    ConditionalDDPM(small_unet(), dict(enumerate(DIGITS))).save(base := tmp_path / "base")
    (base / "README.md").write_text("---\nlicense: cc-by-nc-4.0\n---\n")
    done = dualoptim("forget", tiny, "--class", "three", "--out", tmp_path / "run", f"model.path={base}")
    assert done.code == 0, done.err
    assert front(tmp_path / "run" / "model")["license"] == "cc-by-nc-4.0"
    assert dualoptim("export", tmp_path / "run", "--out", tmp_path / "plain").code == 0
    assert front(tmp_path / "plain")["license"] == "cc-by-nc-4.0"


def test_a_network_of_dit_xls_form_has_the_licence_of_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    from dualoptim_diffusion.runs import card

    model = ConditionalDiT(random_dit(), dict(enumerate("abcde")))
    assert card.known_licence(None, model) is None
    monkeypatch.setattr(card, "DIT_XL", {"num_classes": CLASSES})
    assert card.known_licence(Path("facebook/DiT-XL-2-256"), model) == "cc-by-nc-4.0"


def test_what_was_forgotten_is_in_the_card_of_a_model_without_figures(tmp_path: Path, dualoptim: Run) -> None:
    base = ConditionalDDPM(small_unet(), dict(enumerate(DIGITS)))
    base.save(tmp_path / "base")
    run = write_run(tmp_path / "run", tmp_path / "base", base, changed(base, "three"))
    assert dualoptim("export", run, "--out", tmp_path / "plain").code == 0
    assert "# Forgotten: three" in (tmp_path / "plain" / "README.md").read_text()
