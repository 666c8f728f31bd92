"""The figure of what each source of randomness causes alone."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from config import UserError
from plot_utils import figure
from plotting import one


def decomposed_pds(decomposition: Mapping) -> dict[str, list[float]]:
    """{source: relative PDs} for `plot_sources` of a `…_sources.json`, the order by what it varied."""
    rows = decomposition["sources"].items()
    return {one.source_key(name, row.get("varies")): row["relative_pd"] for name, row in rows}


@figure("{activation}_sources", one.sources, pd=one.source_rows)
def plot_sources(sources: Mapping[str, Iterable[float]], activation: str):
    """How much prediction difference each source of randomness causes alone, and all together.
    Writes `{activation}_sources.png`. Panel: pd.

    Args:
        sources: {'init' | 'order' | 'dropout' | 'bit' | 'all' | 'none' | …: relative PD of each pair of trials}.

    Raises:
        UserError: `sources` is empty, or something else.
        storage.StorageError: the disk refuses.
    """
    lists = isinstance(sources, Mapping) and all(isinstance(x, Iterable) for x in sources.values())
    if not lists or not sources or not isinstance(activation, str):
        raise UserError("sources: a dict of source to relative PDs is needed, such as {'init': [0.08], 'all': [0.09]}")
    return dict(sources), activation
