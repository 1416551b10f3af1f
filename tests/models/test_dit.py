"""The diffusion transformer: the published network, loss, guidance and files, with one pair of embedders."""

import argparse
import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import DiTPipeline, DPMSolverMultistepScheduler
from torch import Tensor
from torch.nn import functional

from dualoptim_diffusion import forget, load_model
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.process import guided_noise_pred, variational_bound
from dualoptim_diffusion.diffusion.sampling import draw, make_scheduler
from dualoptim_diffusion.models import ConditionalDiT, load_pipeline
from dualoptim_diffusion.models.autoencoder import from_latents
from dualoptim_diffusion.models.dit_network import DiT
from dualoptim_diffusion.models.published_dit import import_published_dit
from tests.helpers.dit import (
    CHANNELS,
    CLASSES,
    HEADS,
    LAYERS,
    PATCH,
    SIDE,
    WIDTH,
    original_weights,
    random_dit,
    tiny_vae,
)
from tests.helpers.numerics import RECORDED, rounding


def inputs(
    batch: int = 6, num_classes: int = CLASSES, dtype: torch.dtype = torch.float32
) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    x_t = torch.randn(batch, CHANNELS, SIDE, SIDE, generator=generator).to(dtype)
    timesteps = torch.tensor([0, 1, 17, 500, 998, 999])[:batch]
    return x_t, timesteps, torch.arange(batch) % (num_classes + 1)


def original_forward(w: dict[str, Tensor], x_t: Tensor, timesteps: Tensor, labels: Tensor) -> Tensor:
    """DiT written out in plain torch, in float64 but for the time features."""
    w = {name: value.double() for name, value in w.items()}

    def linear(name: str, x: Tensor) -> Tensor:
        return x @ w[f"{name}.weight"].T + w[f"{name}.bias"]

    def norm(x: Tensor) -> Tensor:
        return (x - x.mean(-1, keepdim=True)) / (x.var(-1, unbiased=False, keepdim=True) + 1e-6).sqrt()

    batch, rows, p = len(x_t), SIDE // PATCH, PATCH
    patches = x_t.reshape(batch, CHANNELS, rows, p, rows, p).permute(0, 2, 4, 1, 3, 5).reshape(batch, rows**2, -1)
    x = patches @ w["x_embedder.proj.weight"].flatten(1).T + w["x_embedder.proj.bias"] + w["pos_embed"]
    angles = timesteps[:, None].float() * torch.exp(-math.log(10000) * torch.arange(128) / 128)  # rounded so there too
    features = torch.cat([angles.cos(), angles.sin()], 1).double()
    silu = functional.silu
    time = linear("t_embedder.mlp.2", silu(linear("t_embedder.mlp.0", features)))
    c = silu(time + w["y_embedder.embedding_table.weight"][labels])
    for i in range(LAYERS):
        parts = linear(f"blocks.{i}.adaLN_modulation.1", c)[:, None].chunk(6, -1)
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = parts
        qkv = linear(f"blocks.{i}.attn.qkv", norm(x) * (1 + scale) + shift)
        q, k, v = qkv.reshape(batch, -1, 3, HEADS, WIDTH // HEADS).permute(2, 0, 3, 1, 4)
        weights = (q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)).softmax(-1)
        x = x + gate * linear(f"blocks.{i}.attn.proj", (weights @ v).transpose(1, 2).reshape(batch, -1, WIDTH))
        hidden = linear(f"blocks.{i}.mlp.fc1", norm(x) * (1 + scale_mlp) + shift_mlp)
        x = x + gate_mlp * linear(f"blocks.{i}.mlp.fc2", functional.gelu(hidden, approximate="tanh"))
    shift, scale = linear("final_layer.adaLN_modulation.1", c)[:, None].chunk(2, -1)
    out = linear("final_layer.linear", norm(x) * (1 + scale) + shift)
    grid = out.reshape(batch, rows, rows, p, p, 2 * CHANNELS)
    return torch.einsum("nhwpqc->nchpwq", grid).reshape(batch, 2 * CHANNELS, SIDE, SIDE)


def test_dit_xl_2_has_the_published_number_of_parameters() -> None:
    with torch.device("meta"):
        network = DiT()
    weights = sum(p.numel() for p in network.parameters())
    assert weights + network.pos_embed.pos_embed.numel() == 675_129_632


