"""A warm start is the real command: it leaves what a cold one leaves, fails as that fails, and can be killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import recipe_runs
import warm_python
from fairseq_runs import Fairseq, assert_same, logged

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="elsewhere every start is cold")


def both(fairseq: Fairseq, *words: object) -> list[tuple[int, list[str]]]:
    """The exit status and the output of `python WORDS`, started warm and cold."""
    started = [Fairseq(fairseq.data, fairseq.folder, warm).python(*words) for warm in (True, False)]
    assert [type(process) for process in started] == [warm_python.Popen, subprocess.Popen]
    outputs = [process.communicate(timeout=300)[0] for process in started]
    return [(process.returncode, output.splitlines()) for process, output in zip(started, outputs, strict=True)]


def test_a_training_leaves_the_same_checkpoint_and_log(toy_data: Path, tmp_path: Path):
    runs = {warm: Fairseq(toy_data, tmp_path, warm) for warm in (True, False)}
    logs = [run.train(f"{warm}", "--optimizer", "sage", "--max-update", 9) for warm, run in runs.items()]
    kept = ("loss", "gnorm", "scale_mean", "num_updates")
    warm, cold = ([[line[key] for key in kept] for line in logged(log)] for log in logs)
    assert warm == cold and len(warm) == 9
    warm, cold = (run.checkpoint(f"{warm}") for warm, run in runs.items())
    for part in ("model", "last_optimizer_state"):
        assert_same(warm[part], cold[part])


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (["-m", "fairseq_cli.train", "no-such-data", "--arch", "transformer"], 1),
        (["-c", "import sys; sys.exit(3)"], 3),
        (["-c", "import sys; sys.exit('words')"], 1),
        (["-c", "import os; os.abort()"], -signal.SIGABRT),
    ],
    ids=["exception", "status", "words", "signal"],
)
def test_an_error_ends_it_with_the_same_status_and_last_line(fairseq: Fairseq, words, status: int):
    warm, cold = both(fairseq, *words)
    assert warm[0] == cold[0] == status
    assert warm[1][-1:] == cold[1][-1:]


@pytest.mark.parametrize("end", ["None", "sys.exit()", "sys.exit(3)", "1 / 0"])
def test_it_ends_after_its_threads_and_what_was_registered_for_its_end(fairseq: Fairseq, end: str):
    code = f"""if True:
        import atexit, sys, threading, time
        atexit.register(print, "the end", end="")
        threading.Thread(target=lambda: (time.sleep(0.1), print("its thread"))).start()
        {end}
    """
    (status, warm), (of_cold, cold) = both(fairseq, "-c", code)
    assert status == of_cold and warm[-2:] == cold[-2:] == ["its thread", "the end"]


def test_it_begins_as_a_fresh_interpreter_does(fairseq: Fairseq):
    code = """if True:
        import os, random, sys
        import numpy, torch
        print(os.getcwd(), sys.argv, sys.path, __name__, torch.get_num_threads(), os.listdir("/proc/self/fd"))
        print([name for name in sys.modules if name.startswith("weighted")])
        print(random.random(), numpy.random.rand(), torch.rand(()).item())
    """
    words = ["-c", code, "a word", "--flag"]
    (status, warm), (_, cold) = both(fairseq, *words)
    assert status == 0 and warm[:2] == cold[:2] and warm[1] == "[]"
    another = fairseq.python(*words).communicate()[0].splitlines()
    for numbers in zip(*(output[2].split() for output in (warm, another)), strict=True):
        assert len(set(numbers)) == 2  # every one draws its own


def test_its_workers_see_who_their_parent_is(fairseq: Fairseq):
    """By which those of a data loader notice that it was killed."""
    code = """if True:
        import os
        it = os.getpid()
        print(os.getppid(), flush=True)
        os.fork() or os._exit(os.getppid() != it)
        print(os.wait()[1])
    """
    assert fairseq.python("-c", code).communicate()[0].split() == [str(os.getpid()), "0"]


def test_it_is_killed_alone_and_keeps_no_pipe_of_another(fairseq: Fairseq):
    one, other = (fairseq.python("-c", "import time; print('here', flush=True); time.sleep(300)") for _ in range(2))
    assert one.pid != other.pid and one.stdout.readline() == other.stdout.readline() == "here\n"
    assert one.poll() is None
    with pytest.raises(subprocess.TimeoutExpired):
        one.wait(0.01)
    for process in (one, other):
        os.kill(process.pid, signal.SIGKILL)
        assert process.communicate(timeout=60)[0] == "" and process.returncode == -signal.SIGKILL
        assert other.poll() is None or process is other


def test_the_server_ends_with_the_process_that_started_it(tmp_path: Path):
    code = """if True:
        import os, signal, subprocess, sys
        import warm_python
        warm_python.IMPORTED = ["torch"]
        child = [sys.executable, "-c", "print(open('/proc/self/stat').read().split()[3])"]  # its parent
        print(warm_python.Popen(child, cwd="/", stdout=subprocess.PIPE, text=True).communicate()[0], flush=True)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(warm_python.__file__).parent, capture_output=True)
    assert done.returncode == -signal.SIGKILL
    server = Path(f"/proc/{int(done.stdout)}")
    deadline = time.monotonic() + 60
    while server.exists() and "State:\tZ" not in (server / "status").read_text() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert time.monotonic() < deadline


@pytest.mark.parametrize("words", [["rules"], ["quickstart", "--seeds", "0"]], ids=["well", "wrong"])
def test_a_warm_recipe_says_what_a_cold_one_says(words: list[str]):
    warm, cold = recipe_runs.wff(*words), subprocess.run(recipe_runs.command(*words), capture_output=True, text=True)
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_a_recipe_forks_its_commands_with_their_own_variables(tmp_path: Path):
    code = """if True:
        import os, subprocess, sys
        import warm_python
        assert warm_python.serve_its_commands()
        child = "import os, sys, torch; print(os.environ['A'], 'fairseq' in sys.modules, torch.get_num_threads())"
        env = {**os.environ, "A": "b", "OMP_NUM_THREADS": "2"}
        print(subprocess.run([sys.executable, "-c", child], env=env, capture_output=True, text=True).stdout, flush=True)
        print(subprocess.run(["echo", "others are not forked"], capture_output=True, text=True).stdout, flush=True)
    """
    folder = str(Path(warm_python.__file__).parent)
    words = [sys.executable, "-c", f"import sys; sys.path.insert(0, {folder!r})\n{code}"]
    with warm_python.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=tmp_path) as process:
        output, _ = process.communicate(timeout=60)
    assert output.split("\n") == ["b True 2", "", "others are not forked", "", ""]
