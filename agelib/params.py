"""The parameters of each notebook, checked: a misspelt name or a value of the wrong kind stops the notebook at once.

papermill only warns about a parameter that a notebook does not declare; `read` raises. Each model has exactly the names
of its notebook's parameters cell.
"""

from __future__ import annotations

import dataclasses
import os
from pathlib import Path
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

Model = TypeVar("Model", bound=BaseModel)
Config = TypeVar("Config")

_LITERALS = (bool, int, float, str, list, dict, tuple, type(None))
_JUPYTER = {"In", "Out", "exit", "quit"}
_READ = "_agelib_parameters_read"


class _Notebook(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    out_dir: str
    profile: str
    run_name: str

    @field_validator("out_dir", "results_dir", "reference", "rivals_dir", check_fields=False)
    @classmethod
    def _from_the_root(cls, path: str | None) -> str | None:
        return None if path is None else from_root(path)


class RivalSettings(BaseModel):
    """How one rival of `agelib.rivals` is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_epochs: int = Field(ge=1)
    more_epochs: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, ge=2)
    width: float | None = Field(default=None, gt=0)
    M: int | None = Field(default=None, ge=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    init: Literal["released", "he"] | None = None
    lr: float | None = Field(default=None, gt=0)
    d_lr: float | None = Field(default=None, gt=0)
    noise: float | None = Field(default=None, ge=0)
    ema: float | None = Field(default=None, ge=0, lt=1)
    max_steps: int | None = Field(default=None, ge=1)


class Unconditional(_Notebook):
    """01_unconditional."""

    dataset: str
    size: Literal[32, 64]
    channels: Literal[1, 3] | None
    limit: int | None = Field(ge=2)
    width: int = Field(ge=1)
    e_width: int | None = Field(ge=1)
    M: int = Field(ge=2)
    prior: Literal["sphere", "gaussian"]
    objective: Literal["released", "paper"]
    divergence: Literal["gaussian", "nearest"]
    lam: float = Field(ge=0)
    mu: float = Field(ge=0)
    n_g_steps: int = Field(ge=1)
    lr: float = Field(gt=0)
    drop_lr: int = Field(ge=0)
    recon_x_in_g: float = Field(ge=0)
    margin: float | None
    extra_kl_real: float = Field(ge=0)
    spectral_norm: bool
    in_bias: bool
    ema: float = Field(ge=0, lt=1)
    ema_e: float = Field(ge=0, lt=1)
    mean_bias: bool
    batch_size: int = Field(ge=2)
    n_epochs: int = Field(ge=1)
    max_steps: int | None = Field(ge=1)
    finetune_epochs: int = Field(ge=0)
    finetune_batch_size: int = Field(ge=2)
    finetune_mu: float = Field(ge=0)
    rivals: dict[Literal["ali", "vae", "gan"], RivalSettings]
    rivals_dir: str | None
    epoch_repeats: int = Field(ge=0)
    classifier_steps: int = Field(ge=0)
    n_samples: int = Field(ge=64)
    seed: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    checkpoint_every_s: float = Field(ge=0)
    reference: str

    def stabilisers(self) -> str:
        """What this run switches on that the paper does not have, for titles and the rows' notes; "" for none."""
        used = {
            f"margin {self.margin}": self.margin is not None,
            f"extra KL real {self.extra_kl_real:g}": self.extra_kl_real,
            "spectral norm": self.spectral_norm,
            "bias in the encoder's first layer": self.in_bias,
            f"averaged generator {self.ema:g}": self.ema,
            f"averaged encoder {self.ema_e:g}": self.ema_e,
            "last bias at the data's mean": self.mean_bias,
            f"encoder of width {self.e_width}": self.e_width not in (None, self.width),
        }
        names = [name for name, on in used.items() if on]
        return f"stabilisers: {', '.join(names)}" if names else ""


class _Settings(BaseModel):
    """How one model of several is trained; None: the method's own default, and not for methods without it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def given(self) -> dict[str, Any]:
        """The settings that are not None."""
        return self.model_dump(exclude_none=True)


class DecoderSettings(_Settings):
    """One model of `agelib.decoders`."""

    n_epochs: int = Field(ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=2)
    encoder: Literal["mlp", "conv"] = "mlp"
    lr: float | None = Field(default=None, gt=0)
    objective: Literal["released", "paper"] | None = None
    lam: float | None = Field(default=None, ge=0)
    mu: float | None = Field(default=None, ge=0)
    margin: float | None = None
    extra_kl_real: float | None = Field(default=None, ge=0)
    n_g_steps: int | None = Field(default=None, ge=1)
    drop_lr: int | None = Field(default=None, ge=0)
    ema: float | None = Field(default=None, ge=0, lt=1)
    recon_x: Literal["l1", "l2"] | None = None
    recon_x_in_g: float | None = Field(default=None, ge=0)
    d_lr: float | None = Field(default=None, gt=0)
    noise: float | None = Field(default=None, ge=0)
    sigma2: float | None = Field(default=None, gt=0)


class Likelihood(_Notebook):
    """04_mnist_likelihood."""

    dataset: str
    size: int = Field(ge=8)
    limit: int | None = Field(ge=2)
    M: int = Field(ge=1)
    models: dict[Literal["age", "age_gaussian", "age_lx", "ali", "vae", "gan"], DecoderSettings] = Field(min_length=1)
    n_validation: int = Field(ge=1)
    variances: list[float] = Field(min_length=1)
    variance_chains: int = Field(ge=1)
    variance_distributions: int = Field(ge=2)
    n_test: int = Field(ge=2)
    n_train: int = Field(ge=0)
    n_bdmc: int = Field(ge=0)
    n_chains: int = Field(ge=1)
    n_distributions: int = Field(ge=2)
    step_per_image: bool
    kde_samples: int = Field(ge=0)
    iwae_samples: int = Field(ge=0)
    convergence: list[int]
    convergence_images: int = Field(ge=1)
    question: list[str] | None = Field(min_length=2, max_length=2)
    seed: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    checkpoint_every_s: float = Field(ge=0)
    reference: str


class ColorizerSettings(_Settings):
    """One model of `agelib.colorizers`."""

    n_epochs: int = Field(ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=64, ge=1)
    width: int | None = Field(default=None, ge=1)
    e_width: int | None = Field(default=None, ge=1)
    n_blocks: int | None = Field(default=None, ge=0)
    in_bias: bool | None = None
    ab_gain: float | None = Field(default=None, gt=0)
    lr: float | None = Field(default=None, gt=0)
    drop_lr: int | None = Field(default=None, ge=0)
    lam: float | None = Field(default=None, ge=0)
    mu: float | None = Field(default=None, ge=0)
    n_g_steps: int | None = Field(default=None, ge=1)
    margin: float | None = None
    extra_kl_real: float | None = Field(default=None, ge=0)
    ema: float | None = Field(default=None, ge=0, lt=1)
    objective: Literal["released", "paper"] | None = None
    recon_x_in_g: float | None = Field(default=None, ge=0)
    l1: float | None = Field(default=None, ge=0)


class Colorization(_Notebook):
    """02_colorization."""

    dataset: str
    size: Literal[32, 64]
    limit: int | None = Field(ge=2)
    M: int = Field(ge=2)
    models: dict[Literal["age", "autoencoder", "pix2pix", "regression"], ColorizerSettings]
    flip: bool
    n_images: int = Field(ge=8)
    n_codes: int = Field(ge=2)
    picture: str | None
    target: str | None
    seed: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    checkpoint_every_s: float = Field(ge=0)
    reference: str

    @field_validator("models")
    @classmethod
    def _with_age(cls, models: dict) -> dict:
        if "age" not in models:
            raise ValueError("the notebook shows what AGE does: models needs age")
        return models


class ModelSettings(_Settings):
    """One model of `agelib.models`."""

    method: Literal["age", "ali", "vae", "gan"] = "age"
    n_steps: int = Field(default=0, ge=0)
    batch_size: int = Field(default=64, ge=2)
    width: float | None = Field(default=None, gt=0)
    M: int | None = Field(default=None, ge=1)
    prior: Literal["sphere", "gaussian"] | None = None
    noisy_code: float | None = Field(default=None, gt=0)
    in_bias: bool | None = None
    mean_bias: bool | None = None
    objective: Literal["released", "paper"] | None = None
    lam: float | None = Field(default=None, ge=0)
    mu: float | None = Field(default=None, ge=0)
    margin: float | None = None
    extra_kl_real: float | None = Field(default=None, ge=0)
    n_g_steps: int | None = Field(default=None, ge=1)
    lr: float | None = Field(default=None, gt=0)
    drop_lr: int | None = Field(default=None, ge=0)
    ema: float | None = Field(default=None, ge=0, lt=1)
    dropout: float | None = Field(default=None, ge=0, lt=1)
    init: Literal["released", "he"] | None = None
    d_lr: float | None = Field(default=None, gt=0)
    noise: float | None = Field(default=None, ge=0)


class JudgeSettings(BaseModel):
    """How the classifier of `agelib.judge` is trained."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    n_epochs: int = Field(ge=1)
    width: int = Field(default=32, ge=1)
    batch_size: int = Field(default=256, ge=2)
    lr: float = Field(default=0.2, gt=0)
    flip: bool = True


class Scores(_Notebook):
    """03_inception_score."""

    needs: dict[str, str]
    dataset: str
    size: Literal[32, 64]
    channels: Literal[1, 3] | None
    limit: int | None = Field(ge=2)
    classifier: JudgeSettings
    models: dict[str, ModelSettings]
    from_runs: dict[str, str]
    n_seeds: int = Field(ge=1)
    snapshots: int = Field(ge=1)
    n_samples: int = Field(ge=10)
    n_curve: int = Field(ge=10)
    n_splits: int = Field(ge=1)
    inception: bool
    inception_weights: str | None
    n_inception: int = Field(ge=10)
    seed: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    checkpoint_every_s: float = Field(ge=0)
    reference: str


class Features(_Notebook):
    """05_svhn_features."""

    dataset: str
    size: Literal[32, 64]
    limit: int | None = Field(ge=2)
    models: dict[Literal["AGE", "ALI", "DCGAN"], ModelSettings]
    n_components: int = Field(ge=1)
    per_class: int = Field(ge=1)
    n_valid: int = Field(ge=1)
    n_draws: int = Field(ge=1)
    patience: int | None = Field(ge=1)
    n_jobs: int = Field(ge=1)
    study: dict[str, dict[str, ModelSettings]]
    study_base: ModelSettings | None
    study_snapshots: int = Field(ge=1)
    study_draws: int = Field(ge=1)
    label_counts: list[int] = Field(min_length=1)
    seed: int = Field(ge=0)
    device: str
    precision: Literal["auto", "fp32", "bf16"]
    checkpoint_every_s: float = Field(ge=0)
    reference: str


class Theory(_Notebook):
    """06_theory."""

    n_seeds: int = Field(ge=1)
    grid_steps: int = Field(ge=1)
    grid_batch: int = Field(ge=2)
    grid_width: int = Field(ge=1)
    reciprocity_steps: int = Field(ge=25)
    seed: int = Field(ge=0)
    reference: str


class Summary(_Notebook):
    """99_summary."""

    results_dir: str
    reference: str


MODELS: dict[str, type[BaseModel]] = {
    "01_unconditional": Unconditional,
    "02_colorization": Colorization,
    "03_inception_score": Scores,
    "04_mnist_likelihood": Likelihood,
    "05_svhn_features": Features,
    "06_theory": Theory,
    "99_summary": Summary,
}


def from_root(path: str) -> str:
    """A relative path counts from the repository root, also where the kernel starts in notebooks/, as JupyterLab's does.

    The root is the nearest folder at or above the working folder that has a pyproject.toml; without one, or for an
    absolute path, `path` is returned as it is.
    """
    here = Path.cwd()
    roots = [folder for folder in (here, *here.parents) if (folder / "pyproject.toml").exists()]
    return path if os.path.isabs(path) or not roots else os.path.relpath(roots[0] / path, here)


class ParameterError(ValueError):
    """A notebook parameter is unknown, missing, or of the wrong kind; the message lists each."""


def read(model: type[Model], namespace: dict[str, Any]) -> Model:
    """Collect the parameters from a notebook's globals and check them; call it in the cell after the parameters.

    namespace: `globals()`. On the first call in a kernel every public name that holds a plain literal counts as a
    parameter, so that an injected name which the notebook does not declare is an error. When the cell is run again
    by hand, later cells' variables are there too, and only the declared names are read. Raises ParameterError.
    """
    literals = {k: v for k, v in namespace.items() if not k.startswith("_") and k not in _JUPYTER}
    literals = {k: v for k, v in literals.items() if isinstance(v, _LITERALS)}
    if namespace.get(_READ):
        literals = {k: v for k, v in literals.items() if k in model.model_fields}
    try:
        parameters = model(**literals)
    except ValidationError as error:
        lines = [f"{'.'.join(map(str, e['loc']))}: {e['msg']} (got {e['input']!r})" for e in error.errors()]
        raise ParameterError(f"{model.__doc__} parameters: " + "; ".join(lines)) from None
    namespace[_READ] = True
    return parameters


def settings(parameters: BaseModel, config: type[Config]) -> Config:
    """The frozen dataclass `config` with those of its fields that `parameters` names."""
    names = {f.name for f in dataclasses.fields(config)}
    return config(**{k: v for k, v in parameters.model_dump().items() if k in names})