@pytest.mark.numerical
@pytest.mark.parametrize("form", ["bare", "module", "ema"])
def test_an_original_file_equals_an_independent_forward(tmp_path: Path, form: str) -> None:
    weights = original_weights()
    contents = {
        "bare": weights,
        "module": {"model": {f"module.{k}": v for k, v in weights.items()}, "args": argparse.Namespace(lr=1e-4)},
        "ema": {"model": {k: v + 1 for k, v in weights.items()}, "ema": weights, "opt": {}, "args": None},
    }
    torch.save(contents[form], tmp_path / "dit.pt")
    found = import_published_dit(tmp_path / "dit.pt", "ema" if form == "ema" else "raw", num_heads=HEADS)
    assert found.left_over == []
    network, batch = found.network.double(), inputs(dtype=torch.float64)
    kept = network.pos_embed.pos_embed  # rounded to float32 there and here: power, angle up to a row, sine
    torch.testing.assert_close(kept, weights["pos_embed"].double(), rtol=0, atol=rounding(3, SIDE // PATCH))
    with torch.no_grad():
        output = network(*batch, return_dict=False)[0]
    torch.testing.assert_close(output, original_forward(weights | {"pos_embed": kept}, *batch), rtol=0, atol=1e-10)


def test_two_swapped_tensors_are_noticed(tmp_path: Path) -> None:
    weights = original_weights()
    names = "blocks.1.attn.proj.weight", "blocks.2.attn.proj.weight"
    swapped = weights | {names[0]: weights[names[1]], names[1]: weights[names[0]]}
    torch.save(swapped, tmp_path / "dit.pt")
    with torch.no_grad():
        output = import_published_dit(tmp_path / "dit.pt", num_heads=HEADS).network(*inputs(), return_dict=False)[0]
    assert (output - original_forward(weights, *inputs(dtype=torch.float64))).abs().max() > 1e-2


def test_files_that_are_no_original_dit_are_refused_in_one_sentence(tmp_path: Path) -> None:
    weights = original_weights()
    torch.save({k: v for k, v in weights.items() if "t_embedder" not in k}, tmp_path / "lacking.pt")
    with pytest.raises(InputError, match=r"no whole checkpoint of an original DiT .it lacks the weights t_emb"):
        import_published_dit(tmp_path / "lacking.pt", num_heads=HEADS)
    torch.save(weights | {"pos_embed": weights["pos_embed"].flip(-1)}, tmp_path / "positions.pt")
    with pytest.raises(InputError, match="positions that are not the published"):
        import_published_dit(tmp_path / "positions.pt", num_heads=HEADS)
    torch.save(weights, tmp_path / "dit.pt")
    with pytest.raises(InputError, match="does not divide among 3 heads"):
        import_published_dit(tmp_path / "dit.pt", num_heads=3)
    with pytest.raises(InputError, match="holds no moving average"):
        import_published_dit(tmp_path / "dit.pt", "ema", num_heads=HEADS)


@pytest.mark.skipif("DUALOPTIM_FIXTURES" not in os.environ, reason="DUALOPTIM_FIXTURES names no folder")
@pytest.mark.parametrize("file", ["published_dit_small.pt", "published_dit_small_unlearned.pt"])
def test_recorded_arrays_of_the_research_code_are_reproduced(file: str) -> None:
    folder = Path(os.environ["DUALOPTIM_FIXTURES"])
    recorded = {k: torch.from_numpy(np.asarray(v)) for k, v in np.load(folder / "published_dit_small.npz").items()}
    recorded = {name: value.double() if value.is_floating_point() else value for name, value in recorded.items()}
    network = import_published_dit(folder / file, num_heads=4).network.double()
    model = ConditionalDiT(network, {i: str(i) for i in range(10)})

    def close(name: str, value: Tensor) -> None:
        torch.testing.assert_close(value, recorded[name], atol=RECORDED, rtol=RECORDED)

    x_t, timesteps, labels = recorded["x_t"], recorded["timesteps"], recorded["loss_class_labels"]
    close("output", model.predict(x_t, timesteps, recorded["class_labels"]))
    half = len(recorded["cfg_x_t"]) // 2
    asked = (recorded[f"cfg_{name}"][:half] for name in ("x_t", "timesteps", "class_labels"))
    recorded["cfg_output"] = recorded["cfg_output"][:half]  # the other half is of the null label
    close("cfg_output", model.predict(*asked, 1.5, 3))
    noise, x_0 = recorded["noise"], recorded["x_0"]
    losses = model.loss(x_0, timesteps, noise, labels)
    close("loss", losses)
    losses.mean().backward()
    gradients = [p.grad.norm() for p in network.parameters() if p.grad is not None]
    close("grad_norm_of_mean_loss", torch.stack(gradients).norm())
    scheduler = make_scheduler("ddpm", learned_variance=True)
    scheduler.set_timesteps(int(recorded["respaced_steps"]))
    t = scheduler.timesteps.flip(0)[int(recorded["respaced_index"])]
    assert t == recorded["respaced_timestep"]
    with torch.no_grad():
        output = model.predict(x_t, t.expand(len(x_t)), labels)
    close("posterior_log_variance", scheduler._get_variance(t, predicted_variance=output[:, 4:]))
    close("pred_x_0", scheduler.step(output, t, x_t).pred_original_sample)


def test_a_fresh_network_returns_zero() -> None:
    network = DiT(SIDE, CHANNELS, 2 * CHANNELS, CLASSES, LAYERS, HEADS, WIDTH // HEADS, PATCH).initialise()
    assert not network(*inputs(), return_dict=False)[0].any()


def test_every_block_gets_the_same_embedding_and_no_label_is_dropped_inside() -> None:
    network = random_dit().train()
    seen: list[Tensor] = []
    for block in network.transformer_blocks:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[1]))
    first, again = (network(*inputs(), return_dict=False)[0] for _ in range(2))
    assert len(seen) == 2 * LAYERS
    assert all(embedding is seen[0] for embedding in seen[:LAYERS])
    assert torch.equal(first, again)


def test_labels_are_dropped_once_a_sample_in_one_of_ten() -> None:
    from dualoptim_diffusion.data import Batches, ImageSet

    model = ConditionalDiT(
        DiT(SIDE, 1, 2, CLASSES, 1, HEADS, WIDTH // HEADS, PATCH), {i: str(i) for i in range(CLASSES)}
    )
    images = torch.zeros(100, 1, SIDE, SIDE, dtype=torch.uint8)
    dataset = ImageSet(images, torch.arange(100) % CLASSES, model.id2label)
    batches = Batches(dataset, model, seed=0, phase="retain", batch_size=100)
    dropped = torch.cat([batches(update).dropped_labels == CLASSES for update in range(100)])
    assert abs(dropped.float().mean() - 0.1) < 4 * math.sqrt(0.09 / len(dropped))


@pytest.mark.numerical
def test_the_gradient_of_the_embedders_is_the_sum_over_the_untied_copies() -> None:
    network = random_dit().double()
    stock = DiT.of(network).to_stock().double()
    for block in stock.transformer_blocks:
        block.norm1.emb.time_proj.downscale_freq_shift = 0  # its frequencies are not the published ones
    x_t, timesteps, labels = inputs()
    network(x_t.double(), timesteps, labels, return_dict=False)[0].square().sum().backward()
    stock(x_t.double(), timesteps, labels, return_dict=False)[0].square().sum().backward()
    for name, parameter in network.embedder.named_parameters():
        copies = [dict(block.norm1.emb.named_parameters())[name].grad for block in stock.transformer_blocks]
        torch.testing.assert_close(parameter.grad, sum(copies), rtol=1e-9, atol=1e-9)


def test_compiling_takes_the_repeated_block_alone_and_keeps_names_and_outputs(monkeypatch: pytest.MonkeyPatch) -> None:
    from accelerate import Accelerator

    monkeypatch.setattr(torch, "compile", None)  # the whole network is not compiled
    network, batch = random_dit(), inputs()
    model = ConditionalDiT(network, {i: str(i) for i in range(CLASSES)})
    names, expected = list(network.state_dict()), model.predict(*batch)
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module, **_: compiled.append(module))
    model.prepare(Accelerator(cpu=True), compiled=True)
    assert compiled == list(network.transformer_blocks)
    assert list(network.state_dict()) == names
    assert torch.equal(model.predict(*batch), expected)


@pytest.mark.numerical
def test_latents_are_decoded_a_few_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    vae, latents, sizes = tiny_vae().double(), torch.randn(21, CHANNELS, 4, 4, dtype=torch.float64), []
    decode = vae.decode
    monkeypatch.setattr(vae, "decode", lambda part: sizes.append(len(part)) or decode(part))
    images = from_latents(vae, latents)
    assert sizes == [16, 5]
    torch.testing.assert_close(images, decode(latents / vae.config.scaling_factor).sample, rtol=0, atol=1e-12)


@pytest.mark.numerical
def test_checkpointed_gradients_are_the_same() -> None:
    plain, saving = random_dit().double(), random_dit().double()
    saving.enable_gradient_checkpointing()
    for network in (plain, saving):
        network.train()(*inputs(dtype=torch.float64), return_dict=False)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), saving.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-10, atol=1e-10)


