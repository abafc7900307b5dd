"""What the load test's benches share: the mock server, processes whose CPU time is counted, and the peers' command lines."""
import contextlib
import ctypes
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
TOOLS = ROOT / "target" / "tools"
GLINT = TARGET / "release" / "glint"
MOCK = TOOLS / "mock" / "release" / "mock-openai"
TOKENIZER = TOOLS / "bench-tokenizer"
INPUT_TOKENS = 128
OUTPUT_TOKENS = 32
PR_SET_CHILD_SUBREAPER = 36
COMMAND_TIMEOUT_S = 600


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def wait_for(url, process, seconds):
    """Waits until the server answers, and says so where it ended instead."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            sys.exit(f"the server at {url} ended with {process.returncode}")
        with contextlib.suppress(OSError):
            urllib.request.urlopen(url, timeout=5).close()
            return
        time.sleep(0.05)
    sys.exit(f"the server at {url} did not answer within {seconds} s")


@contextlib.contextmanager
def server(command, port, ready_s=10, log=subprocess.DEVNULL):
    """A server on `port` of this machine while the block runs; yields its URL."""
    process = subprocess.Popen([str(word) for word in command], stdout=log, stderr=log)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(f"{url}/v1/models", process, ready_s)
        yield url
    finally:
        process.kill()
        process.wait()


def mock(ttft_ms, itl_ms, stall_every_ms=0, stall_ms=0, slots=0):
    """The mock server: first token after `ttft_ms`, the others `itl_ms` apart; it stands still for `stall_ms` in every `stall_every_ms`."""
    port = free_port()
    return server([MOCK, port, ttft_ms, itl_ms, stall_every_ms, stall_ms, slots], port)


def cpu_of(command, log=None, env=None):
    """Runs a command and returns the user and system seconds of it and of all processes it left behind.

    It runs below a process of its own, to which the kernel hands orphans, so that none escapes the count.
    """
    read, write = os.pipe()
    counter = os.fork()
    if counter == 0:
        os.close(read)
        os.setpgid(0, 0)
        ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)
        with open(log or os.devnull, "wb") as output:
            status = subprocess.call([str(word) for word in command], stdout=output, stderr=output, env={**os.environ, **(env or {})})
        with contextlib.suppress(ChildProcessError):
            while True:
                os.wait()
        used = resource.getrusage(resource.RUSAGE_CHILDREN)
        os.write(write, json.dumps([status, used.ru_utime + used.ru_stime]).encode())
        os._exit(0)
    os.close(write)

    def give_up(_signal, _frame):
        os.killpg(counter, signal.SIGKILL)

    signal.signal(signal.SIGALRM, give_up)
    signal.alarm(COMMAND_TIMEOUT_S)
    with open(read, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(counter, 0)
    signal.alarm(0)
    if not answer:
        raise RuntimeError(f"{command[0]} took over {COMMAND_TIMEOUT_S} s")
    status, seconds = json.loads(answer)
    if status != 0:
        tail = pathlib.Path(log).read_text(errors="replace").strip().splitlines()[-1:] if log else []
        raise RuntimeError(f"{pathlib.Path(command[0]).name} ended with {status}: {''.join(tail)}")
    return seconds


def loadtest(command, url, *options):
    """The words of a `glint loadtest` command."""
    return [GLINT, "loadtest", command, "--url", url, "--quiet", *options]


def glint(command, url, *options):
    """The result document of a `glint loadtest` command."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "result.json")
        words = [str(word) for word in loadtest(command, url, "--json", path, *options)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=COMMAND_TIMEOUT_S)
        if done.returncode != 0:
            sys.exit(f"{' '.join(words)} ended with {done.returncode}:\n{done.stderr.strip()}")
        return json.loads(path.read_text())


def glint_requests(url, folder, concurrency, requests):
    return loadtest(
        "run", url, "--concurrency", concurrency, "--requests", requests, "--duration-s", 600, "--input-tokens", INPUT_TOKENS, "--output-tokens", OUTPUT_TOKENS,
        "--json", folder / "glint.json",
    ), {}


