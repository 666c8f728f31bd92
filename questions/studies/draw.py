"""The figure over all studies."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping

from plot_utils import _rows, figure
from plotting import several


@figure("all_studies", several.studies, ratios=several.one_of_studies)
def plot_studies(table: Iterable[Mapping], save_dir: str | os.PathLike = "plots", pooled: Iterable[Mapping] = ()):
    """PD ratios to ReLU in several studies, with 95 % intervals: a forest plot per activation.
    Writes `all_studies.png`. Panel: ratios, for the rows of one activation.

    Args:
        table: one mapping per study and activation: `study`, `model`, `dataset`, `activation`, `ratio`, `low`, `high`
            (None: no interval).
        pooled: one mapping per activation: `activation`, `ratio`, `low`, `high` over all studies (the exponential of
            what pooling.random_effects gives): drawn as a diamond.

    Raises:
        UserError: `table` is empty.
        storage.StorageError: the disk refuses.
    """
    return _rows(table), list(pooled)