def test_export_to_diffusers_and_back_is_bit_equal_and_untied_weights_are_refused() -> None:
    network = random_dit()
    stock = DiT.of(network).to_stock()
    back = DiT.from_stock(stock)
    for name in ("sample_size", "in_channels", "out_channels", "num_classes", "num_layers", "patch_size", "norm_eps"):
        assert back.config[name] == network.arguments[name]
    assert all(torch.equal(value, network.state_dict()[name]) for name, value in back.state_dict().items())
    with torch.no_grad():
        stock.transformer_blocks[1].norm1.emb.class_embedder.embedding_table.weight[0] += 1
    with pytest.raises(InputError, match="trained without tying"):
        DiT.from_stock(stock)


def test_a_model_of_a_thousand_classes_loads_with_diffusers_own_pipeline(tmp_path: Path) -> None:
    names = {i: f"name {i}, synonym {i}" for i in range(1000)}
    model = ConditionalDiT(random_dit(num_classes=1000), names, ["name 3, synonym 3"], tiny_vae())
    model.save(tmp_path / "model")
    stock = DiTPipeline.from_pretrained(tmp_path / "model")
    assert stock.labels["synonym 7"] == 7
    assert json.loads((tmp_path / "model" / "model_index.json").read_text())["_class_name"] == "DiTPipeline"
    assert stock([7], num_inference_steps=2).images[0].size == (2 * SIDE, 2 * SIDE)
    ours = load_pipeline(tmp_path / "model")
    assert ours.id2label == names
    assert ours.forgotten == ["name 3, synonym 3"]
    assert ours.null_class == 1000
    assert ours(["synonym 7"], num_inference_steps=2, output_type="uint8").images.shape == (1, 3, 2 * SIDE, 2 * SIDE)
    weights = ConditionalDiT.load(tmp_path / "model").network.state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in model.network.state_dict().items())


