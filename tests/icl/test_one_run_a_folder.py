"""A run folder has one process at a time, and the next one finds what the first has finished."""

from __future__ import annotations

import multiprocessing
import threading
import time

import pytest

from fungi_hf.errors import RunMismatchError, StorageError
from fungi_hf.icl.journal import Journal, claim, read_record
from fungi_hf.icl.server.fake_server import FakeOpenAIServer
from tests.icl.evaluate_kit import run


def hold(folder, ready):
    Journal(folder)
    ready.send("held")
    time.sleep(60)


def test_a_second_process_is_refused_until_the_first_has_ended(tmp_path):
    context = multiprocessing.get_context("spawn")
    heard, ready = context.Pipe(duplex=False)
    other = context.Process(target=hold, args=(tmp_path, ready))
    other.start()
    try:
        assert heard.poll(60)
        with pytest.raises(StorageError, match=r"^another process works in"):
            Journal(tmp_path)
    finally:
        other.kill()
        other.join(30)
    Journal(tmp_path).close()  # the lock went with the process
    heard.close()
    ready.close()


@pytest.mark.parametrize("same", [True, False])
def test_a_folder_belongs_to_one_config_however_many_claim_it_at_once(tmp_path, same):
    for round_ in range(30):
        folder, n, outcomes = tmp_path / str(round_), 4, []
        start = threading.Barrier(n)

        def work(k, folder=folder, start=start, outcomes=outcomes):
            config = {"shots": 0 if same else k}
            start.wait()
            try:
                claim(folder, config, {})
                Journal(folder)  # kept open, as by a run
                outcomes.append(config)
            except (RunMismatchError, StorageError) as error:
                outcomes.append(str(error))

        threads = [threading.Thread(target=work, args=(k,)) for k in range(n)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        won = [one for one in outcomes if isinstance(one, dict)]
        assert won == [read_record(folder)["config"]]
        said = "another process works in" if same else str(folder)
        assert all(said in one for one in outcomes if one not in won)


def test_two_runs_at_once_ask_nothing_twice(tmp_path):
    refused, results = [], []

    def work(server):
        try:
            results.append(run(server, n_test=20, out=tmp_path / "run"))
        except StorageError as error:
            refused.append(str(error))

    with FakeOpenAIServer(latency=0.03) as server:
        threads = [threading.Thread(target=work, args=(server,)) for _ in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        again = run(server, n_test=20, out=tmp_path / "run")
        assert len(server.log) == 20
    assert results
    assert all(words.startswith("another process works in") for words in refused)
    assert again.complete
    assert again.requests == 0
