"""The settings that searching and retraining recurrent cells share."""

from typing import Any, ClassVar, Self

from pydantic import Field, model_validator

from darts_lib.data.text import TEXTS, fingerprint
from darts_lib.engine.settings import RunConfig
from darts_lib.recurrent.network import Dropout


class TextConfig(RunConfig):
    """Settings of a run on text. `width` is that of the embedding and of the hidden state alike.

    `max_tokens` takes only the first tokens of the training text, `max_steps` ends every epoch
    after so many steps; 0 is all. `bptt` is the number of words through which gradients flow. The
    learning rate belongs to a segment of `bptt` words: a shorter one gets its share of it.
    `clip` limits the gradient's norm. `tar` weighs the squared change of the hidden state between
    two steps, `ar` its squared size after dropout (Merity et al., 2017). `auto` is no graph here.
    """

    AUTOMATIC = ()
    KNOWN_DATA = "text", TEXTS
    FILLED_BY_SCALE: ClassVar[tuple[str, ...]] = ("epochs", "dataset", "batch_size", "width")

    dataset: str = "penn"
    max_tokens: int = Field(0, ge=0)
    width: int = Field(300, ge=1, le=100_000)
    bptt: int = Field(35, ge=2)
    learning_rate: float = Field(20.0, gt=0)
    weight_decay: float = Field(5e-7, ge=0)
    clip: float = Field(0.25, gt=0)
    tar: float = Field(1e-3, ge=0)
    ar: float = Field(0.0, ge=0)
    dropout_words: float = Field(0.0, ge=0, lt=1)
    dropout_embedding: float = Field(0.2, ge=0, lt=1)
    dropout_cell_input: float = Field(0.75, ge=0, lt=1)
    dropout_hidden: float = Field(0.25, ge=0, lt=1)
    dropout_output: float = Field(0.75, ge=0, lt=1)

    @model_validator(mode="after")
    def _refuse_image_settings(self) -> Self:
        for name in ("image_size", "max_images"):
            if getattr(self, name):
                raise ValueError(f"{name} is for images; for text use max_tokens")
        for switch in ("amp", "compile"):
            if getattr(self, switch) == "on":
                raise ValueError(f"{switch}='on' is for images; recurrent cells are float32 code")
        return self

    def fingerprint(self) -> dict[str, Any]:
        """Return that of one's own text."""
        return fingerprint(self.dataset, self.data_folder)

    @property
    def dropout(self) -> Dropout:
        """Return the probabilities of dropping."""
        return Dropout(**{name: getattr(self, f"dropout_{name}") for name in vars(Dropout())})
