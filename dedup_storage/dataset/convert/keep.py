"""What a conversion takes along beside the log's rows, and what it leaves; known before it starts."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass

from dedup_storage.dataset.features.stale import stale_window
from dedup_storage.dataset.handle import Cut
from dedup_storage.lake.groups import FeatureGroup, SourceKind
from dedup_storage.layout import LABEL_TIMES, DatasetSpec
from dedup_storage.sampling.definition import Sample
from dedup_storage.sampling.stored import parse_sample
from dedup_storage.schema import Grain

__all__ = ["Kept", "find_kept"]


@dataclass(frozen=True)
class Kept:
    """What a conversion takes along.

    Attributes:
        groups: Feature groups, those that others use first.
        outdated: Names of those that do not follow from the version any more.
        samples: Named samples.
        left: What it leaves, a sentence each.
    """

    groups: tuple[FeatureGroup, ...]
    outdated: frozenset[str]
    samples: tuple[Sample, ...]
    left: tuple[str, ...]


def find_kept(cut: Cut, target: DatasetSpec, format: str, *, drop_features: bool, pin: str) -> Kept:
    """Divide what belongs to a dataset into what is taken along and what is not.

    Args:
        cut: The version that is converted.
        target: The new dataset's description.
        format: Its table format.
        drop_features: Leave the feature groups.
        pin: Label of the conversion's own pin.
    """
    same_format = format == cut.handle.tables.name
    left_groups = dict(_left_groups(cut.groups, same_format=same_format, drop=drop_features))
    groups = _in_order({n: g for n, g in cut.groups.items() if n not in left_groups})
    left_samples: dict[str, str] = {}
    samples: list[Sample] = []
    for sample in (parse_sample(text) for _, text in sorted(cut.meta.samples.items())):
        why = _left_sample(sample, cut.spec, target, same_format=same_format)
        if why:
            left_samples[sample.name] = why
        else:
            samples.append(sample)
    left = [f"the feature group {name}: {why}" for name, why in left_groups.items()]
    left += [f"the sample {name}: {why}" for name, why in left_samples.items()]
    outdated = frozenset(g.name for g in groups if stale_window(cut, g, lookups=same_format) is not None)
    return Kept(tuple(groups), outdated, tuple(samples), (*left, *_left_always(cut, pin)))


def _left_groups(groups: Mapping[str, FeatureGroup], *, same_format: bool, drop: bool) -> Iterator[tuple[str, str]]:
    gone: set[str] = set()
    for name, group in groups.items():
        if drop:
            yield name, "--drop-features asks for it"
        elif group.grain is Grain.EVENT:
            gone.add(name)
            yield name, "it is at event grain, and the new dataset lays its events anew; add it there again"
        elif group.source.kind is SourceKind.JOIN and not same_format:
            gone.add(name)
            yield name, f"tables of the new format have no {group.source.table} to look up in"
    while more := {n for n, g in groups.items() if n not in gone and gone & set(g.uses)}:
        gone |= more
        for name in sorted(more):
            yield name, f"it uses {', '.join(sorted(gone & set(groups[name].uses)))}"


def _in_order(groups: Mapping[str, FeatureGroup]) -> list[FeatureGroup]:
    """The groups, those that others use before these."""
    found: dict[str, FeatureGroup] = {}
    while len(found) < len(groups):
        ready = [g for n, g in groups.items() if n not in found and found.keys() >= set(g.uses) & groups.keys()]
        # Groups never use one another in a circle; what a circle would be is copied as it comes.
        found |= {g.name: g for g in ready or [g for n, g in groups.items() if n not in found]}
    return list(found.values())


def _left_sample(sample: Sample, own: DatasetSpec, target: DatasetSpec, *, same_format: bool) -> str | None:
    spec = sample.spec
    count = sample.of_buckets or own.buckets
    if spec.buckets is not None and (not same_format or count != target.buckets):
        return "it is made of user buckets, and the new dataset has others"
    named: Collection[str | None] = (spec.caps.label, *(stratum.column for stratum in spec.strata))
    for column in named:
        if column is not None and column not in target.source_columns:
            return f"the version has no column {column} of the log"
    return None


def _left_always(cut: Cut, pin: str) -> Iterator[str]:
    meta, name = cut.meta, cut.spec.name
    others = len(meta.version_numbers) - 1
    rest = f", {others} other versions are not" if others else ""
    yield f"the history: version {cut.version} of {name} is converted{rest}; run ids of before are not known there"
    pins = [f"{label} (version {n})" for n in meta.version_numbers for label in meta.pins(n) if label != pin]
    if pins:
        yield f"pins, which name versions of {name}: {', '.join(pins)}"
    if LABEL_TIMES in cut.snapshots:
        yield f"the times of merged late labels ({LABEL_TIMES}): the first merge into the new dataset counts as newest"
    if "quarantine" in cut.snapshots:
        yield "the rows that writes set aside (quarantine)"
