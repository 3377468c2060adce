"""llama.cpp in its worker process: answers, stop strings, refusals, and every way in which one of the two may die."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from fledge.errors import EngineError, ModelError
from fledge.records import FinishReason, Message, Reply
from fledge.runtime.llama import Llama, Sampling

TEA = [Message("user", "Tell me about tea.")]
SHORT = Sampling(max_tokens=24)
DEADLINE_S = 5.0


@pytest.fixture(scope="module")
def llama(starter_gguf: Path) -> Iterator[Llama]:
    with Llama(starter_gguf, context_tokens=512, parallel=2) as llama:
        yield llama


@pytest.fixture(scope="module")
def answer(llama: Llama) -> Reply:
    return llama.chat(TEA, sampling=SHORT)


def ended(pid: int) -> bool:
    """Whether the process is gone, or is dead and only waits to be collected."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def answers(url: str) -> bool:
    try:
        socket.create_connection((urlsplit(url).hostname, urlsplit(url).port)).close()
    except ConnectionRefusedError:
        return False
    return True


def test_greedy_answers_repeat(llama: Llama, answer: Reply) -> None:
    again = llama.chat(TEA, sampling=SHORT)
    assert (again.text, again.tokens, again.finish) == (answer.text, answer.tokens, answer.finish)
    assert again.tokens_per_s > 0 and again.first_token_s > 0
    assert answer.prompt_tokens == len(llama.tokenize(llama.render(TEA), parse_special=True))


