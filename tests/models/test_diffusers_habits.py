"""What a user of diffusers does with any pipeline works with ours: schedulers, number formats, generators, callbacks.

The reference is the loop that diffusers documents for its schedulers, written out here, and the closed form of Gaussian
data: their noise is known exactly, and so is where every sampler must arrive.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from torch import Tensor

from dualoptim_diffusion import ConditionalDDPMPipeline, ConditionalUNet
from dualoptim_diffusion.core.errors import InputError
from dualoptim_diffusion.diffusion.process import linear_alphas_cumprod
from dualoptim_diffusion.diffusion.sampling import make_scheduler
from dualoptim_diffusion.models.dit_pipeline import ConditionalDiTPipeline
from tests.helpers.dit import CHANNELS, random_dit, tiny_vae

NAMES = dict(enumerate("abcd"))
TAKE_A_GENERATOR = {  # by the documentation of their `step`
    "DDIMScheduler", "DDPMScheduler", "DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler", "EulerDiscreteScheduler", "KDPM2AncestralDiscreteScheduler",
    "DDIMParallelScheduler", "DDPMParallelScheduler", "SASolverScheduler",
}  # fmt: skip
NOISY = {"DDPMScheduler", "EulerAncestralDiscreteScheduler", "KDPM2AncestralDiscreteScheduler"}  # by themselves
SAMPLERS: list[tuple[str, dict[str, Any]]] = [
    ("DDIMScheduler", {}),
    ("DDIMScheduler", {"timestep_spacing": "leading", "steps_offset": 1}),
    ("DDIMParallelScheduler", {}),
    ("DDPMScheduler", {}),
    ("DDPMScheduler", {"variance_type": "fixed_large"}),
    ("DDPMParallelScheduler", {}),
    ("DEISMultistepScheduler", {}),
    ("DPMSolverMultistepScheduler", {"solver_order": 3}),
    ("DPMSolverMultistepScheduler", {"algorithm_type": "sde-dpmsolver++"}),
    ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    ("DPMSolverMultistepScheduler", {"variance_type": "learned_range"}),
    ("DPMSolverSinglestepScheduler", {}),
    ("EulerDiscreteScheduler", {}),
    ("EulerDiscreteScheduler", {"timestep_spacing": "linspace", "use_karras_sigmas": True}),
    ("EulerAncestralDiscreteScheduler", {}),
    ("HeunDiscreteScheduler", {}),
    ("KDPM2DiscreteScheduler", {}),
    ("KDPM2AncestralDiscreteScheduler", {}),
    ("LMSDiscreteScheduler", {}),
    ("PNDMScheduler", {}),
    ("PNDMScheduler", {"skip_prk_steps": True}),
    ("UniPCMultistepScheduler", {}),
    ("UniPCMultistepScheduler", {"solver_type": "bh1", "solver_order": 3, "final_sigmas_type": "sigma_min"}),
    ("SASolverScheduler", {}),
]  # fmt: skip
ids = [name + "".join(f" {k}={v}" for k, v in more.items()) for name, more in SAMPLERS]
COMPATIBLE = {kind.__name__ for kind in make_scheduler("ddim").compatibles}


def unet_pipeline(kind: type[ConditionalUNet] = ConditionalUNet) -> ConditionalDDPMPipeline:
    torch.manual_seed(0)
    pipeline = ConditionalDDPMPipeline.from_parts(kind(8, 1, 4, 8, (1,), 1, (8,), False, 0.0, 4), NAMES)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def dit_pipeline(out_channels: int = 2 * CHANNELS) -> ConditionalDiTPipeline:
    network = random_dit(out_channels, 4)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter *= 0.3
    pipeline = ConditionalDiTPipeline.from_parts(network, NAMES, vae=tiny_vae())
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def scheduler_of(name: str, **more: Any) -> Any:
    return getattr(diffusers, name).from_config(make_scheduler("ddim").config, **more)


def seeded(*seeds: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(seed) for seed in seeds]


@torch.no_grad()
def by_hand(pipeline: Any, labels: list[int], generators: Any, steps: int = 5) -> Tensor:
    """The loop of diffusers' documentation; x_t is float32 or wider."""
    scheduler = type(pipeline.scheduler).from_config(pipeline.scheduler.config)
    scheduler.set_timesteps(steps)
    dtype = torch.promote_types(pipeline.network.dtype, torch.float32)
    shape, extra = pipeline.shape(), {}
    if isinstance(generators, list):
        x = torch.stack([torch.randn(shape, generator=generator) for generator in generators]).to(dtype)
    else:
        x = torch.randn((len(labels), *shape), generator=generators).to(dtype)
    x = x * scheduler.init_noise_sigma
    if type(scheduler).__name__ in TAKE_A_GENERATOR:
        extra = {"generator": generators}
    for t in scheduler.timesteps:
        scaled = scheduler.scale_model_input(x, t).to(pipeline.network.dtype)
        output = pipeline.network(scaled, t.expand(len(x)), torch.tensor(labels)).sample
        x = scheduler.step(output[:, : shape[0]].to(dtype), t, x, **extra).prev_sample
    return x


