"""The training loop, which trains, evaluates, reports and saves."""

import dataclasses
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import data
import jax
import ml_collections
import numpy as np
import processes
import replica_stats
import signals
from evaluation import evaluate, means
from parallel import Parallel
from report import Metrics
from run_state import RunState
from step import Sums
from tqdm import tqdm


class BadBatchesError(RuntimeError):
    """Too many consecutive batches were not finite."""


class Run:
    """Runs training from the position in its run state to the end.

    Args:
      config: configuration of the run.
      parallel: runs steps on the devices.
      run_state: stores checkpoints and reports.
      train: the training split.
      test: the test split.
      size: rows of a batch, including padding.
      collect: `collect(params)` returns the collections that evaluation needs in
        addition to parameters and running statistics.
    """

    def __init__(
        self,
        config: ml_collections.ConfigDict,
        parallel: Parallel,
        run_state: RunState,
        train: data.Split,
        test: data.Split,
        size: int,
        collect: Callable[[Any], dict[str, Any]],
    ):
        self._config = config
        self._parallel = parallel
        self._run_state = run_state
        self._train = train
        self._test = test
        self._collect = collect
        num_train = len(train.labels)
        self._order = data.training_order(num_train, config.batch_size, config.seed)
        self._steps_per_epoch = -(-num_train // config.batch_size)
        self._size = size

        self._progress = progress = run_state.resume()
        self._step = int(progress.state.step)
        self._saved = self._step, progress.epochs
        progress.state = parallel.place_state(progress.state)
        # The sums of a step that may still be running.
        self._pending: Sums | None = None

    def go(self) -> None:
        """Trains and evaluates the remaining epochs of the run."""
        # Compiled ahead, so that images per second do not include compilation.
        step = self._parallel.train_step.lower(self._progress.state, self._batch(0))
        compiled = step.compile()
        try:
            for epoch in range(self._progress.epochs, self._config.num_epochs):
                images_per_second = self._train_epoch(epoch, compiled)
                self._end_epoch(epoch, images_per_second)
        except signals.Terminated:
            self._save()
            self._run_state.wait()
            raise
        self._run_state.finish(self._variables(self._statistics()))

    def _train_epoch(self, epoch: int, compiled: Callable) -> float:
        """Runs the remaining steps of an epoch; returns images per second."""
        end = (epoch + 1) * self._steps_per_epoch
        images = 0
        start = time.perf_counter()
        with tqdm(
            desc=f"epoch {epoch + 1}",
            total=self._steps_per_epoch,
            initial=self._steps_per_epoch - (end - self._step),
            leave=False,
            disable=not processes.is_first(),
        ) as bar:
            while self._step < end:
                signals.check_together()
                batch = self._batch(self._step)
                # The batch was prepared while the previous step ran. No other step may
                # be queued, or the progress bar would run ahead of the devices.
                self._settle()
                self._progress.state, self._pending = compiled(
                    self._progress.state, batch
                )
                images += len(self._order[self._step])
                self._step += 1
                bar.update()
                if self._step % self._config.checkpoint_every == 0 and self._step < end:
                    self._save()
            self._settle()
        return images / (time.perf_counter() - start)

    def _end_epoch(self, epoch: int, images_per_second: float) -> None:
        """Evaluates, reports, and saves."""
        progress = self._progress
        statistics = self._statistics()
        train_loss, train_accuracy = means(progress.sums)
        test_loss, test_accuracy = evaluate(
            self._parallel, self._variables(statistics), self._test, self._size
        )
        metrics = Metrics(
            epoch=epoch + 1,
            train_loss=train_loss,
            train_accuracy=train_accuracy,
            test_loss=test_loss,
            test_accuracy=test_accuracy,
            images_per_second=images_per_second,
            stats_spread=replica_stats.spread(statistics),
            bad_batches=int(progress.sums[Sums._fields.index("bad")]),
        )
        self._run_state.add(metrics)
        progress.epochs += 1
        progress.sums = np.zeros_like(progress.sums)
        self._save(test_accuracy)

    def _batch(self, step: int) -> data.Batch:
        take = partial(data.take, self._train, self._order[step])
        return self._parallel.place_batch(take, self._size)

    def _settle(self) -> None:
        """Waits for the running step, and adds its sums."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        sums = self._parallel.fetch(pending)
        progress = self._progress
        progress.sums = progress.sums + np.asarray(sums, np.float64)
        progress.bad_in_a_row = progress.bad_in_a_row + 1 if sums.bad else 0
        if progress.bad_in_a_row == self._config.max_bad_batches:
            raise BadBatchesError(
                f"{progress.bad_in_a_row} batches in a row gave a loss, a gradient or "
                f"a statistic that is not finite, the last one at step {self._step}; "
                f"the last checkpoint is from step {self._saved[0]}"
            )

    def _save(self, test_accuracy: float | None = None) -> None:
        """Starts to save the state, unless it is already saved or it is bad."""
        self._settle()
        now = self._step, self._progress.epochs
        bad = self._progress.bad_in_a_row and not self._config.skip_nonfinite
        if now == self._saved or bad:
            return
        state = self._progress.state
        if self._config.sync:
            host = self._parallel.fetch(state)
        else:
            own = self._statistics()
            host = self._parallel.fetch(state.replace(batch_stats={}))
            host = host.replace(batch_stats=own)
        self._run_state.save(
            dataclasses.replace(self._progress, state=host), test_accuracy
        )
        self._saved = now

    def _statistics(self) -> Any:
        """Returns the running statistics, with a leading axis of devices."""
        return self._parallel.fetch_statistics(self._progress.state)

    def _variables(self, statistics: Any) -> dict[str, Any]:
        """Returns the variables for evaluation, on the host.

        Statistics of devices that are not synchronized are merged.
        """
        if self._config.sync:
            batch_stats = jax.tree.map(lambda x: x[0], statistics)
        else:
            batch_stats = replica_stats.merge(statistics)
        params = self._parallel.fetch(self._progress.state.params)
        variables = {"params": params, "batch_stats": batch_stats}
        return variables | jax.device_get(self._collect(params))
