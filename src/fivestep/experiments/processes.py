"""Trainings in worker processes: what is bound by arithmetic takes several cores.

Enters: a model, jobs, how many processes. Leaves: each job's trial as soon as it has ended. The decisions that shaped it: this process is one of the workers;
where forking is safe they are forked from a server that has imported everything once and stays for the next group
or sweep; the model and the data are sent once, as shared memory, and a job is then one number.
"""

from __future__ import annotations

import collections
import concurrent.futures
import multiprocessing
import os
import pickle
import queue
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from typing import Any

import torch

from fivestep.errors import TrainingError
from fivestep.threads import one_thread

Train = Callable[[Any], Any]  # one job -> what is handed back
IMPORTED = ["fivestep.experiments.training", "torch._dynamo"]  # torch imports the second with the first optimizer, which takes as long as torch itself


def why_not_sent(train: Train, jobs: Sequence[Any]) -> str | None:
    """Why another process cannot be given these objects; None where it can."""
    try:
        pickle.dumps((train, jobs))
    except Exception as error:  # pickling calls whatever a user's objects define
        return f"{type(error).__name__}: {error}"
    return None


def trained(train: Train, jobs: Sequence[Any], workers: int) -> Iterator[Any]:
    """`train(job)` of every job, in the order of their ends: in this process and in `workers - 1` others, with one thread each.

    Raises TrainingError where a process dies. Jobs whose results were handed over before stay done.
    """
    others = min(workers, len(jobs)) - 1
    before = set(multiprocessing.active_children())
    with one_thread():
        if others < 1:
            yield from map(train, jobs)
            return
        # The others take jobs from the front and this process from the back, until they meet. A process has one job at a time: a pool that was given all of them would
        # hold some back in its queue, and at the end this process would wait for them.
        left, ended = collections.deque(range(len(jobs))), queue.SimpleQueue[concurrent.futures.Future[Any]]()
        with concurrent.futures.ProcessPoolExecutor(others, mp_context=context(), initializer=begin, initargs=(train, list(jobs))) as pool:
            # The first jobs start the processes, from this thread: what is sent then must not change meanwhile, as it would if a training went on beside.
            first = [pool.submit(train_number, left.popleft()) for _ in range(others)]
            for future in first:
                threading.Thread(target=feed, args=(pool, future, left, ended), daemon=True).start()
            missing = len(jobs)
            try:
                while missing:
                    own = taken(left.pop)
                    if own is not None:
                        yield train(jobs[own])
                        missing -= 1
                    while missing and (own is None or not ended.empty()):
                        yield ended.get().result()
                        missing -= 1
            except BrokenProcessPool as error:
                raise TrainingError(
                    "A worker process died. Either the system ended it (memory: each of the processes holds a model and its batches), or it could not start: a script must "
                    "call this below `if __name__ == '__main__':`, as each process imports the script. What had ended is kept; the same call with a folder goes on, "
                    "and without workers= there is one process."
                ) from error
            except BaseException:
                left.clear()
                pool.shutdown(wait=False, cancel_futures=True)
                for child in set(multiprocessing.active_children()) - before:
                    child.terminate()  # a run with a folder saves itself on this signal and goes on with the next call
                raise


def feed(
    pool: concurrent.futures.Executor,
    future: concurrent.futures.Future[Any],
    left: collections.deque[int],
    ended: queue.SimpleQueue[concurrent.futures.Future[Any]],
) -> None:
    """One process of the pool, which has its first job, gets job after job; each is handed on when it has ended, or as the error that ended the pool."""
    while True:
        concurrent.futures.wait([future])
        ended.put(future)
        number = taken(left.popleft)
        if number is None:
            return
        try:
            future = pool.submit(train_number, number)
        except Exception as error:  # the pool is broken or was shut down: told where results are read
            future = concurrent.futures.Future()
            future.set_exception(error)


def taken(take: Callable[[], int]) -> int | None:
    """A job from an end of the deque, whose methods are atomic; None where none is left."""
    try:
        return take()
    except IndexError:
        return None


def context() -> Any:
    """Forked from a server that has done the imports, where there is one; a process with CUDA cannot be forked."""
    if "forkserver" in multiprocessing.get_all_start_methods() and not torch.cuda.is_available():
        made = multiprocessing.get_context("forkserver")
        made.set_forkserver_preload(IMPORTED)
        return made
    return multiprocessing.get_context("spawn")


# -- in the other processes ----------------------------------------------------------------------------------------------------------------------------------------

given: tuple[Train, list[Any]] | None = None  # of this worker process, for its whole life


def begin(train: Train, jobs: list[Any]) -> None:
    global given
    torch.set_num_threads(1)
    threading.Thread(target=end_with_parent, daemon=True).start()
    given = train, jobs


def end_with_parent() -> None:
    """A parent that was killed tells nobody: without this its workers would train on and then wait forever, beside those of the same call made again."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


def train_number(number: int) -> Any:
    assert given is not None
    train, jobs = given
    return train(jobs[number])
