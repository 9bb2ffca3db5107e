"""Lightning: log how surprised the network is by its validation data, through whatever logger the trainer has."""

from pathlib import Path

import lightning
import torch
from lightning.pytorch.loggers import CSVLogger

from gradfast.integrations.lightning import GradNormsCallback


class Classifier(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        self.net = torch.nn.Linear(8, 3)

    def forward(self, x):
        return self.net(x)

    def training_step(self, batch, _):
        return torch.nn.functional.cross_entropy(self(batch[0]), batch[1])

    def validation_step(self, batch, _):
        self.log("val_loss", torch.nn.functional.cross_entropy(self(batch[0]), batch[1]))

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


data = torch.utils.data.DataLoader(
    torch.utils.data.TensorDataset(torch.randn(32, 8), torch.arange(32) % 3), batch_size=8
)
logger = CSVLogger(".")  # or TensorBoardLogger, WandbLogger, MLFlowLogger, ...
trainer = lightning.Trainer(max_epochs=2, callbacks=[GradNormsCallback()], accelerator="cpu", logger=logger, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False)  # fmt: skip
trainer.fit(Classifier(), data, data)
print(Path(logger.log_dir, "metrics.csv").read_text())