def latents(pipeline: Any, **options: Any) -> Tensor:
    return pipeline(["a", 2, 3], output_type="latent", **({"num_inference_steps": 5} | options)).images


def test_the_table_of_samplers_holds_every_compatible_one() -> None:
    assert COMPATIBLE - {name for name, _ in SAMPLERS} == {"EDMEulerScheduler", "DPMSolverSDEScheduler"}


@pytest.mark.parametrize(("name", "more"), SAMPLERS, ids=ids)
@pytest.mark.parametrize("build", [unet_pipeline, dit_pipeline])
def test_every_scheduler_draws_what_its_documented_loop_draws(
    build: Callable[[], Any], name: str, more: dict[str, Any]
) -> None:
    pipeline = build()
    pipeline.scheduler = scheduler_of(name, **more)
    if build is dit_pipeline and more.get("variance_type") == "learned_range":
        with pytest.raises(InputError, match=rf"{name} with variance_type 'learned_range' takes 3 channels"):
            latents(pipeline)
        return
    found = latents(pipeline, seeds=[4, 5, 6])
    assert torch.equal(found, by_hand(pipeline, [0, 2, 3], seeded(4, 5, 6)))
    assert torch.equal(latents(pipeline, seeds=[4, 5, 6]), found)  # a scheduler keeps nothing of a drawing
    assert found.isfinite().all()


class Gaussian(ConditionalUNet):
    """Knows the noise in x_t where the pixels of class c are normal with the deviation 0.5 (c + 1)."""

    def forward(self, sample: Tensor, timestep: Tensor, class_labels: Tensor, return_dict: bool = True) -> Any:
        s = (0.5 * (class_labels + 1)).view(-1, 1, 1, 1).double()
        abar = linear_alphas_cumprod(dtype=torch.float64)
        log_sigmas = ((1 - abar) / abar).sqrt().log()
        low = timestep.double().floor().clamp(0, 998).long()  # samplers of fractional timesteps interpolate so
        part = timestep.double() - low
        sigma = ((1 - part) * log_sigmas[low] + part * log_sigmas[low + 1]).exp().view(-1, 1, 1, 1)
        abar = 1 / (1 + sigma**2)
        return ((1 - abar).sqrt() * sample / (abar * s**2 + 1 - abar),)


@pytest.mark.numerical
@pytest.mark.parametrize(("name", "more"), SAMPLERS, ids=ids)
def test_every_scheduler_arrives_at_gaussian_data(name: str, more: dict[str, Any]) -> None:
    """Without noise along the way x_0 = s x_T / sqrt(abar_T s^2 + 1 - abar_T); with it x_0 has the deviation s."""
    pipeline = unet_pipeline(Gaussian)
    pipeline.scheduler = scheduler_of(name, **more)
    labels = [0, 1, 2] * 10
    generators = seeded(*range(30))
    x_T = torch.stack([torch.randn(1, 8, 8, generator=generator) for generator in generators])
    x_0 = pipeline(labels, num_inference_steps=100, output_type="latent").images
    abar = linear_alphas_cumprod()[-1]
    for label in range(3):
        s, own = 0.5 * (label + 1), slice(label, None, 3)
        if name in NOISY or "Parallel" in name or name == "SASolverScheduler" or "sde" in str(more):
            assert abs(x_0[own].std() / s - 1) < 0.12  # 640 values
        else:
            exact = s * x_T[own] / (abar * s**2 + 1 - abar) ** 0.5
            assert (x_0[own] - exact).abs().max() / exact.abs().max() < 0.06


