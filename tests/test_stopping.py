"""Signals become an event, once; then they do what they did before."""

from __future__ import annotations

import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from clipcap_video.stopping import Stopped, break_off_if_stopped, interrupted_by_signals, stopped_by_signals
from tests.commands import ROOT


@pytest.fixture(autouse=True)
def ctrl_c_interrupts() -> Iterator[None]:
    """As in a terminal: a shell has programs in the background ignore it."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_sets_the_event_and_the_second_ctrl_c_interrupts(
    number: signal.Signals, capsys: pytest.CaptureFixture[str]
) -> None:
    before = [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)]
    with stopped_by_signals(threading.Event(), "soon") as stop:
        assert not stop.is_set()
        signal.raise_signal(number)
        assert stop.is_set()
        assert capsys.readouterr().err == "\nsoon\n"
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert [signal.getsignal(one) for one in (signal.SIGINT, signal.SIGTERM)] == before


def test_elsewhere_than_in_the_main_thread_nothing_changes() -> None:
    before, seen = signal.getsignal(signal.SIGINT), []

    def work() -> None:
        with stopped_by_signals(threading.Event()):
            seen.append(signal.getsignal(signal.SIGINT))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert seen == [before]


def test_a_long_step_breaks_off_where_a_signal_has_come() -> None:
    break_off_if_stopped()
    with stopped_by_signals(threading.Event()):
        break_off_if_stopped()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Stopped):
            break_off_if_stopped()
    break_off_if_stopped()


BEGIN = "from clipcap_video.stopping import *; import signal; end_at_signals(); "
SWALLOW = "import signal\ntry:\n    signal.raise_signal(signal.SIG{})\nexcept BaseException:\n    pass\n"


@pytest.mark.parametrize("name", ["INT", "TERM"])
@pytest.mark.parametrize(
    "code",
    [
        "signal.raise_signal(signal.SIG{})",
        "import swallows",
        "context = interrupted_by_signals(); context.__enter__(); import swallows",
    ],
)
def test_an_import_ends_with_the_signal_and_in_one_sentence(tmp_path: Path, code: str, name: str) -> None:
    (tmp_path / "swallows.py").write_text(SWALLOW.format(name))
    code = f"import sys; sys.path.append({str(tmp_path)!r}); {BEGIN}{code.format(name)}; print('went on')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted\n")


def test_outside_of_imports_a_block_is_interrupted() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(KeyboardInterrupt), interrupted_by_signals():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


PROGRAMS = {
    "clipcap-video": ["-m", "clipcap_video", "infer", "--videos", "nowhere"],
    **{name: [f"{name}.py", "--features", "nowhere"] for name in ("train_vtt", "inference_vtt")},
    "extract_features": ["extract_features.py", "nowhere"],
}


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="looks into /proc")
@pytest.mark.parametrize("name", PROGRAMS)
def test_every_moment_of_a_beginning(name: str) -> None:
    """From where Python itself is up: 130 and no traceback, or the refusal that comes at the end."""
    chance, interrupted, usual = random.Random(0), 0, 0.0
    for number in range(21):
        started = time.monotonic()
        process = subprocess.Popen([sys.executable, *PROGRAMS[name]], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        while not _catches(process, signal.SIGTERM) and process.poll() is None:
            time.sleep(0.002)
        if number:
            time.sleep(chance.uniform(0, usual))
            process.send_signal(chance.choice([signal.SIGINT, signal.SIGTERM]))
        said = process.communicate(timeout=300)[1]
        usual = usual or time.monotonic() - started
        assert "Traceback" not in said
        # Python gives its handlers up when all is said and done.
        assert process.returncode in (1, 130) or (process.returncode < 0 and "error: " in said), said
        interrupted += process.returncode == 130
    assert interrupted


def _catches(process: subprocess.Popen[str], number: signal.Signals) -> bool:
    """Whether a process has a handler of a signal."""
    try:
        status = Path(f"/proc/{process.pid}/status").read_text()
    except OSError:
        return False
    caught = int(status.partition("SigCgt:")[2].split()[0], 16)
    return bool(caught >> (number - 1) & 1)
