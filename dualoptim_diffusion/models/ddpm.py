"""The pixel-space conditional DDPM behind the model protocol."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from dualoptim_diffusion.diffusion.process import Process
from dualoptim_diffusion.files.pipeline_folder import check_scheduler, class_names, class_of, forgotten_names
from dualoptim_diffusion.models.denoiser import Denoiser
from dualoptim_diffusion.models.saved_network import read_network
from dualoptim_diffusion.models.stock import AnyUNet, process_of, table_rows, x_0_shape
from dualoptim_diffusion.models.unet_layers import ClassEmbedding
from dualoptim_diffusion.models.unet_module import UNetModule

# Lets `DiffusionPipeline.from_pretrained(folder, custom_pipeline=folder, trust_remote_code=True)` find our class.
PIPELINE_FILE = "from dualoptim_diffusion import ConditionalDDPMPipeline  # noqa: F401\n"


class ConditionalDDPM(Denoiser):
    """A U-Net, native or a stock one with a class table; a last label without a name is the null class."""

    family = "ddpm"
    network: AnyUNet

    def __init__(
        self,
        network: AnyUNet,
        id2label: dict[int, str],
        forgotten: Sequence[str] = (),
        process: Process | None = None,
    ) -> None:
        rows, native = table_rows(network), isinstance(network, UNetModule)
        if rows - len(id2label) not in ((1,) if native else (0, 1)):
            raise ValueError(f"its network knows {rows - native} classes, of which {len(id2label)} are named")
        null_class = len(id2label) if rows > len(id2label) else None
        super().__init__(network, id2label, forgotten, null_class, x_0_shape(network), process=process)

    @property
    def class_tables(self) -> list[nn.Parameter]:
        embedding = self._unet.class_embedding
        table: Any = embedding.table if isinstance(embedding, ClassEmbedding) else embedding
        return [table.weight]

    @property
    def middle(self) -> nn.Module:
        return self._unet.mid_block

    @property
    def _unet(self) -> Any:
        return self.network.unet if isinstance(self.network, UNetModule) else self.network

    def save(self, folder: Path) -> None:
        """Writes a diffusers pipeline folder that `ConditionalDDPMPipeline.from_pretrained` loads."""
        from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline

        self.network.to(memory_format=torch.contiguous_format)  # safetensors takes no other
        parts = (self.network, self.id2label, self.forgotten, self.make_scheduler())
        ConditionalDDPMPipeline.from_parts(*parts).save_pretrained(folder)
        (Path(folder) / "pipeline.py").write_text(PIPELINE_FILE, encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, device: torch.device | str = "cpu") -> "ConditionalDDPM":
        """Reads such a folder."""
        if class_of(folder, "unet") == "ConditionalUNet":
            check_scheduler(folder)
            network = read_network(UNetModule, Path(folder) / "unet").to(device)
            names = class_names(folder) or {i: str(i) for i in range(network.num_classes)}
            return cls(network, names, forgotten_names(folder))
        from dualoptim_diffusion.models.parts import read_parts
        from dualoptim_diffusion.models.pipeline import ConditionalDDPMPipeline

        pipeline = ConditionalDDPMPipeline.from_pretrained(folder, **read_parts(folder))
        return cls(pipeline.to(device).unet, pipeline.id2label, pipeline.forgotten, process_of(folder))