@pytest.mark.parametrize("steps", [1, 2, 3])
@pytest.mark.parametrize("name", sorted(COMPATIBLE - {"EDMEulerScheduler", "DPMSolverSDEScheduler"}))
def test_few_steps_are_drawn_or_refused_in_one_sentence(name: str, steps: int) -> None:
    pipeline = unet_pipeline()
    pipeline.scheduler = scheduler_of(name)
    try:
        expected = by_hand(pipeline, [0, 2, 3], seeded(0, 1, 2), steps)
    except Exception:
        with pytest.raises(InputError, match=rf"{name} cannot draw in num_inference_steps={steps} \("):
            latents(pipeline, num_inference_steps=steps)
        assert (name, steps < 4) == ("PNDMScheduler", True)
        return
    assert torch.equal(latents(pipeline, num_inference_steps=steps), expected)


@pytest.mark.parametrize("name", ["DDPMScheduler", "DDPMParallelScheduler"])
def test_a_scheduler_of_learned_variance_reads_it_and_its_result_holds_no_noise(name: str) -> None:
    pipeline = dit_pipeline()
    pipeline.scheduler = scheduler = scheduler_of(name, variance_type="learned_range", clip_sample=False)
    found, generators = latents(pipeline, seeds=[4, 5, 6]), seeded(4, 5, 6)
    scheduler.set_timesteps(5)
    x = torch.stack([torch.randn(pipeline.shape(), generator=generator) for generator in generators])
    with torch.no_grad():
        for t in scheduler.timesteps:
            output = pipeline.network(x, t.expand(3), torch.tensor([0, 2, 3])).sample
            step = scheduler.step(output, t, x, generator=generators)
            x = step.prev_sample
    assert torch.equal(found, step.pred_original_sample)
    plain = dit_pipeline(CHANNELS)
    plain.scheduler = scheduler
    with pytest.raises(
        InputError, match=rf"{name} has variance_type 'learned_range', but the model predicts no variance"
    ):
        latents(plain)


HALF_AND_DOUBLE = [torch.float16, torch.bfloat16, torch.float64]


CAST = [(unet_pipeline, name) for name in sorted(COMPATIBLE - {"EDMEulerScheduler", "DPMSolverSDEScheduler"})]


@pytest.mark.parametrize(
    ("build", "name", "dtype"),
    [
        pytest.param(build, name, dtype, marks=[] if build is dit_pipeline or i % 3 == k else [pytest.mark.slow])
        for i, (build, name) in enumerate([*CAST, (dit_pipeline, "DDIMScheduler"), (dit_pipeline, "PNDMScheduler")])
        for k, dtype in enumerate(HALF_AND_DOUBLE)
    ],
)
def test_a_pipeline_cast_to_any_format_draws_what_the_loop_draws(
    build: Callable[[], Any], name: str, dtype: torch.dtype
) -> None:
    pipeline = build().to(dtype)
    pipeline.scheduler = scheduler_of(name)
    found = latents(pipeline)
    assert found.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    assert torch.equal(found, by_hand(pipeline, [0, 2, 3], seeded(0, 1, 2)))
    images = pipeline(["a"], num_inference_steps=4, output_type="uint8", guidance_scale=2.0).images
    assert images.dtype == torch.uint8


@pytest.mark.numerical
@pytest.mark.parametrize(("dtype", "near"), zip(HALF_AND_DOUBLE, (3e-2, 3e-1, 1e-4), strict=True))
@pytest.mark.parametrize("build", [unet_pipeline, dit_pipeline])
def test_other_formats_draw_nearly_the_same(build: Callable[[], Any], dtype: torch.dtype, near: float) -> None:
    single, cast = latents(build()), latents(build().to(dtype))
    assert (single - cast).abs().max() < near * single.abs().max()


