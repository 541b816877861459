"""`lampion.distributions`: probability distributions with PyTorch's names.

Floor 7; imports lampion. Everything here is made of lampion's ops and works on any device. Samples
with `rsample` and log-probabilities are differentiable; `kl_divergence` has closed forms;
`biject_to` and `transform_to` lead from free numbers to those that a constraint allows.

    d = lampion.distributions.Normal(0.0, 1.0)
    x = d.sample((3,))
    d.log_prob(x)
"""

from __future__ import annotations

import importlib
from typing import Any

from . import constraints, transforms
from .betas import Beta, ContinuousBernoulli, Dirichlet, Kumaraswamy
from .categories import (
    Categorical,
    Multinomial,
    OneHotCategorical,
    OneHotCategoricalStraightThrough,
)
from .constraint_registry import biject_to, transform_to
from .counts import Bernoulli, Binomial, Geometric, NegativeBinomial, Poisson
from .distribution import Distribution
from .exp_family import ExponentialFamily
from .gammas import Chi2, Exponential, FisherSnedecor, Gamma, InverseGamma, StudentT
from .kl import kl_divergence, register_kl
from .locations import Cauchy, Gumbel, HalfCauchy, Laplace, Uniform, VonMises
from .multivariate import LKJCholesky, LowRankMultivariateNormal, MultivariateNormal, Wishart
from .normals import HalfNormal, LogisticNormal, LogNormal, Normal
from .relaxed import RelaxedBernoulli, RelaxedOneHotCategorical
from .tails import GeneralizedPareto, Pareto, Weibull
from .transformed import Independent, MixtureSameFamily, TransformedDistribution
from .transforms import *  # noqa: F403

__all__ = ["Bernoulli", "Beta", "Binomial", "Categorical", "Cauchy", "Chi2", "ContinuousBernoulli",
           "Dirichlet", "Distribution", "Exponential", "ExponentialFamily", "FisherSnedecor",
           "Gamma", "GeneralizedPareto", "Geometric", "Gumbel", "HalfCauchy", "HalfNormal",
           "Independent", "InverseGamma", "Kumaraswamy", "LKJCholesky", "Laplace", "LogNormal",
           "LogisticNormal", "LowRankMultivariateNormal", "MixtureSameFamily", "Multinomial",
           "MultivariateNormal", "NegativeBinomial", "Normal", "OneHotCategorical",
           "OneHotCategoricalStraightThrough", "Pareto", "Poisson", "RelaxedBernoulli",
           "RelaxedOneHotCategorical", "StudentT", "TransformedDistribution", "Uniform",
           "VonMises", "Weibull", "Wishart", "biject_to", "constraints", "kl_divergence",
           "register_kl", "transform_to", "transforms", *transforms.__all__]

# PyTorch has a module for each distribution, and programs import from these.
MODULES = {
    "betas": "beta continuous_bernoulli dirichlet kumaraswamy",
    "categories": "categorical multinomial one_hot_categorical",
    "counts": "bernoulli binomial geometric negative_binomial poisson",
    "gammas": "chi2 exponential fishersnedecor gamma inverse_gamma studentT",
    "locations": "cauchy gumbel half_cauchy laplace uniform von_mises",
    "multivariate": "lkj_cholesky lowrank_multivariate_normal multivariate_normal wishart",
    "normals": "half_normal log_normal logistic_normal normal",
    "relaxed": "relaxed_bernoulli relaxed_categorical",
    "tails": "generalized_pareto pareto weibull",
    "transformed": "independent mixture_same_family transformed_distribution",
}


def __getattr__(name: str) -> Any:
    for module, others in MODULES.items():
        if name in others.split():
            return importlib.import_module(f"{__name__}.{module}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