def test_seed_decides_sampled_answers(llama: Llama) -> None:
    texts = [llama.chat(TEA, sampling=Sampling(temperature=1.0, max_tokens=12, seed=s)).text for s in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_stream_gives_the_pieces_and_then_the_reply(llama: Llama, answer: Reply) -> None:
    *pieces, reply = llama.stream(TEA, sampling=SHORT)
    assert isinstance(reply, Reply)
    assert len(pieces) > 1
    assert "".join(map(str, pieces)) == reply.text == answer.text
    # The server's own answer without a stream is the oracle.
    whole = llama.post("/v1/chat/completions", llama._request(TEA, SHORT) | {"stream": False})
    assert whole["choices"][0]["message"]["content"] == reply.text


def test_a_stream_that_is_not_read_to_its_end_frees_the_model(llama: Llama) -> None:
    endless = llama.stream(TEA, sampling=Sampling(max_tokens=400))
    next(endless)
    endless.close()
    assert llama.chat(TEA, sampling=SHORT).text


@pytest.mark.parametrize("width", [1, 3, 7, 12])
def test_stop_strings_end_the_answer_unseen(llama: Llama, answer: Reply, width: int) -> None:
    """Widths above a token's length make stop strings that begin and end inside tokens."""
    start = len(answer.text) // 2
    stop = answer.text[start : start + width]
    *pieces, reply = llama.stream(TEA, sampling=Sampling(max_tokens=24, stop=("never said", stop)))
    assert isinstance(reply, Reply)
    assert "".join(map(str, pieces)) == reply.text == answer.text[: answer.text.find(stop)]
    assert reply.finish is FinishReason.STOP


def test_a_stop_string_that_is_never_completed_is_delivered(llama: Llama, answer: Reply) -> None:
    unfinished = answer.text[-6:] + " but only nearly"
    reply = llama.chat(TEA, sampling=Sampling(max_tokens=24, stop=(unfinished,)))
    assert (reply.text, reply.finish) == (answer.text, FinishReason.LENGTH)


def test_finish_tells_a_cut_answer_from_an_ended_one(llama: Llama, answer: Reply) -> None:
    assert (answer.finish, answer.tokens) == (FinishReason.LENGTH, 24)
    hello = [Message("system", "Answer with one word."), Message("user", "Say yes.")]
    ended = llama.chat(hello, sampling=Sampling(max_tokens=300))
    assert (ended.finish, ended.tokens < 300) == (FinishReason.STOP, True)


def test_an_over_long_prompt_is_refused_with_both_numbers(llama: Llama) -> None:
    messages = [Message("user", "word " * 700)]
    num_tokens = len(llama.tokenize(llama.render(messages), parse_special=True))
    with pytest.raises(EngineError, match=rf"{num_tokens} tokens; the context holds 512") as caught:
        llama.chat(messages, sampling=SHORT)
    assert caught.value.code == "engine.request"
    assert llama.chat(TEA, sampling=SHORT).text  # it still answers


def test_a_request_that_the_server_cannot_read_is_refused(llama: Llama) -> None:
    with pytest.raises(EngineError) as caught:
        llama.post("/v1/chat/completions", {"messages": "no list"})
    assert caught.value.code == "engine.request"


def test_ask_all_answers_in_order_as_one_by_one(llama: Llama) -> None:
    """llama.cpp may round differently in a batch with others, so only the beginnings are held to be equal."""
    conversations = [
        [Message("user", f"Tell me about {thing}.")] for thing in ("tea", "iron", "cats", "the moon", "bread")
    ]
    counted: list[int] = []
    together = llama.ask_all(conversations, sampling=SHORT, on_done=counted.append)
    alone = [llama.chat(messages, sampling=SHORT) for messages in conversations]
    assert counted == [1, 2, 3, 4, 5]
    assert [r.finish for r in together] == [r.finish for r in alone]
    assert [r.prompt_tokens for r in together] == [r.prompt_tokens for r in alone]
    assert [r.text[:15] for r in together] == [r.text[:15] for r in alone]


def test_ask_all_raises_the_first_error(llama: Llama) -> None:
    with pytest.raises(EngineError, match="the context holds 512"):
        llama.ask_all([TEA, [Message("user", "word " * 700)], TEA], sampling=SHORT)
    assert llama.chat(TEA, sampling=SHORT).text


def test_the_template_of_the_file_is_what_renders(llama: Llama) -> None:
    messages = [Message("system", "Be brief."), Message("user", "Hi"), Message("assistant", "Hello")]
    closed = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
    assert llama.render(messages[:2]) == closed + "<|im_start|>assistant\n"
    assert llama.render(messages, add_generation_prompt=False) == closed + "<|im_start|>assistant\nHello<|im_end|>\n"
    assert "add_generation_prompt" in llama.properties().chat_template


def test_properties(llama: Llama) -> None:
    found = llama.properties()
    assert (found.bos_token, found.eos_token) == ("<|im_start|>", "<|im_end|>")
    assert (found.quantisation, found.context_tokens) == ("Q4_1", 512)


@pytest.mark.parametrize("text", ["Hello there", "  two  spaces\n\ttab", "naïve café 東京 🐣", "<|im_end|>"])
def test_text_survives_its_tokens(llama: Llama, text: str) -> None:
    for parse_special in (False, True):
        assert llama.detokenize(llama.tokenize(text, parse_special=parse_special)) == text


def test_special_tokens_are_read_only_where_asked(llama: Llama) -> None:
    assert llama.tokenize("<|im_end|>", parse_special=True) == [2]
    assert len(llama.tokenize("<|im_end|>", parse_special=False)) > 1


def test_files_that_are_no_model_are_refused_in_one_line(starter_gguf: Path, tmp_path: Path) -> None:
    cut, text = tmp_path / "cut.gguf", tmp_path / "text.gguf"
    with starter_gguf.open("rb") as file:
        cut.write_bytes(file.read(40_000_000))
    text.write_text("not a model")
    with pytest.raises(EngineError, match="not within the file bounds") as broken:
        Llama(cut)
    with pytest.raises(EngineError, match="expect general.type to be 'adapter'") as no_adapter:
        Llama(starter_gguf, adapter=starter_gguf)
    with pytest.raises(ModelError, match="begins with b'not '") as no_gguf:
        Llama(text)
    with pytest.raises(ModelError, match="no such file") as missing:
        Llama(tmp_path / "absent.gguf")
    errors = [e.value for e in (broken, no_adapter, no_gguf, missing)]
    assert [e.code for e in errors] == ["engine.start"] * 2 + ["model.broken_file"] * 2
    assert all("\n" not in str(e) for e in errors)


def test_a_worker_that_is_not_ready_in_time_is_given_up(starter_gguf: Path) -> None:
    with pytest.raises(EngineError, match=r"not ready after 0\.01 s"):
        Llama(starter_gguf, start_timeout_s=0.01)


def test_a_worker_killed_in_the_middle_is_an_error_and_a_new_one_works(starter_gguf: Path) -> None:
    with Llama(starter_gguf, context_tokens=512) as llama:
        answer = llama.stream(TEA, sampling=Sampling(max_tokens=400))
        next(answer)
        os.kill(llama.worker_pid, signal.SIGKILL)
        with pytest.raises(EngineError, match="SIGKILL") as caught:
            list(answer)
        assert caught.value.code == "engine.died"
        with pytest.raises(EngineError, match="SIGKILL"):
            llama.render(TEA)
    with Llama(starter_gguf, context_tokens=512) as llama:
        assert llama.chat(TEA, sampling=SHORT).text


def test_close_ends_the_worker_and_may_be_repeated(starter_gguf: Path) -> None:
    llama = Llama(starter_gguf, context_tokens=512)
    started = time.monotonic()
    llama.close()
    llama.close()
    assert time.monotonic() - started < 2
    assert ended(llama.worker_pid)


PARENT = """
import sys
from pathlib import Path
from fledge.records import Message
from fledge.runtime.llama import Llama, Sampling
llama = Llama(Path(sys.argv[1]), context_tokens=512, parallel=2)
print(llama.worker_pid, llama._worker.hello["url"], flush=True)
llama.ask_all([[Message("user", "Tell me about tea.")]] * 20, sampling=Sampling(max_tokens=450))
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, -signal.SIGINT)])
def test_the_worker_ends_with_its_parent(starter_gguf: Path, sent: signal.Signals, code: int) -> None:
    """SIGKILL leaves the parent no time to clean up; Ctrl-C must end the twenty answers at once."""
    command = [sys.executable, "-c", PARENT, str(starter_gguf)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as parent:
        assert parent.stdout is not None
        pid, url = parent.stdout.readline().split()
        assert answers(url)
        time.sleep(0.3)  # let the first answers begin
        parent.send_signal(sent)
        assert parent.wait(timeout=DEADLINE_S) == code
    deadline = time.monotonic() + DEADLINE_S
    while not ended(int(pid)) or answers(url):
        assert time.monotonic() < deadline, f"worker {pid} outlived its parent"
        time.sleep(0.02)


def test_a_forgotten_llama_ends_with_the_interpreter(starter_gguf: Path) -> None:
    script = PARENT.rpartition("llama.ask_all")[0]
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", script, str(starter_gguf)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert ended(int(done.stdout.split()[0]))


def test_a_strangers_request_is_refused(llama: Llama) -> None:
    """Any program of the machine can reach the port, so each request needs the key."""
    request = llama._client.build_request("GET", "/props", headers={"Authorization": "Bearer guess"})
    with pytest.raises(EngineError, match="Invalid API Key"):
        llama._json(request)


def test_files_of_the_current_folder_do_not_reach_the_worker(
    starter_gguf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "json.py").write_text("raise SystemExit('imported from the current folder')")
    monkeypatch.chdir(tmp_path)
    Llama(starter_gguf, context_tokens=256).close()