def test_other_models_load_with_our_pipeline_and_draw_in_pixels_or_latents(tmp_path: Path) -> None:
    for vae in (None, tiny_vae()):
        folder = tmp_path / ("latents" if vae else "pixels")
        model = ConditionalDiT(random_dit(), {i: f"name {i}" for i in range(CLASSES)}, vae=vae)
        model.save(folder)
        loaded = ConditionalDiT.load(folder)
        assert loaded.image_shape == ((3, 2 * SIDE, 2 * SIDE) if vae else (CHANNELS, SIDE, SIDE))
        pipeline = load_pipeline(folder)
        images = pipeline(["name 2"] * 2, num_inference_steps=2, guidance_scale=2.0, output_type="uint8").images
        assert images.shape[1:] == loaded.image_shape
        loaded.network.eval()
        x_0 = draw(loaded.predict, make_scheduler("ddim"), loaded.x_0_shape, [2, 2], [0, 1], 2, 2.0)
        assert torch.equal(images, loaded.decode(x_0))


@pytest.mark.numerical
def test_latents_are_drawn_from_the_scaled_posterior() -> None:
    vae = tiny_vae()
    model = ConditionalDiT(random_dit(), {i: str(i) for i in range(CLASSES)}, vae=vae)
    images = torch.randint(256, (2, 3, 2 * SIDE, 2 * SIDE), dtype=torch.uint8)
    noise = torch.randn(2, CHANNELS, SIDE, SIDE)
    latents = model.encode(images, noise)
    with torch.no_grad():
        posterior = vae.encode(images.float() / 127.5 - 1).latent_dist
    expected = (posterior.mean + posterior.std * noise) * vae.config.scaling_factor
    torch.testing.assert_close(model.encode(images), posterior.mean * vae.config.scaling_factor)
    torch.testing.assert_close(latents, expected)
    assert not latents.requires_grad