def guidellm(url, folder, profile, constraint, model="glm-mock", output_tokens=OUTPUT_TOKENS, backend="", tokenizer=TOKENIZER):
    """A guidellm command, which writes `guidellm.json`."""
    return [
        TOOLS / "guidellm" / "bin" / "guidellm", "run", "--backend", f"kind=openai_http,target={url},model={model}{backend}", "--profile", profile,
        "--constraint", constraint, "--tokenizer", f"kind=hf_auto,model={tokenizer}",
        "--data", f"kind=synthetic_text,prompt_tokens={INPUT_TOKENS},output_tokens={output_tokens}",
        "--output", f"kind=json,path={folder / 'guidellm.json'}",
    ], {"HF_HUB_OFFLINE": "1"}


def guidellm_figures(folder):
    """The metrics of guidellm's only benchmark."""
    return json.loads((folder / "guidellm.json").read_text())["benchmarks"][0]["metrics"]


def guidellm_requests(url, folder, concurrency, requests):
    return guidellm(url, folder, f"kind=throughput,max_concurrency={concurrency}", f"kind=max_requests,count={requests}")


def aiperf_requests(url, folder, concurrency, requests):
    # In its offline mode it refuses a tokenizer that lies in a folder.
    return [
        TOOLS / "aiperf" / "bin" / "aiperf", "profile", "-m", "glm-mock", "--tokenizer", TOKENIZER, "--url", url, "--endpoint-type", "chat", "--streaming",
        "--concurrency", concurrency, "--request-count", requests, "--isl", INPUT_TOKENS, "--osl", OUTPUT_TOKENS, "--ui-type", "none",
        "--artifact-dir", folder / "aiperf",
    ], {}


def inference_perf_requests(url, folder, concurrency, requests):
    # Of its made-up data, only that with shared prefixes is sent as chats.
    prefix = INPUT_TOKENS // 16
    config = {
        "api": {"type": "chat", "streaming": True},
        "data": {
            "type": "shared_prefix",
            "shared_prefix": {
                "num_groups": 1, "num_prompts_per_group": 100, "system_prompt_len": prefix, "question_len": INPUT_TOKENS - prefix, "output_len": OUTPUT_TOKENS,
            },
        },
        "load": {
            "type": "concurrent", "stages": [{"num_requests": requests, "concurrency_level": concurrency}], "num_workers": 1,
            "worker_max_concurrency": concurrency,
        },
        "server": {"type": "vllm", "model_name": "glm-mock", "base_url": url, "ignore_eos": True},
        "tokenizer": {"pretrained_model_name_or_path": str(TOKENIZER)},
        "storage": {"local_storage": {"path": str(folder / "inference-perf")}},
    }
    path = folder / "inference-perf.json"
    path.write_text(json.dumps(config))
    return [TOOLS / "inference-perf" / "bin" / "inference-perf", "-c", path], {"HF_HUB_OFFLINE": "1"}


def oha_requests(url, folder, concurrency, requests):
    body = folder / "body.json"
    message = {"role": "user", "content": " ".join(["word"] * INPUT_TOKENS)}
    body.write_text(json.dumps({"model": "glm-mock", "messages": [message], "max_tokens": OUTPUT_TOKENS, "stream": True}, separators=(",", ":")))
    return [
        "oha", "--no-tui", "-n", requests, "-c", concurrency, "-m", "POST", "-T", "application/json", "-D", body, f"{url}/v1/chat/completions",
    ], {}


def peers():
    """The peers that are installed: name, command line of a closed loop, requests of a small and of a big run."""
    found = []
    for name, requests in (("inference-perf", inference_perf_requests), ("aiperf", aiperf_requests), ("guidellm", guidellm_requests)):
        if (TOOLS / name / "bin" / name).exists():
            found.append((name, requests, 200, 1200))
        else:
            print(f"{name} is not installed: left out")
    return found


class Verdict:
    """Bounds that a bench checks; all of them are printed, and the last word is the exit code."""

    def __init__(self):
        self.broken = []

    def check(self, holds, text):
        print(f"  {'ok  ' if holds else 'FAIL'} {text}", flush=True)
        if not holds:
            self.broken.append(text)

    def end(self):
        if self.broken:
            sys.exit("these bounds do not hold:\n" + "\n".join(f"  {text}" for text in self.broken))
        print("every bound holds")


def require(*programs):
    for program in programs:
        if not pathlib.Path(program).exists() and not shutil.which(str(program)):
            sys.exit(f"{program} is missing: run `tools/setup bench-loadtest`, which needs ../shared/peers/probes/mock beside this repository")
