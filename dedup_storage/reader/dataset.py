"""DedupDataset: a version of a dataset as an iterable of deduplicated batches."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from rich.progress import Progress as Progressbar
from torch.utils.data import IterableDataset, get_worker_info

from dedup_storage.config import Settings, load_settings
from dedup_storage.errors import ConfigError
from dedup_storage.reader.batch import DedupBatch, Progress
from dedup_storage.reader.cache.file_cache import FileCache, check_cache
from dedup_storage.reader.decode.encode import is_list
from dedup_storage.reader.decode.split import ArrowTransform
from dedup_storage.reader.epoch.iterate import BatchIterator, Cursor, Job, Shard, default_threads
from dedup_storage.reader.epoch.loader import check_loader
from dedup_storage.reader.epoch.ranks import Ranks
from dedup_storage.reader.epoch.shared import SharedPosition, check_picklable
from dedup_storage.reader.epoch.tally import Tally
from dedup_storage.reader.open.plan import ReadPlan, make_plan
from dedup_storage.reader.options import Ends, Filters, ReadOptions, Unit
from dedup_storage.reader.order import EpochOrder
from dedup_storage.reader.state import Position, ReaderState
from dedup_storage.reader.vocabulary import IdVocabulary
from dedup_storage.schema import Grain
from dedup_storage.words import counted

__all__ = ["DedupDataset"]

Transform = Callable[[DedupBatch], Any]


class DedupDataset(IterableDataset[Any]):
    """Deduplicated batches of one version of a dataset; use it with ``DataLoader(dataset, batch_size=None)``.

    The sequence of batches depends on the version, the options, the seed and the epoch, never on the number of
    ranks or workers: batch i of the sequence goes to rank ``i % world_size``.

    Args:
        name: The dataset.
        settings: Where its catalog is, or the file that says so; ``None`` finds that as ``connect`` does.
        version: Version number; ``None`` takes the newest.
        columns: Columns to read, of any grain; ``None`` reads all that a tensor can hold.
            ``user_ids()`` and ``item_ids()`` of a batch need the user and the item column.
        filters: ``Filters``, or its fields as a mapping: start, end, users, buckets; and any stored column, such as
            ``{"country": ["DE", "FR"], "age": {">=": 18}}``.
        batch_size: Size of a batch in ``unit``; a larger request is a batch of its own.
        unit: ``impressions``, ``requests`` or ``tokens``.
        shuffle: Whether the order changes with ``seed`` and epoch; ``together`` goes with it.
        seed: Seed of the order.
        rank: This process among ``world_size``; ``None`` asks torch.distributed, then ``RANK`` and ``WORLD_SIZE``,
            whenever the dataset is iterated.
        world_size: Processes that share the epoch.
        ends: When the last round lacks batches for some ranks: ``drop`` it, ``pad`` with empty batches, ``repeat``
            earlier ones (marked), or leave ranks ``uneven``.
        transform: Called with every ``DedupBatch`` in the worker; its result is delivered.
        arrow_transform: Called with the Arrow tables (requests, impressions) of every shuffle window before tensors
            exist; may change columns, not rows.
        prefetch: Batches made ahead by a thread; 0 makes each when it is asked for and starts no thread at all. Without
            a ``transform`` and workers, up to eight small ones that are at most 1 MiB together count as one.
        threads: Threads that decode, in each worker; ``None`` shares the machine's processors among the workers. None
            are started where ``prefetch`` is 0.
        tokens: With unit ``tokens``, the list column whose elements count.
        splits: Logical splits that the batches are dealt from in turn; every worker of every rank needs one, and each
            keeps files open. ``None`` chooses from the dataset.
        buffer_bytes: Decoded bytes that the shuffle windows of all splits hold together.
        mix: Segments whose requests are mixed in one shuffle window.
        oversize: A request larger than a batch is a batch of its own (``own``), or several, marked (``split``).
        drop_last: Whether a split's last, smaller batch is left out.
        strings: Codes into the batch's vocabulary (``dictionary``) or a stable 64-bit hash (``hash``).
        vocabularies: Column -> vocabulary whose ids are delivered in place of the column's values (int32, 0 for null
            and for what it does not hold); see ``open_vocabulary``.
        sample: Name of a stored sample to read; its filters are used in place of ``filters``.
        orphans: Impressions without a request are an error (``raise``) or left out (``skip``).
        cache: Keeps what is read of a remote warehouse in a folder of this machine; see ``FileCache``.
        history_length: Newest elements of each history list (the schema's sequences) to deliver; in layout ``user``
            older events are not decoded. ``None`` delivers whole lists.
        together: Requests of one user that the shuffle keeps one after the other, at most, in the order of their files;
            1 shuffles single requests. Requests of a batch are the less independent the more it is: see
            ``diagnose_order``.
        across_dates: Read all dates of a user bucket as one unit, user by user: in layout ``user`` an event is decoded
            once in an epoch whatever the date grain, and ``together`` holds over dates. The files of all dates are open
            at once, and a bucket's keys are read together.
        histories: Request-grain lists as lists of their own (``lists``), or each event once for all requests of the
            batch that share it (``shared``): ``batch.shared``, and ``batch[name]`` makes the lists on the device.

    Raises:
        DatasetNotFoundError: no such dataset.
        VersionNotFoundError: no such version.
        UnknownColumnError: a column that the dataset does not have; names those it has.
        ConfigError: an option is out of range, or two exclude each other.
        StorageError: the catalog or a file cannot be read.
    """

    def __init__(
        self,
        name: str,
        settings: Settings | str | Path | None = None,
        *,
        version: int | None = None,
        columns: Sequence[str] | str | None = None,
        filters: Filters | Mapping[str, Any] | None = None,
        batch_size: int = 4096,
        unit: Unit | str = Unit.IMPRESSIONS,
        shuffle: bool = True,
        seed: int = 0,
        rank: int | None = None,
        world_size: int | None = None,
        ends: Ends | str = Ends.REPEAT,
        transform: Transform | None = None,
        arrow_transform: ArrowTransform | None = None,
        prefetch: int = 2,
        threads: int | None = None,
        tokens: str | None = None,
        splits: int | None = None,
        buffer_bytes: int = 512 * 1024**2,
        mix: int = 4,
        oversize: Literal["own", "split"] = "own",
        drop_last: bool = False,
        strings: Literal["dictionary", "hash"] = "dictionary",
        vocabularies: Mapping[str, IdVocabulary] | None = None,
        sample: str | None = None,
        orphans: Literal["raise", "skip"] = "raise",
        cache: FileCache | None = None,
        history_length: int | None = None,
        together: int = 1,
        across_dates: bool = False,
        histories: Literal["lists", "shared"] = "lists",
    ) -> None:
        super().__init__()
        self._ranks = Ranks.of(rank, world_size)
        if ends not in list(Ends):
            raise ConfigError("the option ends is not valid", expected="one of " + ", ".join(Ends), got=str(ends))
        check_cache(cache)
        _check_least(version=(version, 1), prefetch=(prefetch, 0), threads=(threads, 1))
        self.ends, self.prefetch, self.threads = Ends(ends), prefetch, threads
        self.transform, self.arrow_transform = transform, arrow_transform
        options = ReadOptions.build(
            {
                "columns": columns,
                "filters": filters if filters is not None else {},
                "batch_size": batch_size,
                "unit": unit,
                "tokens": tokens,
                "shuffle": shuffle,
                "seed": seed,
                "splits": splits,
                "buffer_bytes": buffer_bytes,
                "mix": mix,
                "oversize": oversize,
                "drop_last": drop_last,
                "strings": strings,
                "sample": sample,
                "orphans": orphans,
                "history_length": history_length,
                "together": together,
                "across_dates": across_dates,
                "histories": histories,
            }
        )
        self.plan: ReadPlan = make_plan(name, _settings_given(settings), version, options, vocabularies, cache)
        for told in (*_told(self.plan), *_idle(self.plan, arrow_transform is not None, prefetch, threads)):
            warnings.warn(told, UserWarning, stacklevel=2)
        # Shared memory, so that epoch and position reach workers that are already running.
        self._shared = SharedPosition()
        self._cursor: Cursor | None = None
        # What ``track`` saw, whether it is at work, and the workers' passes that this process knows of.
        self._tally: Tally | None = None
        self._tracking = False
        self._seen_passes = 0
        self._order: EpochOrder | None = None

    def __getstate__(self) -> dict[str, Any]:
        # Workers that are spawned get a pickled copy: say which hook does not travel.
        for option in ("transform", "arrow_transform"):
            check_picklable(option, getattr(self, option))
        self._look_at_loader()
        forgotten = {"_cursor": None, "_tally": None, "_tracking": False, "_order": None}
        return {**self.__dict__, **forgotten, "_ranks": self._ranks.to_worker()}

    def __repr__(self) -> str:
        plan, options = self.plan, self.plan.options
        known = (plan.totals.requests, "request"), (plan.totals.impressions, "impression")
        rows = ", ".join(counted(rows, what) for rows, what in known if rows is not None) or "rows not counted"
        size = counted(options.batch_size, options.unit.value.removesuffix("s"))
        rank = f", rank {self.rank} of {self.world_size}" if self.world_size > 1 else ""
        missing = f", {counted(plan.users_not_found, 'user')} asked for not found" if plan.users_not_found else ""
        without = f", without {', '.join(plan.left_out)} (no tensor form)" if plan.left_out else ""
        about = f"{rows}, batches of {size}{rank}{missing}{without}"
        return f"DedupDataset({plan.spec.name}, version {plan.version}: {about})"

    @property
    def rank(self) -> int:
        """This process among those that share the epoch."""
        return self._ranks.resolve()[0]

    @property
    def world_size(self) -> int:
        """Processes that share the epoch."""
        return self._ranks.resolve()[1]

    # -- epochs -------------------------------------------------------------------------------------------------
    @property
    def epoch(self) -> int:
        """The epoch that the next iteration reads."""
        return self._shared.epoch

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch of the next iteration; a loaded position in another epoch is dropped."""
        if epoch < 0:
            raise ConfigError("the epoch is negative", expected="0 or more", got=str(epoch))
        self._shared.epoch = epoch
        self._forget()

    def position(self) -> Position:
        """Where the next iteration begins."""
        base = self._shared.base
        return base if base.epoch == self.epoch else Position(self.epoch)

    def order(self) -> EpochOrder:
        """The current epoch's sequence of batches."""
        if self._order is None or self._order.epoch != self.epoch:
            self._order = self.plan.epoch(self.epoch)
        return self._order

    def __len__(self) -> int:
        """Batches that this rank receives in the current epoch; reads all keys unless batches count requests."""
        # Epochs differ in their number of batches; a DataLoader compares a later one with the length of an earlier.
        warnings.filterwarnings("ignore", message=r"Length of IterableDataset DedupDataset\(", category=UserWarning)
        left = len(self.position().remaining(len(self.order())))
        return Shard(self.rank, self.world_size).steps(left, self.world_size, self.ends)

    def __iter__(self) -> BatchIterator:
        worker = get_worker_info()
        workers, number = (worker.num_workers, worker.id) if worker is not None else (1, 0)
        self._look_at_loader()
        if number == 0:
            self._warn_of_same_epoch()
        if worker is None:
            self._forget()
            self._shared.loose = False
        elif number == 0:
            self._shared.begin_worker_pass()
        self.plan.check_splits(self.world_size, workers)
        if number == 0 and workers > 1:
            self._warn_of_uneven_splits(self.world_size * workers)
        shard = Shard(self.rank + self.world_size * number, self.world_size * workers)
        job = Job(
            plan=self.plan,
            order=self.order(),
            world_size=self.world_size,
            ends=self.ends,
            transform=self.transform,
            arrow_transform=self.arrow_transform,
            prefetch=self.prefetch,
            threads=self.threads if self.threads is not None else default_threads(workers),
        )
        self._cursor = Cursor(self.position(), shard, loose=worker is not None and self._shared.loose)
        # A loader that brings its own state puts epoch and position where the main process counts from, too.
        return BatchIterator(job, self._cursor, self._ended, self._shared.load)

    def _warn_of_uneven_splits(self, shards: int) -> None:
        splits = self.plan.splits
        over = splits % shards
        if over:
            warnings.warn(
                f"{splits} splits of {self.plan.spec.name} are no multiple of the {shards} workers of all ranks: each "
                "worker decodes what others decode too. Open the dataset with "
                f"splits={splits + shards - over}, which is another sequence of batches, or take as many workers as "
                "divide the splits",
                UserWarning,
                stacklevel=3,
            )

    def _ended(self, epoch: int) -> None:
        self._shared.read_epoch = epoch

    def _look_at_loader(self) -> None:
        """Refuse a loader that would change what is delivered; remember one that delivers in any order."""
        loose = check_loader(self, lambda: self.world_size)
        if loose is not None:
            self._shared.loose = loose

    def _forget(self) -> None:
        """Nothing was delivered since: an iteration begins."""
        self._cursor, self._tally, self._seen_passes = None, None, self._shared.worker_passes

    def _warn_of_same_epoch(self) -> None:
        whole = self.position() == Position(self.epoch)
        if self._shared.read_epoch != self.epoch or (whole and not self.plan.options.shuffle):
            return
        if not self._shared.warned_once():
            what = "is read again, in the same order" if whole else "is read again, and only what a state left of it"
            warnings.warn(
                f"epoch {self.epoch} of {self.plan.spec.name} {what}: call set_epoch({self.epoch + 1}) before the next "
                "one",
                UserWarning,
                stacklevel=3,
            )

    # -- state --------------------------------------------------------------------------------------------------
    def state_dict(self, after: DedupBatch | Progress | None = None) -> dict[str, Any]:
        """Where this rank stands, as JSON values.

        Args:
            after: The last batch that the trainer received; needed with a plain DataLoader and workers, where this
                process cannot see what they delivered. ``None`` counts what the latest iterator delivered here.

        Raises:
            ConfigError: workers delivered batches that were not counted here, or ``after`` is given where batches come
                in any order.
        """
        plan = self.plan
        if after is not None:
            self._check_order()
            progress = after.progress if isinstance(after, DedupBatch) else after
            steps = progress.place // self.world_size + 1
            return self._state(progress.epoch, steps)
        if get_worker_info() is None and not self._tracking and self._shared.worker_passes != self._seen_passes:
            raise ConfigError(
                f"workers have delivered batches of {plan.spec.name}, and this process did not see which",
                expected="state_dict(after=batch) with the last batch received, or a loop over track(loader)",
                fix="Iterate with `for batch in dataset.track(loader)`, or use torchdata's StatefulDataLoader.",
            )
        if self._tally is not None and self._tally.epoch is not None:
            return self._state(self._tally.epoch, self._tally.steps, tuple(sorted(self._tally.ahead)))
        if self._cursor is not None and self._cursor.base.epoch == self.epoch:
            return self._cursor.state(plan)
        return self._state(self.epoch, 0)

    def _state(self, epoch: int, steps: int, ahead: tuple[int, ...] = ()) -> dict[str, Any]:
        base = self._shared.base if self._shared.base.epoch == epoch else Position(epoch)
        plan = self.plan
        return ReaderState(
            plan.pins, base, self.rank, self.world_size, steps, ahead=ahead, opened=plan.opened
        ).to_dict()

    def _check_order(self) -> None:
        """One batch tells nothing of the others where they come in any order."""
        if self._shared.loose:
            raise ConfigError(
                "batches come in any order with in_order=False, so the last one does not say which were received",
                expected="a loop over track(loader), which counts each of them",
                fix="Iterate with `for batch in dataset.track(loader)` and call state_dict() without `after`.",
            )

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a state was saved, with any number of ranks and workers.

        A state of one rank stands for all of them in step; ``merge_states`` joins those of ranks that were not.

        Raises:
            StateMismatchError: the state belongs to another dataset, version, seed, split count or options.
        """
        saved = ReaderState.from_dict(state)
        saved.check(self.plan.pins, self.plan.opened)
        # Whatever was read before: this is another pass.
        self._shared.read_epoch = None
        if get_worker_info() is None:
            # In a worker the iterator's own state says where to go on; the shared position is the main process's.
            self._shared.load(saved.lockstep)
        self._forget()

    def track(self, loader: Iterable[Any], *, progress: bool = False) -> Iterator[Any]:
        """Iterate over a DataLoader of this dataset so that ``state_dict()`` counts each batch as it is received.

        Needed with a plain DataLoader that has workers; ``transform`` must then return a ``DedupBatch``. Batches may
        come in any order (``in_order=False``).

        Args:
            loader: The loader.
            progress: Whether to show a progress bar of this rank's batches.
        """
        # To count the batches may read all keys.
        steps = len(self) if progress else None
        self._forget()
        self._tracking, tally = True, None
        try:
            with Progressbar(disable=not progress, transient=True) as bar:
                task = bar.add_task(f"{self.plan.spec.name} epoch {self.epoch}", total=steps)
                for batch in loader:
                    if tally is None:
                        # Only now have the workers said in which order they deliver.
                        tally = Tally(self.world_size, ordered=not self._shared.loose)
                    tally.add(batch.progress.epoch, batch.progress.place)
                    # In this process the dataset's own iterator has begun anew since.
                    self._tally, self._seen_passes = tally, self._shared.worker_passes
                    bar.advance(task)
                    yield batch
                # Of a pass without any batch, too, all is known.
                self._seen_passes = self._shared.worker_passes
        finally:
            self._tracking = False


def _check_least(**options: tuple[int | None, int]) -> None:
    """Refuse what is no whole number, and numbers that are too small; each option has its value and the least one."""
    for name, (value, least) in options.items():
        if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < least):
            raise ConfigError(
                f"the option {name} is not valid", expected=f"a whole number, {least} or more", got=repr(value)
            )


def _idle(plan: ReadPlan, transformed: bool, prefetch: int, threads: int | None) -> Iterator[str]:
    """Options that change nothing beside others; no mistake where several readers are given the same ones.

    Args:
        plan: What is read.
        transformed: Whether an Arrow transform may make lists.
        prefetch, threads: As they were given.
    """
    options, types = plan.options, plan.types
    if options.together > 1 and not options.shuffle:
        yield "together changes nothing without shuffle: requests come in the order of the files"
    if prefetch == 0 and threads is not None and threads > 1:
        yield "threads changes nothing beside prefetch=0, which starts no thread at all"
    listed = any(grain is Grain.REQUEST and is_list(types[name]) for name, grain in plan.grains.items())
    if options.histories == "shared" and not listed and not transformed:
        yield "histories='shared' changes nothing: it is about lists of requests, and none is read"


def _told(plan: ReadPlan) -> Iterator[str]:
    """What is no mistake, and would be missed all the same."""
    options, read = plan.options, f"{plan.spec.name}, version {plan.version}"
    if plan.totals.requests == 0 and (options.sample is not None or not options.filters.is_empty):
        what = "the filters leave" if options.sample is None else f"the sample {options.sample} leaves"
        yield f"{what} nothing of {read}: every epoch is empty"
    for group, rows, of in plan.out_of_date:
        yield (
            f"the feature group {group} has values for {rows:,} of {of} of {read}, and null for the others: "
            f"bring it up to date with: dedup-storage features refresh {group} --dataset {plan.spec.name}; "
            "where that changes nothing, what it is computed from lacks them"
        )


def _settings_given(settings: Settings | str | Path | None) -> Settings:
    if settings is not None and not isinstance(settings, Settings | str | Path):
        raise ConfigError(
            "the reader was given no settings",
            expected="Settings, or the file to read them from",
            got=type(settings).__name__,
            fix="Of a lake pass lake.settings.",
        )
    return settings if isinstance(settings, Settings) else load_settings(settings)