@pytest.mark.numerical
def test_the_bound_equals_an_independent_evaluation() -> None:
    torch.manual_seed(6)
    x_0, noise = torch.rand(6, 4, 8, 8, dtype=torch.float64) * 2 - 1, torch.randn(6, 4, 8, 8, dtype=torch.float64)
    output, timesteps = torch.randn(6, 8, 8, 8, dtype=torch.float64), torch.tensor([0, 1, 17, 500, 998, 999])
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    abar = (1 - betas).cumprod(0)
    expected = []
    for i, t in enumerate(timesteps.tolist()):
        x_t = abar[t].sqrt() * x_0[i] + (1 - abar[t]).sqrt() * noise[i]
        before = abar[t - 1] if t else torch.tensor(1.0, dtype=torch.float64)
        small = betas[max(t, 1)] * (1 - abar[max(t, 1) - 1]) / (1 - abar[max(t, 1)])

        def mean(x: Tensor, t: int = t, before: Tensor = before, x_t: Tensor = x_t) -> Tensor:
            towards = before.sqrt() * betas[t] * x + (1 - betas[t]).sqrt() * (1 - before) * x_t
            return towards / (1 - abar[t])

        predicted = (x_t - (1 - abar[t]).sqrt() * output[i, :4]) / abar[t].sqrt()
        f = (output[i, 4:] + 1) / 2
        std = (0.5 * (f * betas[t].log() + (1 - f) * small.log())).exp()
        model = torch.distributions.Normal(mean(predicted), std)
        if t:
            truth = torch.distributions.Normal(mean(x_0[i]), small.sqrt().expand_as(x_t))
            nats = torch.distributions.kl_divergence(truth, model)
        else:

            def cdf(x: Tensor, model: torch.distributions.Normal = model) -> Tensor:
                z = (x - model.mean) / model.stddev
                return (1 + torch.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2

            low = torch.where(x_0[i] < -0.999, 0.0, cdf(x_0[i] - 1 / 255))
            high = torch.where(x_0[i] > 0.999, 1.0, cdf(x_0[i] + 1 / 255))
            nats = -(high - low).clamp(min=1e-12).log()
        expected.append(nats.mean() / math.log(2))
    t4 = timesteps.view(-1, 1, 1, 1)
    x_t = abar[t4].sqrt() * x_0 + (1 - abar[t4]).sqrt() * noise
    output.requires_grad_(True)
    bound = variational_bound(output, x_0, x_t, timesteps)
    torch.testing.assert_close(bound.detach(), torch.stack(expected), rtol=1e-9, atol=1e-9)
    bound.sum().backward()
    assert output.grad is not None
    assert not output.grad[:, :4].any()
    assert output.grad[:, 4:].any()


@pytest.mark.numerical
def test_guiding_three_channels_leaves_the_others_conditional() -> None:
    network = random_dit().double()

    def predict(*arguments: Tensor) -> Tensor:
        return network(*arguments, return_dict=False)[0]

    x_t, timesteps, labels = inputs(dtype=torch.float64)
    with torch.no_grad():
        cond, null = predict(x_t, timesteps, labels), predict(x_t, timesteps, torch.full_like(labels, CLASSES))
        guided = guided_noise_pred(predict, x_t, timesteps, labels, CLASSES, 1.5, 3)
        torch.testing.assert_close(guided[:, :3], (null + 1.5 * (cond - null))[:, :3], rtol=0, atol=1e-10)
        torch.testing.assert_close(guided[:, 3:], cond[:, 3:], rtol=0, atol=1e-10)
        for scale, channels in ((1.0, 3), (1.0, None)):
            assert torch.equal(guided_noise_pred(predict, x_t, timesteps, labels, CLASSES, scale, channels), cond)


def test_the_sampler_of_learned_variance_takes_the_published_timesteps() -> None:
    scheduler = make_scheduler("ddpm", learned_variance=True)
    scheduler.set_timesteps(10)
    assert scheduler.timesteps.tolist() == [999, 888, 777, 666, 555, 444, 333, 222, 111, 0]


def test_a_folder_of_diffusers_with_another_scheduler_forgets_and_draws_by_it(tmp_path: Path) -> None:
    own = DPMSolverMultistepScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", solver_order=3)
    names = {i: str(i) for i in range(1000)}
    DiTPipeline(DiT.of(random_dit(num_classes=1000)).to_stock(), tiny_vae(), own).save_pretrained(tmp_path / "base")
    model = load_model(tmp_path / "base")
    images = torch.randint(256, (10, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    settings = {"num_steps": 2, "batch_size": 4, "progress": False, "device": "cpu", "mask": None}
    result = forget(model, (images, torch.arange(10)), ["3"], **settings)
    result.save(tmp_path / "out")
    stock = DiTPipeline.from_pretrained(tmp_path / "out" / "model")  # still what diffusers itself draws from
    ours = load_pipeline(tmp_path / "out" / "model")
    for pipeline in (stock, ours):
        assert type(pipeline.scheduler) is DPMSolverMultistepScheduler
        assert pipeline.scheduler.config.solver_order == 3
    assert ours.id2label == names
    assert ours([4], num_inference_steps=4, output_type="uint8").images.shape == (1, 3, 16, 16)