@pytest.mark.parametrize("dtype", HALF_AND_DOUBLE)
@pytest.mark.parametrize("variant", [None, "fp16"])
@pytest.mark.parametrize("build", [unet_pipeline, dit_pipeline])
def test_a_folder_is_loaded_in_any_format_and_variant(
    build: Callable[[], Any], variant: str | None, dtype: torch.dtype, tmp_path: Path
) -> None:
    pipeline = build().to(dtype)
    pipeline.save_pretrained(tmp_path, variant=variant)
    loaded = type(pipeline).from_pretrained(tmp_path, variant=variant, torch_dtype=dtype)
    loaded.set_progress_bar_config(disable=True)
    assert loaded.network.dtype == dtype
    found, expected = latents(loaded), latents(pipeline)
    if build is unet_pipeline:
        assert torch.equal(found, expected)
    else:  # the table of positions is no weight: cast with the network by `.to`, but not by `from_pretrained`
        assert (found - expected).abs().max() <= 2 * torch.finfo(dtype).eps * expected.abs().max()


def test_a_stock_dit_keeps_the_format_it_was_loaded_in(tmp_path: Path) -> None:
    pipeline = dit_pipeline()
    stock = pipeline.transformer.to_stock().half()
    assert ConditionalDiTPipeline(stock, make_scheduler("ddim")).network.dtype == torch.float16


class Recorder(PipelineCallback):
    tensor_inputs = ["latents"]  # noqa: RUF012

    def callback_fn(self, pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        seen.append((step, float(timestep), given["latents"].clone()))
        return given


seen: list[tuple[int, float, Tensor]] = []


@pytest.mark.parametrize("name", ["DDIMScheduler", "HeunDiscreteScheduler", "PNDMScheduler"])
@pytest.mark.parametrize("callback", [Recorder(), MultiPipelineCallbacks([Recorder()]), Recorder().callback_fn])
def test_a_callback_sees_every_step_and_changes_nothing_by_looking(name: str, callback: Any) -> None:
    pipeline = unet_pipeline()
    pipeline.scheduler = scheduler_of(name)
    seen.clear()
    found = latents(pipeline, callback_on_step_end=callback)
    assert [step for step, _, _ in seen] == list(range(len(pipeline.scheduler.timesteps)))
    assert [t for _, t, _ in seen] == pipeline.scheduler.timesteps.tolist()
    assert torch.equal(seen[-1][2], found)
    assert torch.equal(found, latents(pipeline))


def test_a_callback_may_replace_the_latents_ask_for_nothing_or_interrupt() -> None:
    pipeline = unet_pipeline()
    zeros = latents(pipeline, callback_on_step_end=lambda p, i, t, given: {"latents": given["latents"] * 0})
    assert not zeros.any()
    given: list[dict[str, Any]] = []
    found = latents(pipeline, callback_on_step_end=lambda p, i, t, kw: given.append(kw) or {},
                    callback_on_step_end_tensor_inputs=[])  # fmt: skip
    assert given == [{}] * 5
    assert torch.equal(found, latents(pipeline))

    def interrupt(pipeline: Any, step: int, timestep: Any, given: dict[str, Any]) -> dict[str, Any]:
        pipeline._interrupt = step == 1
        seen.append((step, float(timestep), given["latents"]))
        return {}

    seen.clear()
    assert torch.equal(latents(pipeline, callback_on_step_end=interrupt), seen[1][2])
    assert len(seen) == 2
    assert torch.equal(latents(pipeline), found)  # the next drawing is whole


@pytest.mark.parametrize("build", [unet_pipeline, dit_pipeline])
def test_every_output_type_is_of_the_same_image(build: Callable[[], Any]) -> None:
    pipeline = build()
    output = {kind: pipeline(["b", 1], seeds=[1, 2], num_inference_steps=2, output_type=kind).images
              for kind in ("pil", "np", "pt", "uint8", "latent")}  # fmt: skip
    pixels = output["latent"]
    if build is dit_pipeline:
        with torch.no_grad():
            pixels = pipeline.vae.decode(pixels / pipeline.vae.config.scaling_factor).sample
    unit = (pixels / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).numpy()  # as diffusers' pipelines have it
    assert output["np"].dtype == np.float32
    assert np.array_equal(output["np"], unit)
    assert output["pt"].dtype == torch.float32
    assert np.array_equal(output["pt"].permute(0, 2, 3, 1).numpy(), unit)
    assert output["uint8"].dtype == torch.uint8
    assert np.abs(output["uint8"].permute(0, 2, 3, 1).numpy() - 255 * unit).max() <= 0.501
    for picture, image in zip(output["pil"], output["uint8"], strict=True):
        assert np.array_equal(np.asarray(picture), image.permute(1, 2, 0).squeeze(-1).numpy())
    (alone,) = pipeline(["b", 1], seeds=[1, 2], num_inference_steps=2, output_type="uint8", return_dict=False)
    assert torch.equal(alone, output["uint8"])


@pytest.mark.parametrize("name", ["DDIMScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler"])
def test_generators_are_one_an_image_or_one_for_all(name: str) -> None:
    pipeline = unet_pipeline()
    pipeline.scheduler = scheduler_of(name)
    by_seed = latents(pipeline, seeds=[7, 8, 9])
    assert torch.equal(latents(pipeline, generator=seeded(7, 8, 9)), by_seed)
    (one,), (again,) = seeded(7), seeded(7)
    found = latents(pipeline, generator=one)
    assert torch.equal(found, by_hand(pipeline, [0, 2, 3], again))
    assert not torch.equal(latents(pipeline, generator=one), found)  # it goes on
    alone = pipeline("a", generator=seeded(7), num_inference_steps=5, output_type="latent").images
    torch.testing.assert_close(alone, by_seed[:1], rtol=1e-4, atol=1e-3)  # a batch of another size rounds otherwise


@pytest.mark.parametrize("labels", [["a", "b", "c"], [0, 1, 2], ["a", 1, "c"], [0, "b", np.int64(2)], ("a", "b", "c"),
                                    torch.tensor([0, 1, 2]), np.array([0, 1, 2]), [torch.tensor(0), "B", "2"],
                                    range(3)], ids=str)  # fmt: skip
def test_labels_are_names_and_ids_mixed(labels: Any) -> None:
    found = unet_pipeline()(labels, num_inference_steps=2, output_type="uint8").images
    assert torch.equal(found, unet_pipeline()([0, 1, 2], num_inference_steps=2, output_type="uint8").images)


@pytest.mark.parametrize("label", ["c", 2])
def test_one_label_is_one_image(label: Any) -> None:
    found = unet_pipeline()(label, num_inference_steps=2, output_type="uint8").images
    assert torch.equal(found, unet_pipeline()([2], num_inference_steps=2, output_type="uint8").images)


def test_the_progress_bar_is_configured_as_everywhere(capsys: pytest.CaptureFixture[str]) -> None:
    pipeline = unet_pipeline()
    latents(pipeline)
    assert capsys.readouterr().err == ""
    pipeline.set_progress_bar_config(desc="drawing", mininterval=0)
    latents(pipeline)
    shown = capsys.readouterr().err
    assert "drawing" in shown
    assert "5/5" in shown


@pytest.mark.parametrize("build", [unet_pipeline, dit_pipeline])
def test_offloading_names_every_network_and_draws_the_same(build: Callable[[], Any]) -> None:
    pipeline = build()
    expected = pipeline(["a"], num_inference_steps=2, output_type="uint8").images
    networks = [name for name, part in pipeline.components.items() if isinstance(part, torch.nn.Module)]
    assert sorted(pipeline.model_cpu_offload_seq.split("->")) == sorted(networks)
    pipeline.enable_model_cpu_offload(device=torch.device("cpu"))  # its hooks, without a second device
    for _ in range(2):
        assert torch.equal(pipeline(["a"], num_inference_steps=2, output_type="uint8").images, expected)
    pipeline.remove_all_hooks()


def test_a_drawing_that_fails_leaves_the_network_as_it_was() -> None:
    pipeline = unet_pipeline()
    pipeline.network.train()
    with pytest.raises(ZeroDivisionError):
        latents(pipeline, callback_on_step_end=lambda *_: 1 / 0)
    assert pipeline.network.training


class SeedsItself(diffusers.DDIMScheduler):
    """As DPMSolverSDEScheduler, which needs a library of its own."""

    noise_sampler_seed = None


REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "too few generators": ({"generator": seeded(0, 1)}, "3 labels and 2 generators; give one an image"),
    "too many generators": ({"generator": seeded(0, 1, 2, 3)}, "3 labels and 4 generators"),
    "no generators": ({"generator": []}, "3 labels and 0 generators"),
    "a generator that is none": ({"generator": 3}, "generator is 3, expected a torch.Generator or a list"),
    "generators that are none": ({"generator": [1, 2, 3]}, "expected a torch.Generator or a list"),
    "seeds and generators": ({"generator": seeded(0, 1, 2), "seeds": [0, 1, 2]}, "give one or the other"),
    "too few seeds": ({"seeds": [0]}, "3 labels and 1 seeds; give one seed an image"),
    "an unknown output": ({"output_type": "pill"}, "output_type is 'pill', expected pil, np, pt, uint8, latent"),
    "an unknown tensor": ({"callback_on_step_end": lambda *_: {}, "callback_on_step_end_tensor_inputs": ["prompts"]},
                          "Callbacks are given 'latents', not 'prompts'"),
    "no steps": ({"num_inference_steps": 0}, "num_inference_steps is 0, expected a whole number above 0"),
    "steps below 0": ({"num_inference_steps": -1}, "num_inference_steps is -1"),
    "half a step": ({"num_inference_steps": 2.5}, "num_inference_steps is 2.5"),
    "too many steps": ({"num_inference_steps": 1001}, "DDIMScheduler cannot draw in num_inference_steps=1001"),
    "no labels": ({"class_labels": []}, "class_labels is empty"),
    "half a label": ({"class_labels": [0.5, 1, 2]}, "A label is 0.5, expected the id or the name of a class"),
    "no label": ({"class_labels": [None, 1, 2]}, "A label is None"),
    "an unknown id": ({"class_labels": [5, 1, 2]}, "no class 5: ids are 0 to 4, the last meaning no class"),
    "an unknown name": ({"class_labels": "abc"}, "There is no class 'abc'"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_drawn_is_refused_in_one_sentence(case: str) -> None:
    options, sentence = REFUSED[case]
    with pytest.raises(InputError) as error:
        unet_pipeline()(**({"class_labels": ["a", 2, 3], "num_inference_steps": 2} | options))
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("build", "sentence"),
    [
        (lambda: scheduler_of("EDMEulerScheduler"), "EDMEulerScheduler does not sample from models of noise"),
        (lambda: diffusers.FlowMatchEulerDiscreteScheduler(), "FlowMatchEulerDiscreteScheduler does not sample"),
        (lambda: diffusers.RePaintScheduler(), "RePaintScheduler does not sample"),
        (lambda: diffusers.CMStochasticIterativeScheduler(), "CMStochasticIterativeScheduler does not sample"),
        (lambda: SeedsItself(), "SeedsItself draws noise that no generator of the pipeline seeds"),
    ],
)
def test_a_scheduler_of_other_models_is_refused_by_name(build: Callable[[], Any], sentence: str) -> None:
    pipeline = unet_pipeline()
    pipeline.scheduler = build()
    with pytest.raises(InputError, match=sentence):
        latents(pipeline)


def test_values_that_are_not_finite_are_no_image() -> None:
    """This setting of diffusers' divides by a final sigma of 0, which no draw shows but as black images."""
    pipeline = unet_pipeline()
    pipeline.scheduler = scheduler_of("UniPCMultistepScheduler", solver_type="bh1")
    for output_type in ("pil", "np", "pt", "uint8", "latent"):
        with pytest.raises(InputError, match=r"UniPCMultistepScheduler drew values that are not finite .*float32"):
            pipeline(["a"], num_inference_steps=5, output_type=output_type)
